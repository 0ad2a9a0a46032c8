"""Conversion between frames and video tensors, and the distance of two videos (PSNR)."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor


def to_tensor(frames: UInt8[np.ndarray, "*b F H W 3"]) -> Float[Tensor, "*b 3 F H W"]:
    """uint8 frames as float32 in [-1, 1], channels before frames.

    Raises:
        ValueError: not uint8 RGB frames in four or five dimensions.
    """
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] != 3:
        remedy = (
            "put the channels last"
            if frames.dtype == np.uint8
            else "from floats in [0, 1]: (255 * x).round().astype('uint8')"
        )
        raise ValueError(
            f"got {frames.dtype} of shape {frames.shape} · expected uint8 (F, H, W, 3) or (b, F, H, W, 3) · {remedy}"
        )
    return rearrange(torch.tensor(np.ascontiguousarray(frames)), "... f h w c -> ... c f h w").float() / 127.5 - 1


def to_frames(video: Float[Tensor, "*b 3 F H W"]) -> UInt8[np.ndarray, "*b F H W 3"]:
    """The inverse of `to_tensor`, clipped and rounded.

    Raises:
        ValueError: a value is not finite; conversion would make it black.
    """
    values = video.detach().float().cpu()
    if unsound := int((~values.isfinite()).sum()):
        raise ValueError(
            f"got a video of which {unsound} of {values.numel()} values are not finite · expected numbers near [-1, 1]"
            " · look for the first latent that is not finite; float16 overflows where bfloat16 does not"
        )
    levels = ((values + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "... c f h w -> ... f h w c").to(torch.uint8).numpy()


def psnr(video: Float[Tensor, "..."], reference: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1] (peak to peak 2); infinite where they are equal."""
    return -10 * torch.log10((video - reference).pow(2).mean() / 4)
