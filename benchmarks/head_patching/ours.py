"""By dit_lens: exactly, and screened."""

from __future__ import annotations

from copy import deepcopy
from itertools import product

import torch
from torch import Tensor

from benchmarks.head_patching.task import Runner, Task
from dit_lens import DiTLens, edits
from dit_lens.interventions import Intervention, Screening, sweep
from dit_lens.metrics import Run
from dit_lens.patching import patch_heads
from dit_lens.running import Evaluation, Request

TOP = 10


def by_lens(task: Task) -> Runner:
    """The exact sweep."""
    lens, clean, corrupted = _lens(task)

    def run() -> Tensor:
        table = patch_heads(lens, {0: clean}, {0: corrupted}, [0], task.probe.logit)
        return torch.from_numpy(table.effect.values[0, 0, : len(task.blocks)])

    return run


def by_screening(task: Task) -> Runner:
    """Exact effects of the heads whose first-order effects are largest."""
    lens, clean, corrupted = _lens(task)
    points, readout = [f"blocks.{block}.attn.hook_z" for block in task.blocks], task.probe.reads.point

    def run() -> Tensor:
        request = Request([*points, readout], stop_at=readout)
        with torch.no_grad():
            source = Run(*lens.model.run(clean, request))

        patches = [
            Intervention.single(points[block], edits.patch(source.cache[points[block]], [head]))
            for block, head in product(task.blocks, range(task.heads))
        ]
        screening = Screening(top=TOP, sample=0)
        effects = sweep(lens, corrupted, patches, {"": task.probe.logit}, source, method=screening)
        return effects.effect[""].view(len(task.blocks), task.heads)

    return run


def _lens(task: Task) -> tuple[DiTLens, Evaluation, Evaluation]:
    lens = DiTLens(transformer=deepcopy(task.transformer), verify=False)
    return lens, Evaluation(task.clean, 0, 0.5), Evaluation(task.corrupted, 0, 0.5)
