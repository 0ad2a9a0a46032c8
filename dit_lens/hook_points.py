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

Port = Literal["inputs", "input", "output", "local"]
NamesFilter = str | Iterable[str] | Callable[[str], bool]


@dataclass(frozen=True)
class Site:
    """A place in a model: a module's inputs (args, kwargs), first input or output, or a local variable of its forward.

    `path` is the module's dotted path ("" for the model itself); `label` names the local variable.
    """

    path: str
    port: Port
    label: str = ""


@dataclass(frozen=True)
class HookPoint:
    """A named activation.

    Attributes:
        name: as users type it.
        axes: letters of its axes, such as "b n k e".
        sites: where it is found, in forward order; it is written at the last one.
        read: the values at `sites` -> the activation.
        write: (new, old, values at `sites`) -> what to put at the last site; None for a point that can only be read.
    """

    name: str
    axes: str
    sites: tuple[Site, ...]
    read: Callable[..., Tensor]
    write: Callable[..., Any] | None


@dataclass(frozen=True)
class Table:
    """All hook points of a model, its sites in forward order, and why a name of the vocabulary is absent."""

    sites: tuple[Site, ...]
    points: Mapping[str, HookPoint]
    absent: Mapping[str, str] = field(default_factory=dict)

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
            found = [name for name in self.points if fnmatchcase(name, pattern)]
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

    `step` is None outside a trajectory; `sigma` is the first clip's noise level.
    """

    name: str
    axes: str
    grid: TokenGrid
    step: int | None
    sigma: float


HookFunction = Callable[[Tensor, Hook], Tensor | None]
