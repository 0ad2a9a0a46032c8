"""The engine: each change restarts at its block, all changes of a block in one batch, up to the last point read.

The unchanged evaluation is run once, and the streams that enter each changed block are kept. Changes of one block share
a batch with an unchanged copy, so a change that changes nothing has an effect of exactly zero; nothing behind the last
point that a metric reads is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation, Request, count, repeat
from dit_lens.sweeps.changes import Change, Effects, begin, is_behind, last, reaches

STREAMS_PER_CLIP = 40  # a block holds about as many at once: q, k, v, norms, an MLP of four times the width
SHARE = 0.5  # of free memory


@dataclass(frozen=True)
class _Group:
    """Changes of one block, or of none, by their place in the sweep."""

    block: int | None
    places: tuple[int, ...]


@torch.no_grad()
def sweep(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Effects:
    """The effect of each change on each metric.

    Args:
        evaluation: the run that is changed, such as `lens.evaluation(trajectory, step)`.
        metrics: by name.
        clean: what the metrics are bound to beside the unchanged run, the run that patches come from; the unchanged
            run itself unless given.
        batch_size: clips to a forward, counting copies; by half of the free memory unless given.
        progress: the name of a progress bar; none unless given.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: see `changes.begin`.
    """
    blocks = {_block(change) for change in changes}
    entered = [name for block in blocks for name in _entering(lens, block)]
    points = {*entered, *_entering(lens, 0), *(change.point for change in changes)}
    start = begin(lens, evaluation, changes, metrics, clean, points)
    clips = count(evaluation)
    size = batch_size or _affordable(lens, sum(start.cache[name].nbytes for name in _entering(lens, 0)) / clips)
    groups = list(_groups(changes, max(1, size // clips - 1)))
    for group in tqdm(groups, desc=progress, unit="batch", disable=progress is None):
        chosen = [changes[place] for place in group.places]
        live = {name: m for name, m in start.metrics.items() if any(reaches(lens, change, m) for change in chosen)}
        if live:
            found = _of_block(lens, evaluation, group.block, chosen, live, start.cache)
            for name, metric in live.items():
                told = [i for i, change in enumerate(chosen) if reaches(lens, change, metric)]
                start.effects.effect[name][:, [group.places[i] for i in told]] = found[name][:, told].cpu()
    return start.effects


def _of_block(
    lens: DiTLens,
    evaluation: Evaluation,
    block: int | None,
    changes: Sequence[Change],
    metrics: Mapping[str, Readout],
    reference: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Effects (b, change) of changes in one block, from one batch: the unchanged clips, then a copy for each change."""
    copies, entering = 1 + len(changes), _entering(lens, block)
    later = [p for m in metrics.values() for p in m.points if not entering or not is_behind(lens, entering[0], p)]
    edited = {change.point for change in changes}
    stop = None if any(not metric.points for metric in metrics.values()) else last(lens, [*edited, *later])
    functions = {point: _by_copy(point, changes, reference[point]) for point in edited}
    streams = {name: reference[name].repeat(copies, 1, 1) for name in entering}
    request, batch = Request(later, stop_at=stop), repeat(evaluation, copies)
    if block is None:
        velocity, cache = lens.model.run_with(batch, {point: [f] for point, f in functions.items()}, request)
    else:
        velocity, cache = lens.run_suffix(batch, block, streams, functions, request)
    found = {}
    for name, metric in metrics.items():
        unchanged, *changed = (metric(v, {**reference, **c}) for v, c in _copies(velocity, cache, copies))
        found[name] = torch.stack([value - unchanged for value in changed], dim=1)
    return found


def _by_copy(point: str, changes: Sequence[Change], value: Tensor) -> HookFunction:
    """Copy 1 + i takes change i, if it is one of this point.

    An edit is worked out on the unchanged run's own value and put where it differs from it: in a batch of copies the
    same value may differ in its last bit, and what an edit leaves alone must stay as it is there.
    """

    def change(x: Tensor, hook: Hook) -> Tensor:
        copies = x.unflatten(0, (-1, len(value))).clone()
        for copy, one in enumerate(changes, start=1):
            new = one.edit(value, hook) if one.point == point else None
            if new is not None:
                copies[copy] = torch.where(new != value, new, copies[copy])
        return copies.flatten(0, 1)

    return change


def _groups(changes: Sequence[Change], size: int) -> Iterator[_Group]:
    """Changes block by block, at most `size` together."""
    by_block: dict[int | None, list[int]] = {}
    for place, change in enumerate(changes):
        by_block.setdefault(_block(change), []).append(place)
    for block, places in by_block.items():
        yield from (_Group(block, tuple(places[start : start + size])) for start in range(0, len(places), size))


def _block(change: Change) -> int | None:
    """The block that a change restarts at; None where it lies outside of all."""
    return block_of(change.point) if change.point.startswith("blocks.") else None


def _entering(lens: DiTLens, block: int | None) -> list[str]:
    """Names of the points through which a run that restarts at a block begins."""
    return [] if block is None else lens.table.entering(block)


def _affordable(lens: DiTLens, stream: float) -> int:
    """Clips to a forward whose activations fit a share of the free memory, where one has a stream of so many bytes."""
    device = lens.model.members[0].device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, int(SHARE * free / (STREAMS_PER_CLIP * stream)))


def _copies(
    velocity: Tensor | None, cache: Mapping[str, Tensor], copies: int
) -> Iterator[tuple[Tensor | None, Mapping[str, Tensor]]]:
    """Velocity and cache of each copy of the clips."""
    velocities = [None] * copies if velocity is None else velocity.chunk(copies)
    chunks = {name: tensor.chunk(copies) for name, tensor in cache.items()}
    return ((velocities[i], {name: parts[i] for name, parts in chunks.items()}) for i in range(copies))
