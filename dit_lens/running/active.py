"""Hooks that are active: on which evaluations they act, in which order, and whether they ever fired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dit_lens.hook_points import Hook, HookFunction, HookPoint
from dit_lens.running.evaluation import Evaluation

Functions = Mapping[str, Sequence[HookFunction]]


@dataclass(frozen=True)
class Where:
    """Evaluations that hooks act on: at these steps, guidance branches and experts; None: at all."""

    steps: frozenset[int] | None = None
    branches: frozenset[str] | None = None
    experts: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        steps: Iterable[int] | None = None,
        branches: Iterable[str] | None = None,
        experts: Iterable[str] | None = None,
    ) -> Where:
        """Of collections.

        Raises:
            TypeError: a name where a collection of names is due.
        """
        for names in (branches, experts):
            if isinstance(names, str):
                raise TypeError(f"got {names!r} · expected a collection of names, such as ({names!r},)")
        return cls(
            None if steps is None else frozenset(steps),
            None if branches is None else frozenset(branches),
            None if experts is None else frozenset(experts),
        )

    def covers(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation, or a branch of its batch, is meant."""
        return (
            (self.steps is None or evaluation.step in self.steps)
            and (self.experts is None or evaluation.expert in self.experts)
            and (self.branches is None or not self.branches.isdisjoint(evaluation.branches))
        )


@dataclass(frozen=True)
class _Hooked:
    functions: Functions
    where: Where


@dataclass
class ActiveHooks:
    """Hooks of the contexts that are open, outer first; the experts of a model share them."""

    contexts: list[_Hooked] = field(default_factory=list)

    @contextmanager
    def adding(self, functions: Sequence[tuple[Sequence[HookPoint], HookFunction]], where: Where) -> Iterator[None]:
        """The given functions at their points.

        Raises:
            RuntimeError: a point was never reached.
        """
        fired: set[str] = set()
        by_name: dict[str, list[HookFunction]] = {}
        for points, function in functions:
            for point in points:
                by_name.setdefault(point.name, []).append(_recorded(function, fired))
        hooked = _Hooked(by_name, where)
        self.contexts.append(hooked)
        try:
            yield
        finally:
            self.contexts.remove(hooked)
        if missed := sorted(set(by_name) - fired):
            raise RuntimeError(
                f"got no evaluation that reached {missed[0]} ({len(missed)} in all) · expected every hook to fire"
                " · run, invert, sample or generate inside the block, at the steps, branches and experts asked for"
            )

    def at(self, evaluation: Evaluation) -> dict[str, list[HookFunction]]:
        """The functions that act on an evaluation, by point."""
        functions: dict[str, list[HookFunction]] = {}
        for hooked in self.contexts:
            if hooked.where.covers(evaluation):
                for name, own in hooked.functions.items():
                    by_branch = (_by_branch(f, evaluation.branches, hooked.where.branches) for f in own)
                    functions.setdefault(name, []).extend(by_branch)
        return functions


def called(function: HookFunction, old: Tensor, hook: Hook, point: HookPoint) -> Tensor:
    """What a hook makes of an activation: what it returns, or what it wrote into the copy it was given."""
    given = old.clone()
    unwritten = given._version
    new = function(given, hook)
    if new is None:
        new = given if given._version != unwritten else old
    if new is old:
        return old
    if point.write is None:
        raise TypeError(f"got a new value for {point.name} · expected None, it can only be read · edit hook_velocity")
    return _checked(new, old, hook).to(old.dtype)


def _checked(new: object, old: Tensor, hook: Hook) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"got {got} from a hook at {hook.name} · expected a tensor of {tuple(old.shape)} or None")
    return new


def _recorded(function: HookFunction, fired: set[str]) -> HookFunction:
    def call(x: Tensor, hook: Hook) -> Tensor | None:
        fired.add(hook.name)
        return function(x, hook)

    return call


def _by_branch(function: HookFunction, branches: tuple[str, ...], wanted: frozenset[str] | None) -> HookFunction:
    """The function on each (wanted) branch of a batch that holds several, by itself."""
    if len(branches) < 2:
        return function

    def call(x: Tensor, hook: Hook) -> Tensor | None:
        if len(x) % len(branches):
            raise ValueError(
                f"got {hook.name} for {len(x)} clips of a batch of branches {', '.join(branches)}"
                " · expected a part for each · hook a point that every clip has its own value of"
            )
        parts = list(x.chunk(len(branches)))
        changed = False
        for index, (branch, part) in enumerate(zip(branches, parts, strict=True)):
            if wanted is None or branch in wanted:
                new = function(part, replace(hook, branch=branch))
                if new is not None and new is not part:
                    parts[index], changed = _checked(new, part, hook).to(part.dtype), True
        return torch.cat(parts) if changed else None

    return call
