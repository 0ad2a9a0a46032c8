"""Every head's z from one evaluation as changes of another."""

from __future__ import annotations

import torch

from dit_lens import edits
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request
from dit_lens.sweeps import Change, change_each


@torch.no_grad()
def head_patches(lens: DiTLens, source: Evaluation) -> list[Change]:
    """Block by block, head by head."""
    _, cache = lens.model.run(source, Request("blocks.*.attn.hook_z"))

    def change(block: int, head: int) -> Change:
        point = f"blocks.{block}.attn.hook_z"
        return Change(point, edits.patch(cache[point], [head]))

    return change_each({"block": range(lens.blocks), "head": range(lens.heads)}, change)
