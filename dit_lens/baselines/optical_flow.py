"""Histograms of optical flow: motion without appearance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float

from dit_lens.baselines.baseline import Baseline, Frames, NotRunError, Pooling, widen

DIRECTIONS = 8
SPEEDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf)  # pixels per frame
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def optical_flow(pooling: Pooling = "frames", cells: Sequence[int] = (1, 4)) -> Baseline:
    """Histograms of direction (weighted by speed) and of speed, by frame pair, on grids; a layer is a grid.

    Dense flow by Farnebäck (2003) in OpenCV; directions as in Chaudhry et al. 2009, bin 0 to the right, on clockwise.

    Raises:
        NotRunError: OpenCV is not installed.
    """
    cv2 = _opencv()

    def read(frames: Frames) -> np.ndarray:
        flow = np.stack([clip_flow(cv2, clip) for clip in frames])
        return widen([_histograms(flow, n) for n in cells])

    return Baseline("optical flow", tuple(f"{n} × {n} cells" for n in cells), read, pooling=pooling)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise NotRunError("OpenCV is not installed: pip install 'dit-lens[baselines]'") from error
    return cv2


def clip_flow(cv2: Any, frames: np.ndarray) -> Float[np.ndarray, "pair H W 2"]:
    """Displacement in pixels (to the right, down) from each frame to the next."""
    grey = (frames @ GREY).round().astype(np.uint8)
    # A window of 7 pixels, about the size of objects in miniphys.
    options = {"pyr_scale": 0.5, "levels": 3, "winsize": 7, "iterations": 3, "poly_n": 5, "poly_sigma": 1.1, "flags": 0}
    pairs = pairwise(grey)
    return np.stack([cv2.calcOpticalFlowFarneback(frame, following, None, **options) for frame, following in pairs])


def _histograms(flow: Float[np.ndarray, "b pair H W 2"], cells: int) -> Float[np.ndarray, "b pair feature"]:
    """Per cell, the sum of speeds by direction and the number of pixels by speed, divided by the cell's pixels."""
    height, width = (size // cells * cells for size in flow.shape[2:4])
    tiles = rearrange(flow[:, :, :height, :width], "b p (r h) (c w) xy -> b p (r c) (h w) xy", r=cells, c=cells)
    speed, angle = np.hypot(tiles[..., 0], tiles[..., 1]), np.arctan2(tiles[..., 1], tiles[..., 0])
    direction = np.round(angle / (2 * np.pi / DIRECTIONS)).astype(int) % DIRECTIONS
    by_direction = [(speed * (direction == i)).mean(-1) for i in range(DIRECTIONS)]
    ranges = pairwise(SPEEDS)
    by_speed = [((speed >= low) & (speed < high)).mean(-1) for low, high in ranges]
    return np.stack([*by_direction, *by_speed], axis=-1).reshape(*flow.shape[:2], -1)
