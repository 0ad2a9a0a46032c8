"""Image and video continuation in families that take one timestep per frame or token.

The clean latent of the first frames (`first_frame` in the conditioning) replaces that part of the noisy latent at every
noise level, and its tokens get timestep 0. With one clean frame in a latent of 3 frames x 1 row x 2 columns at
timestep 500, the transformer gets

    frames     clean   noisy    noisy
    timesteps  0, 0,   500, 500, 500, 500    (`timestep_by_token`: 6 tokens, two per frame)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid

FIRST_FRAME = "first_frame"  # its name in the conditioning


def clean_first_frames(conditioning: Mapping[str, Tensor]) -> Float[Tensor, "b c f h w"] | None:
    """The clean latent of the first frames in a conditioning; None if there is none."""
    return conditioning.get(FIRST_FRAME)


def with_first_frames(
    latent: Float[Tensor, "b c f h w"], first_frames: Float[Tensor, "b c g h w"] | None
) -> Float[Tensor, "b c f h w"]:
    """A latent whose first g frames are replaced by the clean ones; the latent itself without any."""
    if first_frames is None:
        return latent
    return torch.cat([first_frames.to(latent), latent[:, :, first_frames.shape[2] :]], 2)


def timestep_by_token(
    timestep: Float[Tensor, "b *f"], grid: TokenGrid, first_frames: Float[Tensor, "b c g h w"] | None = None
) -> Float[Tensor, "b *n"]:
    """One timestep per token (b, n), 0 in clean first frames; one per clip (b,) stays as it is without such frames.

    Args:
        timestep: one per clip (b,), per latent frame (b, f) or per token (b, n).
        grid: the token grid of the latent.
        first_frames: the clean first frames.
    """
    if timestep.ndim == 1 and first_frames is None:
        return timestep
    if timestep.ndim == 1:
        timestep = repeat(timestep, "b -> b f", f=grid.frames)
    if timestep.shape[1] == grid.frames:
        timestep = repeat(timestep, "b f -> b (f n)", n=grid.rows * grid.columns)
    if first_frames is None:
        return timestep
    return timestep.masked_fill(grid.mask(frame=slice(first_frames.shape[2])).to(timestep.device), 0)
