"""Reconstruction quality of an autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from dit_lens.video import psnr

MOVING = 0.3  # in [-1, 1]


def moving_pixels(video: Float[Tensor, "b 3 F H W"]) -> Bool[Tensor, "b 1 F H W"]:
    """A mask of the pixels that differ from their own median over time by more than `MOVING`."""
    still = video.median(dim=2, keepdim=True).values
    return (video - still).abs().amax(dim=1, keepdim=True) > MOVING


def reconstruction_quality(rebuilt: Float[Tensor, "b 3 F H W"], video: Float[Tensor, "b 3 F H W"]) -> dict[str, float]:
    """PSNR in dB over all pixels, and over the moving ones (see `moving_pixels`)."""
    moving = moving_pixels(video).expand_as(video)
    return {"psnr": float(psnr(rebuilt, video)), "psnr_moving": float(psnr(rebuilt[moving], video[moving]))}


def draw_rebuilt(
    clips: UInt8[np.ndarray, "n F H W 3"], rebuilt: UInt8[np.ndarray, "n F H W 3"], path: Path, scale: int = 3
) -> None:
    """Saves every other frame of each clip, above the same frames of its reconstruction."""
    rows = [np.concatenate(list(clip[::2]), axis=1) for pair in zip(clips, rebuilt, strict=True) for clip in pair]
    Image.fromarray(np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)).save(path)
