"""The vocabulary: what a hook point is, and how names are matched.

A family spells each name as one or more `Site`s, places in the stock model where a value passes. The last site is
where the value can be replaced; earlier ones are read to work it out (a gate, say).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.choices import nearest

Port = Literal[
    "inputs", "input", "output", "local", "processor", "processor_local", "attention_inputs", "attention_output"
]
NamesFilter = str | Iterable[str] | Callable[[str], bool]


@dataclass(frozen=True)
class Site:
    """A place in a model, by the dotted path of a module ("" for the model itself) and what of it is meant.

    `port` is the module's "inputs" (args, kwargs), first "input" or "output"; a "local" variable of its forward, named
    by `label`; or, of an attention module, the call that mixes values inside its processor: "attention_inputs"
    (args, kwargs) and "attention_output", and a variable or call there: "processor_local", named by `label`. Who asks
    for one of these three asks for the "processor" first.
    """

    path: str
    port: Port
    label: str = ""

    def __str__(self) -> str:
        """Such as "blocks.3.attn1.to_out.0: input" or "blocks.3: local hidden_states"."""
        return f"{self.path or 'the transformer'}: {self.port} {self.label}".rstrip()


@dataclass(frozen=True)
class HookPoint:
    """A named activation.

    Attributes:
        name: as users type it.
        axes: letters of its axes, such as "b n k e".
        sites: where it is found, in forward order; it is written at the last one.
        read: the values at `sites` -> the activation.
        write: (new, old, values at `sites`) -> what to put at the last site; None for a point that can only be read.
        on_demand: large and derived (a pattern, results by head); only a filter that says its last part matches it.
    """

    name: str
    axes: str
    sites: tuple[Site, ...]
    read: Callable[..., Tensor]
    write: Callable[..., Any] | None
    on_demand: bool = False

    def matches(self, pattern: str) -> bool:
        """Whether a glob asks for this point."""
        return fnmatchcase(self.name, pattern) and (not self.on_demand or self.name.split("_")[-1] in pattern)


@dataclass(frozen=True)
class Final:
    """What a model makes of its last stream: norms, a scale and shift by time, a projection, patches put together.

    Attributes:
        norms: module paths of the LayerNorms, in order.
        projection: module path of the linear layer.
        token: parts of what the linear layer puts out for a token, in order: frames p, rows q, columns r, channels c.
        patch: sizes of p, q and r.
    """

    norms: tuple[str, ...]
    projection: str
    token: str
    patch: tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """All hook points of a model.

    Attributes:
        sites: every place that a point uses, in forward order.
        points: by name, in forward order.
        blocks: module paths of the blocks, in the order in which they are run.
        absent: why a name of the vocabulary is absent.
        streams: short names of the points through which a block is entered; their values, in this order, are what
            the block before puts out (a tuple where there are several).
        laws: what must hold inside the model, as read-only points whose value is a stacked pair of equal tensors.
        final: what follows the last block; its scale and shift are the points `final.mod.hook_*`.
        normed_writes: epsilon of the RMS norm that a layer's output passes before its gate, which is a tanh then;
            None where the gate multiplies the output itself.
    """

    sites: tuple[Site, ...]
    points: Mapping[str, HookPoint]
    blocks: tuple[str, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ("hook_resid_pre",)
    laws: tuple[HookPoint, ...] = ()
    final: Final | None = None
    normed_writes: float | None = None

    def entering(self, block: int) -> list[str]:
        """Names of the points through which a block is entered."""
        return [f"blocks.{block}.{name}" for name in self.streams]

    def select(self, names: NamesFilter, model: str) -> list[HookPoint]:
        """The points that a name, glob, list of these, or predicate asks for, in forward order.

        Raises:
            KeyError: nothing matches; says why it is absent or which name is nearest.
        """
        if callable(names):
            found = [point for name, point in self.points.items() if names(name)]
            if not found:
                raise KeyError(
                    f"got a predicate that no hook point of {model} meets · lens.hook_points() lists them all"
                )
            return found
        chosen: set[str] = set()
        for pattern in [names] if isinstance(names, str) else names:
            if pattern in self.points:
                chosen.add(pattern)
                continue
            found = [name for name, point in self.points.items() if point.matches(pattern)]
            if not found:
                raise KeyError(self._unknown(pattern, model))
            chosen.update(found)
        return [point for name, point in self.points.items() if name in chosen]

    def _unknown(self, pattern: str, model: str) -> str:
        for name, reason in self.absent.items():
            if fnmatchcase(pattern, name) or fnmatchcase(name, pattern):
                return f"hook point {pattern!r} is absent in {model}: {reason}"
        return (
            f"no hook point {pattern!r} in {model}{nearest(pattern, self.points)} · lens.hook_points() lists them all"
        )


@dataclass(frozen=True)
class Hook:
    """What a hook function is told beside the tensor: where and when it is called.

    Attributes:
        step: counted from data; None outside a trajectory.
        sigma: the noise level, that of the noisiest clip and token.
        branch: the guidance branch that a pipeline calls for, "cond" or "uncond" mostly; None outside of its calls, and
            where it does not tell.
        expert: which transformer is called, where a model has several: "high_noise" or "low_noise".
    """

    name: str
    axes: str
    grid: TokenGrid
    step: int | None
    sigma: float
    branch: str | None = None
    expert: str | None = None


HookFunction = Callable[[Tensor, Hook], Tensor | None]
