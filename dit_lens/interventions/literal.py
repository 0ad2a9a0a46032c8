"""The reference implementation: one full forward per intervention; the engine is tested against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dit_lens.interventions.effects import Effects, can_move, run, unchanged
from dit_lens.interventions.intervention import Intervention
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation


def sweep_literally(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None,
) -> Effects:
    """The effects of resolved interventions, by one full forward each, with its edits as hooks."""
    start = unchanged(lens, evaluation, interventions, metrics, clean)
    for i, intervention in enumerate(interventions):
        with lens.hooks(intervention.edits):
            after = run(lens, evaluation, metrics.values(), intervention.points)
        for name, metric in start.metrics.items():
            if can_move(lens, intervention, metric):
                value = metric(after.velocity, after.cache).cpu()
                start.effects.effect[name][:, i] = value - start.effects.before[name]
    return start.effects
