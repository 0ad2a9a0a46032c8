"""Frames of another size, or fewer of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dit_lens.choices import check_choice

FITS = ("crop", "letterbox")


def fit(
    frames: UInt8[np.ndarray, "F H W 3"], height: int, width: int, how: str = "crop"
) -> UInt8[np.ndarray, "F height width 3"]:
    """Frames of another size, by area averages: "crop" cuts the longer side about its middle, "letterbox" adds black.

    Raises:
        ValueError: another way to fit.
    """
    fits = check_choice(how, FITS, "way to fit")
    old_height, old_width = frames.shape[1:3]
    scale = (max if fits == "crop" else min)(height / old_height, width / old_width)
    rows, columns = round(old_height * scale), round(old_width * scale)
    resized = [Image.fromarray(f).resize((columns, rows), Image.Resampling.BOX, reducing_gap=None) for f in frames]
    left, top = (columns - width) // 2, (rows - height) // 2  # negative: black is added
    return np.stack([np.asarray(f.crop((left, top, left + width, top + height))) for f in resized])


def evenly(frames: UInt8[np.ndarray, "F H W 3"], count: int) -> UInt8[np.ndarray, "count H W 3"]:
    """That many frames at even distances, the first and the last among them.

    Raises:
        ValueError: there are fewer frames.
    """
    return frames[even_indices(len(frames), count)]


def even_indices(total: int, count: int) -> list[int]:
    """The places of `count` frames at even distances among `total`, the first and the last among them.

    Raises:
        ValueError: there are fewer frames.
    """
    if total < count:
        raise ValueError(
            f"got {total} frames · expected at least {count}, because frames are never repeated · ask for fewer"
        )
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
