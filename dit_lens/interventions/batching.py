"""Batches of edited copies, each of which joins at the first block that it edits, with one unchanged copy.

A worked example: head edits a (block 1), b and c (both block 2) of one clip, in a model of four blocks.

    block 1   [unchanged, a]               a starts from the unchanged input of block 1
    block 2   [unchanged, a, b, c]         b and c start from the unchanged copy's stream in this batch
    block 3   [unchanged, a, b, c]         the end: effect of a = metric(a) - metric(unchanged)

Block 0 does not run. Since b starts from a row of the same batch, a copy whose edit changes nothing ends like the
unchanged copy, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions.bypass import AttentionBypass
from dit_lens.interventions.effects import first, is_after, is_seen, last
from dit_lens.interventions.intervention import Intervention
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request, count, repeat
from dit_lens.running.active import called
from dit_lens.tracing import Prefix


@dataclass(frozen=True)
class Join:
    """Interventions whose first edit lies in one block (None: outside of all), by their index in the sweep."""

    block: int | None
    indices: tuple[int, ...]


Batch = tuple[Join, ...]


def plan(lens: DiTLens, interventions: Mapping[int, Intervention], size: int) -> Iterator[Batch]:
    """Batches of at most `size` interventions, sorted by first block; those that begin outside of blocks come apart.

    Args:
        interventions: by index in the sweep.
    """
    blocks = {index: first_block(lens, intervention) for index, intervention in interventions.items()}
    outside = [index for index, block in blocks.items() if block is None]
    inside = sorted((index for index in blocks if blocks[index] is not None), key=lambda index: blocks[index] or 0)
    for group in (outside, inside):
        for start in range(0, len(group), size):
            joins = groupby(group[start : start + size], key=lambda index: blocks[index])
            yield tuple(Join(block, tuple(indices)) for block, indices in joins)


def first_block(lens: DiTLens, intervention: Intervention) -> int | None:
    """The block of the first edit in forward order; None for an edit outside of blocks, or no edits."""
    if not intervention.edits:
        return None
    point = first(lens, intervention.points)
    return block_of(point) if point.startswith("blocks.") else None


def entering(lens: DiTLens, block: int | None) -> list[str]:
    """Names of the points that are the input of a run that starts at a block."""
    return [] if block is None else lens.table.entering(block)


@dataclass(eq=False)
class Copies:
    """Copies of the clips in one batch: the unchanged one, then one for each intervention in the order of joining.

    Attributes:
        evaluation: the evaluation of the clips alone.
        reference: activations of the unchanged run, on any device.
        metrics: metrics bound to a pair of runs.
        joined: the intervention of copy 1, of copy 2 and so on.
        streams: the output of the last block that has run, with all copies in one batch.
        values: by point that a metric reads, its value for each copy that had joined by then.
        velocity: the velocity of each copy, if the model ran to its end.
        moved: by copy, the clips (b,) that its edits have changed so far; copies without any change are left out.
    """

    lens: DiTLens
    evaluation: Evaluation
    reference: Mapping[str, Tensor]
    metrics: Mapping[str, Readout]
    joined: list[Intervention] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    values: dict[str, Sequence[Tensor]] = field(default_factory=dict)
    velocity: Sequence[Tensor] | None = None
    moved: dict[int, Tensor] = field(default_factory=dict)

    def advance(self, block: int | None, joining: Sequence[Intervention], until: int | None) -> None:
        """Adds copies at a block and runs all of them up to the block `until`, or to the metrics if it is None."""
        begin, end = entering(self.lens, block), entering(self.lens, until)
        streams = dict(zip(begin, self._with_copies(begin, len(joining)), strict=True))
        reads = [point for point in self._read() if self._lies_between(point, begin, end)]
        earlier, partly = {*self._edited(begin, end)}, None
        self.joined += joining
        edited = {*self._edited(begin, end)}
        if bypass := AttentionBypass.in_block(self.lens, self.evaluation, block):
            new = [point for intervention in joining for point in intervention.points if point in edited]
            if bypass.serves(self.lens, new, [*earlier, *reads]):
                partly = bypass.around(self.lens, self.evaluation, self.joined, joining, self.reference, self.moved)
                edited.discard(bypass.z)
        functions = {point: self._by_copy(point) for point in edited}
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
        copies = 1 + len(self.joined)
        batch = repeat(self.evaluation, copies)
        if block is None:
            velocity, cache = self.lens.model.run_with(batch, {n: [f] for n, f in functions.items()}, request)
        else:
            velocity, cache = self.lens.model.run_suffix(batch, block, streams, functions, request)
        self.values |= {name: cache[name].chunk(copies) for name in reads}
        self.streams = [cache[name] for name in end]
        self.velocity = None if velocity is None else velocity.chunk(copies)

    def effects(self) -> dict[str, Tensor]:
        """Effects (b, intervention, ...) by metric: each copy's value minus that of the unchanged one.

        Kernels may round the last rows of a batch differently: where an edit changed nothing, the effect is set to 0.
        """
        effects = {}
        for name, metric in self.metrics.items():
            unchanged, *edited = (metric(*self._run_of(copy)) for copy in range(1 + len(self.joined)))
            effect = [self._where_moved(value - unchanged, copy) for copy, value in enumerate(edited, start=1)]
            effects[name] = torch.stack(effect, dim=1)
        return effects

    def _where_moved(self, effect: Tensor, copy: int) -> Tensor:
        if copy not in self.moved:
            return torch.zeros_like(effect)
        return torch.where(_per_clip(self.moved[copy], effect), effect, 0)

    def _run_of(self, copy: int) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """Velocity and activations of a copy; those from before it joined are the unchanged copy's."""
        values = {name: copies[copy if copy < len(copies) else 0] for name, copies in self.values.items()}
        return None if self.velocity is None else self.velocity[copy], {**self.reference, **values}

    def _with_copies(self, begin: Sequence[str], new: int) -> Iterator[Tensor]:
        """The input streams of a block, with so many new copies appended."""
        clips, device = count(self.evaluation), self.lens.model.of(self.evaluation).device
        for stream in self.streams or [self.reference[name].to(device) for name in begin]:
            yield torch.cat([stream, stream[:clips].repeat(new, 1, 1)])

    def _read(self) -> list[str]:
        names = {name for metric in self.metrics.values() for name in metric.points}
        return [point.name for point in self.lens.table.select(sorted(names), self.lens.name)] if names else []

    def _edited(self, begin: Sequence[str], end: Sequence[str]) -> list[str]:
        """Points between two blocks that some copy edits and that can change a metric."""
        points = {point for intervention in self.joined for point in intervention.points}
        relevant = (p for p in points if any(is_seen(self.lens, p, metric) for metric in self.metrics.values()))
        return [point for point in relevant if self._lies_between(point, begin, end)]

    def _lies_between(self, point: str, begin: Sequence[str], end: Sequence[str]) -> bool:
        """Whether a run from one block to another visits a point."""
        too_early = begin and is_after(self.lens, begin[0], point)
        return not too_early and (not end or is_after(self.lens, end[0], point))

    def _by_copy(self, point: str) -> HookFunction:
        """The hook function that edits each copy's rows of the batch.

        While a clip of a copy is unchanged so far, an edit is applied to the value of the unchanged run, and only the
        elements that the edit changes are written into the batch: in a batch of copies an equal value may differ in its
        last bit. Once an earlier edit has changed the clip, the copy's own value is edited.

        Example: the unchanged run has (1.0, 2.0), the copy in the batch (1.0, 2.0000002). An edit that zeroes the first
        element gives (0.0, 2.0), which differs in the first element only; the copy becomes (0.0, 2.0000002).
        """
        value = self.reference[point].to(self.lens.model.of(self.evaluation).device)
        edits = [(copy, intervention.edits_at(point)) for copy, intervention in enumerate(self.joined, start=1)]

        def edit(x: Tensor, hook: Hook) -> Tensor:
            copies = x.unflatten(0, (-1, len(value))).clone()
            for copy, functions in ((copy, functions) for copy, functions in edits if functions):
                moved = self.moved.get(copy)
                old = value if moved is None else torch.where(_per_clip(moved, value), copies[copy], value)
                new = edited_by(functions, old, hook, self.lens)
                if new is not old:
                    differs = new != old
                    now = differs.flatten(1).any(1)
                    self.moved[copy] = now if moved is None else moved | now
                    copies[copy] = torch.where(differs, new, copies[copy])
            return copies.flatten(0, 1)

        return edit


def edited_by(functions: Sequence[HookFunction], old: Tensor, hook: Hook, lens: DiTLens) -> Tensor:
    """An activation after several edits in turn; the same tensor object if none of them returns another."""
    for function in functions:
        old = called(function, old, hook, lens.table.points[hook.name])
    return old


def _per_clip(moved: Tensor, like: Tensor) -> Tensor:
    """A tensor (b,) with axes added so that it broadcasts to a tensor of clips."""
    return moved.view(-1, *[1] * (like.ndim - 1))


def effects_of(
    copies: Copies, batch: Batch, interventions: Mapping[int, Intervention], advanced: Callable[[int], object]
) -> dict[str, Tensor]:
    """Effects (b, intervention, ...) of a batch's interventions by metric, in the order of joining.

    Args:
        advanced: called with the number of interventions that joined, after each part of the model.
    """
    for join, following in zip(batch, (*batch[1:], None), strict=True):
        joining = [interventions[index] for index in join.indices]
        copies.advance(join.block, joining, following.block if following else None)
        advanced(len(joining))
    return copies.effects()
