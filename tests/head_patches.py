"""Every head's z from one evaluation as interventions on another."""

from __future__ import annotations

from itertools import product

import torch

from dit_lens import edits
from dit_lens.interventions import Intervention
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request


@torch.no_grad()
def head_patches(lens: DiTLens, source: Evaluation) -> list[Intervention]:
    """Block by block, head by head."""
    _, cache = lens.model.run(source, Request("blocks.*.attn.hook_z"))
    points = [f"blocks.{block}.attn.hook_z" for block in range(lens.blocks)]
    return [
        Intervention.single(point, edits.patch(cache[point], [head]))
        for point, head in product(points, range(lens.heads))
    ]
