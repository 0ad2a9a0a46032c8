"""The interface of a baseline: features of clips by layer, from their frames alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

Pooling = Literal["frames", "tokens"]
Frames = UInt8[np.ndarray, "b F H W 3"]
Read = Callable[[Frames], Float[np.ndarray, "b layer time feature"]]
Change = Callable[[Frames], Frames]


class NotRunError(RuntimeError):
    """A baseline that cannot run here; the message is the reason shown in its row of a table."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A feature extractor for clips: uint8 frames (b, F, H, W, 3) -> float32 (b, layer, feature).

    Attributes:
        name: its row in a table.
        layers: names of its layers.
        read: frames -> (b, layer, time, feature), already averaged over space.
        weights: source of its weights, such as a folder, "random initialisation, seed 0", or "none".
        sees: which frames it gets, and at what size.
        pooling: features of all times concatenated ("frames"), or their mean over time ("tokens").
        batch_size: clips per call of `read`.
    """

    name: str
    layers: tuple[str, ...]
    read: Read
    weights: str = "none"
    sees: str = "all frames, own size"
    pooling: Pooling = "frames"
    batch_size: int = 32

    def __call__(self, frames: Frames) -> Float[np.ndarray, "b layer feature"]:
        """Features by layer; the same frames give the same features in any batch (up to rounding).

        Raises:
            ValueError: not uint8 frames, or features of other layers than `layers`.
        """
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(
                f"got {frames.dtype} of shape {frames.shape} · expected uint8 frames (b, F, H, W, 3) ·"
                " dit_lens.clips.stack_frames(clips) makes them"
            )
        starts = range(0, len(frames), self.batch_size)
        features = np.concatenate([self.read(frames[i : i + self.batch_size]) for i in starts]).astype(np.float32)
        if features.ndim != 4 or features.shape[1] != len(self.layers):
            raise ValueError(
                f"got features of shape {features.shape} from {self.name}"
                f" · expected (b, {len(self.layers)} layers, time, feature)"
            )
        return features.reshape(*features.shape[:2], -1) if self.pooling == "frames" else features.mean(2)

    def after(self, change: Change, name: str) -> Baseline:
        """The same baseline on changed frames; `name` is appended to its name."""
        return replace(self, name=f"{self.name}, {name}", read=lambda frames: self.read(change(frames)))


def widen(layers: Sequence[Float[np.ndarray, "b time _"]]) -> Float[np.ndarray, "b layer time feature"]:
    """Layers of unequal width as one array, padded with zeros, which have no effect on a standardised probe."""
    width = max(layer.shape[-1] for layer in layers)
    return np.stack([np.pad(layer, ((0, 0), (0, 0), (0, width - layer.shape[-1]))) for layer in layers], axis=1)
