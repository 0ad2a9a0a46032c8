"""The engine of exact sweeps: edited copies of the clips run in one batch with an unchanged copy.

The unchanged evaluation runs once, and the inputs of edited blocks are cached. From the first edited block on, copies
run together; at each later block, those that are first edited there join (`batching`). An intervention that changes
nothing has an effect of exactly zero. Nothing before the first edit or after the last point that a metric reads runs
for the copies, and self-attention does not run for edits of z (`bypass`). Cached activations may spill to disk
(`spill`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from tqdm import tqdm

from dit_lens.interventions.batching import Batch, Copies, effects_of, entering, first_block, plan
from dit_lens.interventions.effects import Effects, Unchanged, can_move, checked, is_seen, unchanged
from dit_lens.interventions.intervention import Intervention
from dit_lens.interventions.spill import SpillStore, free_memory, limit_for
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation, count

STREAMS_PER_CLIP = 40  # tensors of a stream's size that a block holds at once: q, k, v, norms, an MLP of 4x width
SHARE = 0.5  # of free memory
# On a CPU: above 32 MiB the C library asks the system for every tensor again, page by page; an MLP holds four streams.
STREAMS_AT_ONCE, FEWEST = 8 * 2**20, 16


def sweep_exactly(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None,
    batch_size: int | None = None,
    progress: bool = False,
    kept_bytes: int | None = None,
) -> Effects:
    """The effects of resolved interventions, by the engine; arguments as for `sweep`."""
    device = lens.model.of(evaluation).device
    with SpillStore(limit_for(device) if kept_bytes is None else kept_bytes) as spill:
        names = needed(lens, interventions, metrics)
        start = unchanged(lens, evaluation, interventions, metrics, clean, names, spill.keep)
        return sweep_from(lens, evaluation, interventions, start, batch_size, progress)


def needed(lens: DiTLens, interventions: Sequence[Intervention], metrics: Mapping[str, Metric]) -> set[str]:
    """Names of the points of the unchanged run that a sweep needs: edited points, and inputs of their blocks."""
    read = [checked(metric) for metric in metrics.values()]
    live = [
        intervention for intervention in interventions if any(can_move(lens, intervention, metric) for metric in read)
    ]
    candidates = {point for intervention in live for point in intervention.points}
    points = {point for point in candidates if any(is_seen(lens, point, metric) for metric in read)}
    blocks = {0, *(first_block(lens, intervention) for intervention in live)}
    return {*points, *chain(*(entering(lens, block) for block in blocks))}


def sweep_from(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    start: Unchanged,
    batch_size: int | None = None,
    progress: bool = False,
) -> Effects:
    """The effects of resolved interventions, from an unchanged run that has the `needed` activations."""
    size = batch_size or affordable(lens, _bytes_of_streams(lens, evaluation, start))
    live = {
        index: intervention
        for index, intervention in enumerate(interventions)
        if any(can_move(lens, intervention, metric) for metric in start.metrics.values())
    }
    with tqdm(total=len(live), desc="interventions", unit="intervention", disable=not progress) as bar:
        for batch in plan(lens, live, max(1, size // count(evaluation) - 1)):
            _run_batch(lens, evaluation, live, start, batch, bar)
    return start.effects


def _run_batch(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Mapping[int, Intervention],
    start: Unchanged,
    batch: Batch,
    bar: tqdm,
) -> None:
    """Runs a batch and writes its effects into `start.effects`."""
    indices = [index for join in batch for index in join.indices]
    chosen = [interventions[index] for index in indices]
    live = {name: m for name, m in start.metrics.items() if any(can_move(lens, edited, m) for edited in chosen)}
    effects = effects_of(Copies(lens, evaluation, start.cache, live), batch, interventions, bar.update)
    for name, metric in live.items():
        moving = [i for i, intervention in enumerate(chosen) if can_move(lens, intervention, metric)]
        start.effects.effect[name][:, [indices[i] for i in moving]] = effects[name].cpu()[:, moving]


def _bytes_of_streams(lens: DiTLens, evaluation: Evaluation, start: Unchanged) -> float:
    """Bytes of the input streams of one clip."""
    return sum(start.cache[name].nbytes for name in entering(lens, 0)) / count(evaluation)


def affordable(lens: DiTLens, stream: float) -> int:
    """The batch size whose activations fit into a share of the free memory, for a stream of so many bytes per clip."""
    device = lens.model.members[0].device
    affordable = max(1, int(SHARE * free_memory(device) / (STREAMS_PER_CLIP * stream)))
    return affordable if device.type == "cuda" else min(affordable, max(FEWEST, int(STREAMS_AT_ONCE / stream)))
