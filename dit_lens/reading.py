"""Clips from files: frames of a folder or of an animated image, fitted to a model's size and number of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence, UnidentifiedImageError

from dit_lens.choices import check_choice

STILL = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FITS = ("crop", "letterbox")


def read_frames(path: str | Path) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames of a folder of images, in the order of their names, or of an animated image (GIF, WebP, APNG).

    Raises:
        FileNotFoundError: no such file or folder. ValueError: no readable frames, or of several sizes; names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"got {path} · expected a folder of images or an animated image")
    files = [path]
    if path.is_dir():
        visible = (file for file in path.iterdir() if not file.name.startswith("."))
        files = sorted(file for file in visible if file.suffix.lower() in STILL)
    frames = [frame for file in files for frame in _frames(file)]
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"got {path} with frames of sizes {sorted(sizes)} · expected frames of one size")
    return np.stack(frames)


def _frames(file: Path) -> list[UInt8[np.ndarray, "H W 3"]]:
    try:
        with Image.open(file) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"got {file}, which cannot be read ({error}) · expected an image") from error


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
    if len(frames) < count:
        raise ValueError(f"got {len(frames)} frames · expected at least {count} · frames are never repeated")
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
