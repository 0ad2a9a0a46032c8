"""Clean frames that a clip begins with, and times for frames and tokens: families that are told a time for each.

Given frames are fed clean in the place of the latent's own at every noise level, and their tokens are told time 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid

FIRST = "first_frame"  # in conditioning


def given_frames(conditioning: Mapping[str, Tensor]) -> Float[Tensor, "b c f h w"] | None:
    """Clean frames that clips begin with at every noise level, if any."""
    return conditioning.get(FIRST)


def beginning_with(given: Float[Tensor, "b c g h w"] | None, latent: Float[Tensor, "b c f h w"]) -> Tensor:
    """The latent with the given frames in front, in the place of its own."""
    return latent if given is None else torch.cat([given.to(latent), latent[:, :, given.shape[2] :]], 2)


def by_token(
    timestep: Float[Tensor, "b *f"], tokens: TokenGrid, given: Float[Tensor, "b c g h w"] | None = None
) -> Float[Tensor, "b *n"]:
    """Times of all tokens (b, n), from those of frames or clips, 0 in given frames; (b,) stays without any."""
    if timestep.ndim == 1 and given is None:
        return timestep
    if timestep.ndim == 1:
        timestep = repeat(timestep, "b -> b f", f=tokens.frames)
    if timestep.shape[1] == tokens.frames:
        timestep = repeat(timestep, "b f -> b (f n)", n=tokens.rows * tokens.columns)
    if given is None:
        return timestep
    return timestep.masked_fill(tokens.mask(frame=slice(given.shape[2])).to(timestep.device), 0)
