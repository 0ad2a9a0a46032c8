"""Running from a block on, with the streams that enter it: earlier blocks are not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from dit_lens.cache import ActivationCache, Anatomy
from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import HookFunction, Table
from dit_lens.inversion import Inversion
from dit_lens.running import Evaluation, Request
from dit_lens.tracing import Prefix


class Restarting(Inversion):
    """The part of `DiTLens` that restarts inside a model.

    Attributes:
        table: the model's hook points.
    """

    table: Table

    @property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.table.blocks)

    def run_suffix(
        self,
        evaluation: Evaluation,
        start: int,
        entering: Mapping[str, Tensor],
        functions: Mapping[str, HookFunction],
        request: Request,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Blocks from `start` on, given the streams that enter it; earlier blocks are not run.

        What sweeps are made of: users have `run_with_cache(..., start_at=, entering=)`.

        Args:
            evaluation: as for the whole model, at the batch size of the streams.
            entering: values of `table.entering(start)`.
            functions: one hook function per point; those of `hooks` do not act here.
            request: its prefix may name a module that is run partly.

        Raises:
            KeyError: a stream is not among those given. ValueError: a cache of another expert than the evaluation
                calls, or a point in a block that is not run.
        """
        velocity, kept = self._from_block(evaluation, start, entering, {n: [f] for n, f in functions.items()}, request)
        return velocity, ActivationCache(kept, self.model.grid(evaluation), self.blocks)

    def _restarted(
        self, evaluation: Evaluation, start: int | None, entering: Mapping[str, Tensor] | None, request: Request
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """An evaluation from a block on, under the hooks that are active."""
        if start is None or entering is None:
            raise TypeError(
                f"got {'streams' if start is None else 'start_at'} alone · expected both start_at= and entering="
            )
        if not -self.blocks <= start < self.blocks:
            raise IndexError(f"got start_at={start} · expected {-self.blocks} to {self.blocks - 1}")
        start %= self.blocks
        asked = [point.name for point in self.table.select(request.names, self.name)]
        names = [name for name in asked if not _lies_before(start, name)]
        if asked and not names:
            raise ValueError(f"got only points of blocks before {start} to keep · expected some from there on")
        functions = self.model.of(evaluation).active.at(evaluation)
        return self._from_block(evaluation, start, entering, functions, replace(request, names=names))

    def _from_block(
        self,
        evaluation: Evaluation,
        start: int,
        entering: Mapping[str, Tensor],
        functions: Mapping[str, Sequence[HookFunction]],
        request: Request,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The streams are what the block before puts out; the first block, which has none before it, is written."""
        needed = self.table.entering(start)
        if missing := [name for name in needed if name not in entering]:
            raise KeyError(f"got no {missing[0]} to enter block {start} with · expected {', '.join(needed)} in a cache")
        if isinstance(entering, ActivationCache):
            self._check_expert(evaluation, entering)
        if skipped := [name for name in (*functions, request.stop_at or "") if _lies_before(start, name)]:
            raise ValueError(f"got {skipped[0]} to visit · expected points from block {start} on, where it is entered")
        streams = {name: entering[name].to(self.model.of(evaluation).device) for name in needed}
        if start == 0:
            functions = {**functions, **{n: [_put(x), *functions.get(n, ())] for n, x in streams.items()}}
        stream = tuple(streams.values()) if len(streams) > 1 else streams[needed[0]]
        prefix = replace(request.prefix or Prefix(), paths=self.table.blocks[:start], stream=stream)
        return self.model.run_with(evaluation, functions, replace(request, prefix=prefix))

    def _check_expert(self, evaluation: Evaluation, entering: ActivationCache) -> None:
        own, other = self._anatomy(evaluation.expert), entering.anatomy
        if own is None or other is None:
            return
        mine, theirs = (next(iter(anatomy.heads.values())).weight for anatomy in (own, other))
        if mine.data_ptr() != theirs.data_ptr():
            raise ValueError(
                f"got streams that another transformer made than the {evaluation.expert or 'one'} of sigma"
                f" {evaluation.sigma:g} · expected blocks before and behind of one · cache them at the same step"
            )

    def _anatomy(self, *experts: str | None) -> Anatomy | None:
        """Of the transformer that was called; None where several were, whose weights differ."""
        called = [member for member in self.model.members if member.expert in experts]
        return Anatomy.of(called[0].transformer, self.table) if len(called) == 1 else None


def _lies_before(start: int, name: str) -> bool:
    """Whether a point lies in a block before `start`."""
    return name.startswith("blocks.") and block_of(name) < start


def _put(stream: Tensor) -> HookFunction:
    return lambda x, hook: stream
