"""What takes a block's place in `analyses.ablate_blocks`, in one evaluation and along a trajectory."""

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
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request
from dit_lens.sweeps import Change

WRITES = ("all", "attn_out", "mlp_out")
REPLACEMENTS = ("zero", "mean", "resample", "noise", "random write")
Write = Literal["all", "attn_out", "mlp_out"]
Replacement = Literal["zero", "mean", "resample", "noise", "random write"]
BySteps = Mapping[str, Mapping[int, Tensor]]  # activations by hook point and step


@dataclass(frozen=True, eq=False)
class Known:
    """What replacements are made of.

    Attributes:
        own: of the clips themselves in the whole model: writes and the streams around each block.
        means: of each write over training clips, without the clip axis.
        donors: for each clip the one whose write it takes.
        alpha: of the noise.
        seed: of all that is drawn.
    """

    own: BySteps
    means: BySteps
    donors: Int[Tensor, " b"]
    alpha: float
    seed: int


@dataclass(frozen=True)
class Absent:
    """All that a block writes, or what one of its layers writes, and what takes its place."""

    replacement: Replacement
    write: Write
    block: int

    def at_once(self, writes: Sequence[str], known: Known, step: int) -> Change:
        """In one evaluation, whose stream before the block nothing has changed: one edit for the whole block."""
        if self.write != "all" or self.replacement in ("noise", "random write"):
            (change,) = self.along(writes, known)
            return change
        pre, post = (f"blocks.{self.block}.hook_resid_{end}" for end in ("pre", "post"))
        new = sum((self._new(write, known, step) for write in writes), known.own[pre][step])
        return Change(post, edits.patch(new))

    def along(self, writes: Sequence[str], known: Known) -> tuple[Change, ...]:
        """At any step of a trajectory: the edits that are made together."""
        home = f"blocks.{self.block}.hook_resid"
        point = f"{home}_post" if self.write == "all" else f"blocks.{self.block}.hook_{self.write}"
        chosen = writes if self.write == "all" else (point,)
        match self.replacement:
            case "noise":
                return (Change(point, edits.noise(known.alpha, known.seed)),)
            case "random write":
                before = known.own[f"{home}_pre"] if self.write == "all" else dict.fromkeys(known.own[point], 0.0)
                length = {step: (x - before[step]).norm(dim=-1) for step, x in known.own[point].items()}
                return (Change(point, partial(_pushed, length=length, seed=known.seed + self.block)),)
            case "zero":
                return tuple(Change(write, edits.zero()) for write in chosen)
            case "mean":
                return tuple(Change(write, edits.mean(known.means[write])) for write in chosen)
            case "resample":
                return tuple(Change(write, edits.resample(known.own[write], known.donors)) for write in chosen)

    def _new(self, write: str, known: Known, step: int) -> Tensor:
        match self.replacement:
            case "mean":
                return known.means[write][step]
            case "resample":
                return known.own[write][step][known.donors]
        return torch.zeros_like(known.own[write][step])


def writes_of(lens: DiTLens, block: int) -> list[str]:
    """What a block adds to the stream, in order."""
    home = f"blocks.{block}.hook_"
    return [name for name in lens.anatomy.points if name.startswith(home) and name.endswith(WRITE)]


@torch.no_grad()
def known(
    lens: DiTLens, fed: Mapping[int, Evaluation], batch: Sequence[Quadruplet], means: BySteps, drawn: tuple[float, int]
) -> Known:
    """Of the clips of quadruplets of one property each or more, role by role; `drawn` is alpha and the seed."""
    names = [name for block in range(lens.blocks) for name in (*writes_of(lens, block), *_around(block))]
    own: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    for step, evaluation in fed.items():
        _, cache = lens.model.run(evaluation, Request(names))
        for name, x in cache.items():
            own[name][step] = x
    ids, laws = [q.id for q in batch] * len(ROLES), [q.property for q in batch] * len(ROLES)
    return Known(own, means, edits.donors(ids, laws, drawn[1]), *drawn)


def _around(block: int) -> tuple[str, str]:
    return f"blocks.{block}.hook_resid_pre", f"blocks.{block}.hook_resid_post"


def _pushed(x: Tensor, hook: Hook, length: Mapping[int, Tensor], seed: int) -> Tensor:
    """Moved in a random direction of each token, the same for all clips and steps."""
    assert hook.step is not None
    direction = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return x + length[hook.step][..., None].to(x) * direction / direction.norm(dim=-1, keepdim=True)
