"""Replacements for the writes of a block, in one evaluation and at every step along a trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dit_lens import edits
from dit_lens.cache.anatomy import WRITE
from dit_lens.clips import Scene
from dit_lens.hook_points import Hook
from dit_lens.interventions import Intervention
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request
from dit_lens.studies.ablations import donors_of

WRITES = ("all", "attn_out", "mlp_out")
REPLACEMENTS = ("zero", "mean", "resample", "noise", "random write")
Write = Literal["all", "attn_out", "mlp_out"]
Replacement = Literal["zero", "mean", "resample", "noise", "random write"]
BySteps = Mapping[str, Mapping[int, Tensor]]  # activations by hook point and step


@dataclass(frozen=True, eq=False)
class Material:
    """The activations and options that replacements are made from.

    Attributes:
        whole: activations of the clips themselves in the whole model: writes, and the streams around each block.
        means: of each write over training clips, without the clip axis; empty unless "mean" is used.
        donors: for each clip the one whose write it takes; None unless "resample" is used.
        alpha: of the noise.
        seed: of all that is drawn.
    """

    whole: BySteps
    means: BySteps
    donors: Int[Tensor, " b"] | None
    alpha: float
    seed: int


@dataclass(frozen=True)
class Absent:
    """An ablation: the writes of a block, or of one of its layers, and their replacement."""

    replacement: Replacement
    write: Write
    block: int

    def intervention(self, writes: Sequence[str], material: Material) -> Intervention:
        """The intervention for one evaluation or every step of a trajectory.

        Args:
            writes: what the block adds to the stream, in order (`writes_of`).
        """
        home = f"blocks.{self.block}.hook_resid"
        point = f"{home}_post" if self.write == "all" else f"blocks.{self.block}.hook_{self.write}"
        chosen = writes if self.write == "all" else (point,)
        match self.replacement:
            case "noise":
                return Intervention.single(point, edits.noise(material.alpha, material.seed))
            case "random write":
                after = material.whole[point]
                before = material.whole[f"{home}_pre"] if self.write == "all" else dict.fromkeys(after, 0.0)
                length = {step: (x - before[step]).norm(dim=-1) for step, x in after.items()}
                return Intervention.single(point, partial(_pushed, length=length, seed=material.seed + self.block))
            case "zero":
                return Intervention([(write, edits.zero()) for write in chosen])
            case "mean":
                return Intervention([(write, edits.mean(material.means[write])) for write in chosen])
            case "resample":
                assert material.donors is not None
                donors = material.donors
                return Intervention([(write, edits.resample(material.whole[write], donors)) for write in chosen])


def writes_of(lens: DiTLens, block: int) -> list[str]:
    """The hook points of a block's writes to the video stream, in order."""
    home = f"blocks.{block}.hook_"
    return [name for name in lens.anatomy.points if name.startswith(home) and name.endswith(WRITE)]


def points_of(lens: DiTLens, block: int) -> list[str]:
    """The hook points that `material_of` reads of a block: its writes, and the streams before and after it."""
    return [*writes_of(lens, block), f"blocks.{block}.hook_resid_pre", f"blocks.{block}.hook_resid_post"]


@torch.no_grad()
def material_of(
    lens: DiTLens,
    fed: Mapping[int, Evaluation],
    batch: Sequence[Scene],
    replacements: Sequence[Replacement],
    means: BySteps,
    drawn: tuple[float, int],
) -> Material:
    """The material of these replacements for a batch of scenes; `drawn` is alpha and the seed."""
    names = [name for block in range(lens.blocks) for name in points_of(lens, block)]
    activations: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    for step, evaluation in fed.items():
        _, cache = lens.model.run(evaluation, Request(names))
        for name, x in cache.items():
            activations[name][step] = x
    donors = donors_of(batch, drawn[1]) if "resample" in replacements else None
    return Material(activations, means, donors, *drawn)


def _pushed(x: Tensor, hook: Hook, length: Mapping[int, Tensor], seed: int) -> Tensor:
    """Moved in a random direction of each token, the same for all clips and steps."""
    assert hook.step is not None
    direction = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return x + length[hook.step][..., None].to(x) * direction / direction.norm(dim=-1, keepdim=True)
