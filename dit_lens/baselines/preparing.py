"""Preprocessing of a clip's frames for a pretrained encoder: frame selection, size and normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dit_lens.video import to_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def spread(total: int, wanted: int) -> Int[np.ndarray, " wanted"]:
    """Indices of `wanted` evenly spaced frames of `total`, from the first to the last (repeated if there are too few).

    16 of miniphys' 17 leave out frame 8, the last before the splice: no tubelet of two frames spans both halves.
    """
    return np.linspace(0, total - 1, wanted).round().astype(int)


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of frames as in an encoder's training.

    Attributes:
        frames: number of frames, spread over the clip; None for all.
        size: height and width in pixels. Frames are resampled (bilinear, with antialiasing) and not cropped: frames
            that are not square are distorted; a data set's framing can crop or pad them before.
        device: of the encoder.
    """

    frames: int | None
    size: int
    device: str = "cpu"

    @property
    def sees(self) -> str:
        """The description in a table."""
        return f"{self.frames or 'all'} frames, {self.size} px"

    def __call__(self, frames: UInt8[np.ndarray, "b F H W 3"]) -> Float[Tensor, "b f 3 s s"]:
        """Frames normalised by ImageNet's mean and deviation, as for VideoMAE, V-JEPA 2 and ResNet-50."""
        chosen = frames if self.frames is None else frames[:, spread(frames.shape[1], self.frames)]
        video = rearrange((to_tensor(chosen) + 1) / 2, "b c f h w -> (b f) c h w").to(self.device)
        if video.shape[-2:] != (self.size, self.size):
            video = torch.nn.functional.interpolate(video, (self.size, self.size), mode="bilinear", antialias=True)
        mean, deviation = (torch.tensor(v, device=self.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return rearrange((video - mean) / deviation, "(b f) c h w -> b f c h w", b=len(frames))
