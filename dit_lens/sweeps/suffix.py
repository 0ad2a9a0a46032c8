"""The engine: changes set in at their block, all in one batch with an unchanged copy, up to the last point read.

The unchanged evaluation is run once, and the streams that enter changed blocks are kept. From the first changed block
on copies run together, joined at every later one by those of its changes (`waves`); a change that changes nothing has
an effect of exactly zero. Nothing in front of the first change or behind the last point that a metric reads is run, nor
is self-attention where a head's change can go around it (`outlets`). What is kept spills to disk (`shelf`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from tqdm import tqdm

from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation, count
from dit_lens.sweeps.changes import Beginning, Change, Effects, begin, check, checked, reaches
from dit_lens.sweeps.shelf import Shelf, free_memory, limit_for
from dit_lens.sweeps.waves import Copies, Wave, begins_in, effects_of, entering, plan

STREAMS_PER_CLIP = 40  # a block holds about as many at once: q, k, v, norms, an MLP of four times the width
SHARE = 0.5  # of free memory
# On a CPU: above 32 MiB the C library asks the system for every tensor anew, page by page; an MLP holds four streams.
STREAMS_AT_ONCE, FEWEST = 8 * 2**20, 16


@torch.no_grad()
def sweep(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
    kept_bytes: int | None = None,
) -> Effects:
    """The effect of each change on each metric.

    Args:
        evaluation: the run that is changed, such as `lens.evaluation(trajectory, step)`.
        metrics: by name.
        clean: what the metrics are bound to beside the unchanged run, the run that patches come from; the unchanged
            run itself unless given.
        batch_size: clips to a forward, counting copies; by half of the free memory unless given.
        progress: the name of a progress bar; none unless given.
        kept_bytes: how much of the unchanged run is kept in memory; what comes beyond lies in temporary files. A
            quarter of the free memory unless given.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: see `changes.begin`.
    """
    check(lens, changes)
    device = lens.model.of(evaluation).device
    with Shelf(limit_for(device) if kept_bytes is None else kept_bytes) as shelf:
        names = needed(lens, changes, metrics)
        start = begin(lens, evaluation, changes, metrics, clean, names, shelf.put)
        return sweep_on(lens, evaluation, changes, start, batch_size, progress)


def needed(lens: DiTLens, changes: Sequence[Change], metrics: Mapping[str, Metric]) -> set[str]:
    """Names of the points of the unchanged run that a sweep takes up: where changes lie, and how their blocks begin."""
    read = [checked(metric) for metric in metrics.values()]
    live = [change for change in changes if any(reaches(lens, change, metric) for metric in read)]
    blocks = {0, *(begins_in(change) for change in live)}
    return {*(change.point for change in live), *chain(*(entering(lens, block) for block in blocks))}


def sweep_on(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    start: Beginning,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Effects:
    """The same from an unchanged run on, of which the `needed` activations are known."""
    size = batch_size or affordable(lens, _bytes_of_streams(lens, evaluation, start))
    live = [i for i, change in enumerate(changes) if any(reaches(lens, change, m) for m in start.metrics.values())]
    with tqdm(total=len(live), desc=progress, unit="change", disable=progress is None) as bar:
        for wave in plan(changes, live, max(1, size // count(evaluation) - 1)):
            _fill(lens, evaluation, changes, start, wave, bar)
    return start.effects


def _fill(
    lens: DiTLens, evaluation: Evaluation, changes: Sequence[Change], start: Beginning, wave: Wave, bar: tqdm
) -> None:
    """Runs a wave and writes its effects down."""
    places = [place for join in wave for place in join.places]
    chosen = [changes[place] for place in places]
    live = {name: m for name, m in start.metrics.items() if any(reaches(lens, change, m) for change in chosen)}
    found = effects_of(Copies(lens, evaluation, start.cache, live), wave, changes, bar.update)
    for name, metric in live.items():
        told = [i for i, change in enumerate(chosen) if reaches(lens, change, metric)]
        start.effects.effect[name][:, [places[i] for i in told]] = found[name].cpu()[:, told]


def _bytes_of_streams(lens: DiTLens, evaluation: Evaluation, start: Beginning) -> float:
    """Of one clip."""
    return sum(start.cache[name].nbytes for name in entering(lens, 0)) / count(evaluation)


def affordable(lens: DiTLens, stream: float) -> int:
    """Clips to a forward whose activations fit a share of the free memory, where one has a stream of so many bytes."""
    device = lens.model.members[0].device
    affordable = max(1, int(SHARE * free_memory(device) / (STREAMS_PER_CLIP * stream)))
    return affordable if device.type == "cuda" else min(affordable, max(FEWEST, int(STREAMS_AT_ONCE / stream)))
