"""Hook points: named activations of a model, where in the model they are, and how names are matched.

A family maps each name to one or more `Site`s, places in the stock model where a value can be read or replaced. An edit
is written at the last site; earlier ones are only read, to compute the value (a gate, for example).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor

from dit_lens.arguments import collection
from dit_lens.axes import TokenGrid
from dit_lens.choices import nearest

Port = Literal[
    "inputs", "input", "output", "local", "processor", "processor_local", "attention_inputs", "attention_output"
]
NamesFilter = str | Iterable[str] | Callable[[str], bool]


@dataclass(frozen=True)
class Site:
    """A place in a model: the dotted path of a module ("" for the model itself), and which value of this module.

    `port` is the module's "inputs" (args, kwargs), first "input" or "output"; a "local" variable of its forward, named
    by `label`; or, of an attention module, the call that mixes values inside its processor: "attention_inputs"
    (args, kwargs) and "attention_output", and a variable or call there: "processor_local", named by `label`. The
    "processor" must be read before any of these three.
    """

    path: str
    port: Port
    label: str = ""

    def __str__(self) -> str:
        """Such as "blocks.3.attn1.to_out.0: input" or "blocks.3: local hidden_states"."""
        return f"{self.path or 'the transformer'}: {self.port} {self.label}".rstrip()


@dataclass(frozen=True, eq=False)
class QKV:
    """What an attention mixes: softmax(q kᵀ / sqrt(e) + mask) v = z.

    Attributes:
        q: (b, queries, k, e), as the attention function takes them: after norm and rotary.
        k, v: (b, keys, k, e); in joint attention video keys come before text keys.
        mask: boolean (True is attended to) or additive, of four axes that broadcast to (b, k, queries, keys); or None.
        z: (b, queries, k, e), before any gate of the heads.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    z: Tensor

    def of_queries(self, chosen: slice) -> QKV:
        """The same for some of the queries."""
        mask = self.mask
        if mask is not None and mask.shape[2] > 1:
            mask = mask[:, :, chosen]
        return replace(self, q=self.q[:, chosen], z=self.z[:, chosen], mask=mask)

    def with_keys_rolled(self, shift: int) -> QKV:
        """The same with keys in another order, rolled as by `Tensor.roll`."""
        mask = self.mask
        if mask is not None and mask.shape[3] > 1:
            mask = mask.roll(shift, 3)
        return replace(self, k=self.k.roll(shift, 1), v=self.v.roll(shift, 1), mask=mask)


@dataclass(frozen=True)
class HookPoint:
    """A named activation.

    Attributes:
        name: the name that users give.
        axes: letters of its axes, such as "b n k e".
        sites: the sites it is read from, in forward order; it is written at the last one.
        read: the values at `sites` -> the activation.
        write: (new, old, values at `sites`) -> the new value of the last site; None for a read-only point.
        on_demand: large and derived (a pattern, results by head); only a filter that contains its last part matches.
        qkv: of a pattern: the values at `sites` -> what it is made of, which is small.
    """

    name: str
    axes: str
    sites: tuple[Site, ...]
    read: Callable[..., Any]
    write: Callable[..., Any] | None
    on_demand: bool = False
    qkv: Callable[..., QKV] | None = None

    def without_pattern(self) -> HookPoint:
        """Of a pattern: the point that reads what the pattern is made of in its place.

        Raises:
            TypeError: the point is no pattern.
        """
        if self.qkv is None:
            raise TypeError(f"got {self.name} · expected a pattern, such as blocks.0.attn.hook_pattern")
        return replace(self, read=self.qkv, write=None)

    def matches(self, pattern: str) -> bool:
        """Whether a glob matches this point.

        blocks.0.attn.hook_pattern is on demand: "blocks.0.attn.*" does not match it, "blocks.*.hook_pattern" does.
        """
        return fnmatchcase(self.name, pattern) and (not self.on_demand or self.name.split("_")[-1] in pattern)


@dataclass(frozen=True)
class Final:
    """The layer after the last block: norms, scale and shift by time, a projection, unpatchifying.

    Attributes:
        norms: module paths of the LayerNorms, in order.
        projection: module path of the linear layer.
        token: the axes of the linear layer's output for one token, in order: frames p, rows q, columns r, channels c.
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
        sites: every site that a point uses, in forward order.
        points: by name, in forward order.
        blocks: module paths of the blocks, in forward order.
        absent: globs of names that other models have and this one does not -> the reason.
        streams: short names of the points that are a block's input; their values, in this order, are the output of
            the block before (a tuple if there are several).
        laws: equations inside the model, as read-only points whose value is a stacked pair of equal tensors.
        closing: the law that the last block's stream is the input of the final norm, as such a pair.
        final: the layer after the last block; its scale and shift are the points `final.mod.hook_*`.
        normed_writes: epsilon of the RMS norm between a layer's output and its tanh gate; None where the gate
            multiplies the output itself.
    """

    sites: tuple[Site, ...]
    points: Mapping[str, HookPoint]
    blocks: tuple[str, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ("hook_resid_pre",)
    laws: tuple[HookPoint, ...] = ()
    closing: HookPoint | None = None
    final: Final | None = None
    normed_writes: float | None = None

    def entering(self, block: int) -> list[str]:
        """Names of the points that are the input of a block."""
        return [f"blocks.{block}.{name}" for name in self.streams]

    def select(self, names: NamesFilter, model: str) -> list[HookPoint]:
        """The points that match a name, glob, list of these, or predicate, in forward order.

        Raises:
            KeyError: nothing matches; the message says why a name is absent, or which name is nearest.
            TypeError: a name that is no string.
        """
        if callable(names):
            matches = [point for name, point in self.points.items() if names(name)]
            if not matches:
                raise KeyError(
                    f"got a predicate that no hook point of {model} meets · lens.hook_points() lists them all"
                )
            return matches
        chosen: set[str] = set()
        for pattern in [names] if isinstance(names, str) else collection(names, "hook points", "names"):
            if not isinstance(pattern, str):
                raise TypeError(
                    f"got {pattern!r} as the name of a hook point · expected a name, a glob, a list of these, or a"
                    " predicate · lens.hook_points() lists them all"
                )
            if pattern in self.points:
                chosen.add(pattern)
                continue
            matching_names = [name for name, point in self.points.items() if point.matches(pattern)]
            if not matching_names:
                raise KeyError(self._unknown(pattern, model))
            chosen.update(matching_names)
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
    """The second argument of a hook function: at which point, step and noise level it is called.

    Attributes:
        step: counted from data; None outside a trajectory.
        sigma: the noise level, that of the noisiest clip and token.
        branch: the guidance branch of a pipeline's call, usually "cond" or "uncond"; None outside of pipeline calls,
            and where the branch is unknown.
        expert: the transformer that is called, in a model with several: "high_noise" or "low_noise".
    """

    name: str
    axes: str
    grid: TokenGrid
    step: int | None
    sigma: float
    branch: str | None = None
    expert: str | None = None


HookFunction = Callable[[Tensor, Hook], Tensor | None]
