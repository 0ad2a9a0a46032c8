"""A small model of each family, and evaluations of any of a few clips that differ in all that the model is fed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from small_models import build
from torch import Tensor

from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation

CLIPS = 3


class SmallClips:
    """Three clips, and the small model of a family.

    Attributes:
        lens: on the transformer alone.
    """

    def __init__(self, family: str):
        self.lens = DiTLens(transformer=build(family), name=f"small {family}", verify=False)
        clips = [self._example(clip) for clip in range(CLIPS)]
        self._latents = torch.cat([latent for latent, _ in clips])
        self._fed = {name: torch.cat([tensors[name] for _, tensors in clips]) for name in clips[0][1]}

    def _example(self, clip: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A clip of its own latent and text; each has one token of text less than the clip before."""
        generator = torch.Generator().manual_seed(clip)
        latent, tensors = self.lens.family.example(self.lens.transformer, generator)
        shortened = {name: _less(x[:1], clip) if "mask" in name else x[:1] for name, x in tensors.items()}
        return latent[:1], shortened

    def at(self, clips: Sequence[int], clean: bool = False) -> Evaluation:
        """The evaluation of some of the clips, in this order; a clean one has other latents and the same text."""
        rows = list(clips)
        latent = self._latents[rows]
        latent = latent.flip(-1, -2) if clean else latent
        fed = Conditioning({name: x[rows] for name, x in self._fed.items()})
        return self.lens.model.evaluation(latent, self.lens.family.to_timestep(0.5), fed, sigma=0.5)


def _less(mask: Tensor, tokens: int) -> Tensor:
    """A mask (1, m) without so many of its tokens, on the side that is padded; one is kept."""
    kept = mask[0].nonzero().flatten()
    left = not bool(mask[0, 0])
    tokens = min(tokens, len(kept) - 1)
    dropped = kept[:tokens] if left else kept[len(kept) - tokens :]
    return mask.index_fill(1, dropped, 0)
