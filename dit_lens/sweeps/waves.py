"""Waves: copies of the clips on their way through the blocks, which more of them join at every changed block.

The unchanged copy sets out first. At a block where changes begin, a copy for each of them takes the unchanged stream as
it stands there in the very same batch, and all run on together; so one unchanged copy serves the changes of all blocks,
and one that changes nothing ends where the unchanged one does, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request, count, repeat
from dit_lens.running.active import called
from dit_lens.sweeps.changes import Change, is_behind, last
from dit_lens.sweeps.outlets import Outlet
from dit_lens.tracing import Prefix


@dataclass(frozen=True)
class Join:
    """Changes that begin in one block (None: outside of all), by their place in the sweep."""

    block: int | None
    places: tuple[int, ...]


Wave = tuple[Join, ...]


def plan(changes: Sequence[Change], places: Sequence[int], size: int) -> Iterator[Wave]:
    """The changes at these places, block by block, at most `size` to a wave; those outside of blocks by themselves."""

    def block(place: int) -> int:
        return -1 if (found := begins_in(changes[place])) is None else found

    ordered = sorted(places, key=block)
    outside = [place for place in ordered if block(place) < 0]
    for group in (outside, ordered[len(outside) :]):
        for first in range(0, len(group), size):
            joins = groupby(group[first : first + size], key=block)
            yield tuple(Join(None if at < 0 else at, tuple(own)) for at, own in joins)


def begins_in(change: Change) -> int | None:
    """The block that a change begins in; None where it lies outside of all."""
    return block_of(change.point) if change.point.startswith("blocks.") else None


def entering(lens: DiTLens, block: int | None) -> list[str]:
    """Names of the points through which a run that restarts at a block begins."""
    return [] if block is None else lens.table.entering(block)


@dataclass(eq=False)
class Copies:
    """Copies of the clips in one batch: the unchanged one, then one for each change in the order in which they join.

    Attributes:
        evaluation: of the clips alone.
        reference: activations of the unchanged run, wherever they are kept.
        metrics: bound to a pair of runs.
        streams: what leaves the last block that was run, all copies in one batch.
        seen: by point that a metric reads, its value for each copy that had joined by then.
        velocity: for each copy, if the model was run to its end.
        moved: by copy, for which clips (b,) its change makes any difference; on none where a copy is left out.
    """

    lens: DiTLens
    evaluation: Evaluation
    reference: Mapping[str, Tensor]
    metrics: Mapping[str, Readout]
    number: int = 1
    streams: list[Tensor] = field(default_factory=list)
    seen: dict[str, Sequence[Tensor]] = field(default_factory=dict)
    velocity: Sequence[Tensor] | None = None
    moved: dict[int, Tensor] = field(default_factory=dict)

    def advance(self, block: int | None, changes: Sequence[Change], until: int | None) -> None:
        """Lets changes join at a block and runs all copies up to the block `until`; None: up to the metrics."""
        begin, end = entering(self.lens, block), entering(self.lens, until)
        before, self.number = self.number, self.number + len(changes)
        streams = dict(zip(begin, self._joined(begin, len(changes)), strict=True))
        reads = [point for point in self._read() if self._lies_between(point, begin, end)]
        edited, partly = {change.point for change in changes}, None
        if (outlet := Outlet.of(self.lens, self.evaluation, block)) and outlet.passes(self.lens, changes, reads):
            partly = outlet.around(self.lens, self.evaluation, changes, before, self.reference, self.moved)
            edited.discard(outlet.z)
        functions = {point: self._by_copy(point, changes, before) for point in edited}
        to_the_end = until is None and not all(metric.points for metric in self.metrics.values())
        stop = None if to_the_end else last(self.lens, [*edited, *reads, *end])
        self._run(block, streams, functions, Request([*reads, *end], None, stop, Prefix(partly=partly)), reads, end)

    def _run(
        self,
        block: int | None,
        streams: Mapping[str, Tensor],
        functions: Mapping[str, HookFunction],
        request: Request,
        reads: Sequence[str],
        end: Sequence[str],
    ) -> None:
        batch = repeat(self.evaluation, self.number)
        if block is None:
            velocity, cache = self.lens.model.run_with(batch, {n: [f] for n, f in functions.items()}, request)
        else:
            velocity, cache = self.lens.run_suffix(batch, block, streams, functions, request)
        self.seen |= {name: cache[name].chunk(self.number) for name in reads}
        self.streams = [cache[name] for name in end]
        self.velocity = None if velocity is None else velocity.chunk(self.number)

    def effects(self) -> dict[str, Tensor]:
        """By metric (b, change, ...): each copy's value less that of the unchanged one.

        Kernels may round the last rows of a batch otherwise than the first: where nothing was changed, zero is put.
        """
        found = {}
        for name, metric in self.metrics.items():
            unchanged, *changed = (metric(*self._of(copy)) for copy in range(self.number))
            effect = [self._where_moved(value - unchanged, copy) for copy, value in enumerate(changed, start=1)]
            found[name] = torch.stack(effect, dim=1)
        return found

    def _where_moved(self, effect: Tensor, copy: int) -> Tensor:
        if copy not in self.moved:
            return torch.zeros_like(effect)
        return torch.where(self.moved[copy].view(-1, *[1] * (effect.ndim - 1)), effect, 0)

    def _of(self, copy: int) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """Velocity and activations of a copy; before it joined they are the unchanged one's."""
        seen = {name: values[copy if copy < len(values) else 0] for name, values in self.seen.items()}
        return None if self.velocity is None else self.velocity[copy], {**self.reference, **seen}

    def _joined(self, begin: Sequence[str], new: int) -> Iterator[Tensor]:
        """The streams that enter a block, with those of so many new copies."""
        clips, device = count(self.evaluation), self.lens.model.of(self.evaluation).device
        for stream in self.streams or [self.reference[name].to(device) for name in begin]:
            yield torch.cat([stream, stream[:clips].repeat(new, 1, 1)])

    def _read(self) -> list[str]:
        names = {name for metric in self.metrics.values() for name in metric.points}
        return [point.name for point in self.lens.table.select(sorted(names), self.lens.name)] if names else []

    def _lies_between(self, point: str, begin: Sequence[str], end: Sequence[str]) -> bool:
        """Whether a point is met by a run from one block to another."""
        too_early = begin and is_behind(self.lens, begin[0], point)
        return not too_early and (not end or is_behind(self.lens, end[0], point))

    def _by_copy(self, point: str, changes: Sequence[Change], first: int) -> HookFunction:
        """Copy `first` + i takes change i, if it is one of this point.

        An edit is worked out on the unchanged run's own value and put where it differs from it: in a batch of copies
        the same value may differ in its last bit, and what an edit leaves alone must stay as it is there.
        """
        value = self.reference[point].to(self.lens.model.of(self.evaluation).device)

        def change(x: Tensor, hook: Hook) -> Tensor:
            copies = x.unflatten(0, (-1, len(value))).clone()
            for copy, one in enumerate(changes, start=first):
                new = called(one.edit, value, hook, self.lens.table.points[point]) if one.point == point else value
                if new is not value:
                    self.moved[copy] = (new != value).flatten(1).any(1)
                    copies[copy] = torch.where(new != value, new, copies[copy])
            return copies.flatten(0, 1)

        return change


def effects_of(
    copies: Copies, wave: Wave, changes: Sequence[Change], advanced: Callable[[int], object]
) -> dict[str, Tensor]:
    """Effects (b, change, ...) of a wave's changes by metric, in the order in which they join.

    Args:
        advanced: called with the number of changes that set in, after each part of the way.
    """
    for join, behind in zip(wave, (*wave[1:], None), strict=True):
        copies.advance(join.block, [changes[place] for place in join.places], behind.block if behind else None)
        advanced(len(join.places))
    return copies.effects()
