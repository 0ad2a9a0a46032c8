"""The slow path: one full forward per change, as the definition says; `sweep` is tested against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation
from dit_lens.sweeps.changes import Change, Effects, begin, reaches, run


@torch.no_grad()
def sweep_literally(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
) -> Effects:
    """What `sweep` gives, by one full forward per change."""
    start = begin(lens, evaluation, changes, metrics, clean)
    for i, change in enumerate(changes):
        with lens.hooks([(change.point, change.edit)]):
            after = run(lens, evaluation, metrics.values(), [change.point])
        for name, metric in start.metrics.items():
            if reaches(lens, change, metric):
                value = metric(after.velocity, after.cache).cpu()
                start.effects.effect[name][:, i] = value - start.effects.before[name]
    return start.effects
