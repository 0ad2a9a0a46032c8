"""Hooks that are active: on which evaluations they act, in which order, and whether they ever fired."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dit_lens.arguments import integers, strings
from dit_lens.hook_points import Hook, HookFunction, HookPoint
from dit_lens.running.evaluation import Evaluation

Functions = Mapping[str, Sequence[HookFunction]]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


@dataclass(frozen=True)
class Where:
    """Evaluations that hooks act on: at these steps, guidance branches and experts; None: at all."""

    steps: frozenset[int] | None = None
    branches: frozenset[str] | None = None
    experts: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        steps: Iterable[int] | int | None = None,
        branches: Iterable[str] | None = None,
        experts: Iterable[str] | None = None,
    ) -> Where:
        """Of collections; a single step is a collection of it.

        Raises:
            TypeError: a name or a number where a collection of them is due.
        """
        return cls(
            None if steps is None else frozenset(integers(steps, "steps")),
            None if branches is None else frozenset(strings(branches, "branches")),
            None if experts is None else frozenset(strings(experts, "experts")),
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
    branches: set[str | None] = field(default_factory=set)  # of the evaluations that were made; None where not known


# A thread begins with none and an asyncio task with those of the task that made it; of all models, outer first.
_OPEN: ContextVar[tuple[tuple[ActiveHooks, _Hooked], ...]] = ContextVar("open hooks", default=())


class ActiveHooks:
    """Hooks of the contexts that are open in a thread or asyncio task; the experts of a model share them."""

    def __init__(self):
        self._lock, self._users, self._meanwhile = threading.RLock(), 0, ExitStack()

    @property
    def contexts(self) -> list[_Hooked]:
        """Those that are open here, outer first."""
        return [hooked for owner, hooked in _OPEN.get() if owner is self]

    @contextmanager
    def once(self, meanwhile: AbstractContextManager[None]) -> Iterator[None]:
        """A context that is open as long as anyone, on any thread, is inside this block."""
        with self._lock:
            if not self._users:
                self._meanwhile.enter_context(meanwhile)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._meanwhile.close()

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
        _OPEN.set((*_OPEN.get(), (self, hooked)))
        try:
            yield
        finally:
            _OPEN.set(tuple(entry for entry in _OPEN.get() if entry[1] is not hooked))
        if missed := sorted(set(by_name) - fired):
            raise RuntimeError(
                f"got no evaluation that reached {missed[0]} ({len(missed)} in all) · expected every hook to fire"
                " · run, invert, sample or generate inside the block and on its thread, at the steps, branches and"
                f" experts asked for{_unnamed(hooked)}"
            )

    def at(self, evaluation: Evaluation) -> dict[str, list[HookFunction]]:
        """The functions that act on an evaluation, by point."""
        functions: dict[str, list[HookFunction]] = {}
        for hooked in self.contexts:
            hooked.branches.update(evaluation.branches or (None,))
            if hooked.where.covers(evaluation):
                for name, hook_functions in hooked.functions.items():
                    by_branch = (_by_branch(f, evaluation.branches, hooked.where.branches) for f in hook_functions)
                    functions.setdefault(name, []).extend(by_branch)
        return functions


def called(function: HookFunction, old: Tensor, hook: Hook, point: HookPoint) -> Tensor:
    """What a hook makes of an activation, which is the same object where it leaves it as it is."""
    new = _outcome(function, old, hook)
    if new is old:
        return old
    if point.write is None:
        raise TypeError(f"got a new value for {point.name} · expected None, it can only be read · edit hook_velocity")
    return _checked(new, old, hook).to(old.dtype)


def _outcome(function: HookFunction, old: Tensor, hook: Hook) -> Any:
    """What a hook returns, or wrote into the copy it was given; the same object where it did neither.

    The bits are compared, for torch's count of writes misses those through `.data` and numpy, and there is none in
    inference mode.
    """
    copy = old.clone()
    new = function(copy, hook)
    if new is not None:
        return new
    return old if _same_bits(copy, old) else copy


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit: NaN is itself, and 0 is not -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = BITS[a.itemsize]
    return torch.equal(a.detach().view(bits), b.detach().view(bits))


def _checked(new: object, old: Tensor, hook: Hook) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"got {got} from a hook at {hook.name} · expected a tensor of {tuple(old.shape)} or None")
    return new


def _unnamed(hooked: _Hooked) -> str:
    """The reason why no branch was met, where it is that no evaluation was known to be of one."""
    if hooked.where.branches is None or hooked.branches != {None}:
        return ""
    return (
        "; no evaluation here was known to be of a branch: a pipeline's are where it names them (cache_context), and"
        " those of invert, sample and run under guidance"
    )


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
                new = _outcome(function, part, replace(hook, branch=branch))
                if new is not part:
                    parts[index], changed = _checked(new, part, hook).to(part.dtype), True
        return torch.cat(parts) if changed else None

    return call
