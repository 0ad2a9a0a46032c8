"""Stills and animated images, by Pillow: eight bits a colour, upright and opaque, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dit_lens.reading.times import even_rate

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
ANIMATED = ("PNG", "WEBP", "TIFF", "GIF")  # a JPEG of several pictures (MPO) has depth or gain maps behind the first
PLAIN = ("1", "L", "P", "RGB", "LA", "RGBA")
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and the value of it that Pillow overlooks in 16 bits
GIF_END = b";"
UNSTATED = 0.01  # seconds; players show frames of no more than this for as long as they like
DISPOSAL = {"GIF": "disposal_method", "PNG": "dispose_op"}  # what becomes of a frame before the next
DISPOSALS: dict[tuple[str, int | None], str] = {
    ("GIF", 2): "clear",
    ("GIF", 3): "previous",
    ("PNG", 1): "clear",
    ("PNG", 2): "previous",
}
TICKS = {"GIF": 0.01}  # seconds; the other formats count milliseconds


class ImageKindError(ValueError):
    """An image that can be read, and holds what frames cannot hold."""


@dataclass(frozen=True)
class ImageFile:
    """An animated image, whose frames are those of a video; or a still, which is one frame."""

    path: Path

    @property
    def count(self) -> int:
        """How many frames there are."""
        return self._index[0]

    @property
    def fps(self) -> float | None:
        """Frames per second; None where the image states none."""
        return self._index[1]

    @cached_property
    def _index(self) -> tuple[int, float | None]:
        """How many frames there are, and how many a second.

        Raises:
            ValueError: frames are shown for different times, or are cut short.
        """
        with opened(self.path) as image:
            seconds = [_seconds(image, place) for place in _places(image)]
            tick, is_gif = TICKS.get(str(image.format), 0.001), image.format == "GIF"
        if is_gif and not self.path.read_bytes().rstrip(b"\0").endswith(GIF_END):
            raise ValueError(f"got {self.path}, which is truncated · expected a complete image · fetch it again")
        shown = seconds[:-1] or seconds  # the last of several stays as long as it likes
        if max(shown) <= UNSTATED:
            return len(seconds), None
        times = np.cumsum([0, *seconds[:-1]]).tolist()
        return len(seconds), even_rate(times, tick, 1 / shown[0] if shown[0] else None, str(self.path))

    def read(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames at these places.

        Raises:
            ValueError: see `rgb_of` and `stacked`.
        """
        with opened(self.path) as image:
            frames = list(_composed(image, self.path))
        return stacked([frames[i] for i in wanted], self.path)


def read_images(files: Sequence[Path], name: Path) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames that lie in these files, one in each.

    Args:
        name: what to call the whole in a message.

    Raises:
        ValueError: no files, one that cannot be read or is animated, one of transparent pixels or of another kind that
            frames cannot hold, or several sizes.
    """
    frames = []
    for file in files:
        with opened(file) as image:
            if len(_places(image)) != 1:
                raise ImageKindError(f"got {file}, which is animated · expected one frame in each file of a folder")
            frames.append(rgb_of(image, file))
    return stacked(frames, name)


def rgb_of(image: Image.Image, name: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels as they are shown: turned as EXIF says, 16 bits scaled to 8.

    Raises:
        ImageKindError: transparent pixels, or a mode that is shown in more ways than one (floats, 32 bits, CMYK, ...).
    """
    if image.mode in SIXTEEN:
        levels = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint32)
        inverted = image.format == "TIFF" and dict(getattr(image, "tag_v2", {})).get(PHOTOMETRIC) == WHITE_IS_ZERO
        if inverted or "transparency" in image.info:
            raise ImageKindError(f"got {name}, 16-bit grey with white as 0 or with a transparent level · {EXPECTED}")
        return np.repeat(((levels + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode not in PLAIN:
        raise ImageKindError(f"got {name} in Pillow's mode {image.mode} · {EXPECTED}")
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        rgba = np.asarray(upright.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            raise ImageKindError(f"got {name} with transparent pixels · expected an opaque image · add a background")
        return np.ascontiguousarray(rgba[..., :3])
    return np.asarray(upright.convert("RGB"))


TRANSPARENT = "transparent pixels · expected an opaque image · add a background"
EXPECTED = "expected 8- or 16-bit grey, 8-bit RGB, a palette or black and white · save it as 8-bit RGB"


def stacked(frames: Sequence[np.ndarray], name: Path) -> UInt8[np.ndarray, "F H W 3"]:
    """Frames as one array.

    Raises:
        ValueError: no frames, or of several sizes.
    """
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"got {name} with frames of sizes {sorted(sizes)} · expected frames of one size")
    return np.stack(frames)


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """An image, read as far as it is looked at.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.verify()  # the checksums of PNG, which reading skips; an image that was verified cannot be read
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except ImageKindError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise whatever comes
        raise ValueError(f"got {file}, which cannot be read ({error}) · expected an image or a video") from error


def _places(image: Image.Image) -> range:
    """The places of the frames in the file."""
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    return range(1 if count > 1 and image.info.get("default_image") else 0, count)  # of APNG: for those who show stills


def _seconds(image: Image.Image, place: int) -> float:
    """How long a frame is shown."""
    image.seek(place)
    image.load()  # WebP states it no sooner
    return float(image.info.get("duration") or 0) / 1000


def _composed(image: Image.Image, name: Path) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames one after another, each on top of what is left of those before it.

    Raises:
        ImageKindError: see `rgb_of`; a frame leaves a part of the canvas clear, which Pillow fills with a colour.
    """
    canvas, clear = (0, 0, *image.size), True
    for place in _places(image):
        image.seek(place)
        covered = getattr(image, "dispose_extent", None) or canvas
        if clear and tuple(covered) != canvas:
            raise ImageKindError(f"got {name} with {TRANSPARENT}")
        yield rgb_of(image, name)
        how = DISPOSALS.get((str(image.format), getattr(image, DISPOSAL.get(str(image.format), ""), None)))
        clear = how == "clear" or (how == "previous" and clear)
