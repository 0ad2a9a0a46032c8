"""Films on disk: frames of a folder, an animated image or a video file, fitted to a size and number of frames.

Video files are decoded by PyAV, which is an optional extra: `pip install 'dit-lens[video]'`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence, UnidentifiedImageError

from dit_lens.choices import check_choice

STILL = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
VIDEO = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
FITS = ("crop", "letterbox")


@dataclass(frozen=True)
class Film:
    """A film that is not read yet: a folder of images, an animated image, a video file, or the bytes of a video file.

    Attributes:
        path: where it lies; where `data` is given, only its name in messages.
        data: a video file's bytes.
    """

    path: Path
    data: bytes | None = field(default=None, repr=False)

    @cached_property
    def count(self) -> int:
        """How many frames there are; nothing is decoded for it.

        Raises:
            FileNotFoundError: no such file or folder. ValueError: it cannot be read, or is cut short; names it.
        """
        if self._is_video:
            return self._packets()
        if self.path.is_dir():
            return len(list_images(self.path))
        with _opened(self.path) as image:
            return getattr(image, "n_frames", 1)

    @cached_property
    def fps(self) -> float | None:
        """Frames per second as the file states them; None for a folder, and where an image states none."""
        if self._is_video:
            with self._container() as container:
                rate = container.streams.video[0].average_rate
            return float(rate) if rate else None
        if self.path.is_dir():
            return None
        with _opened(self.path) as image:
            milliseconds = image.info.get("duration")
        return 1000 / milliseconds if milliseconds else None

    def read(self, indices: Sequence[int] | None = None) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames at those places, in that order (places may recur); without `indices` all frames.

        Raises:
            FileNotFoundError: no such file or folder. ValueError: no readable frames, or of several sizes; names it.
            ModuleNotFoundError: it is a video file and PyAV is not installed.
        """
        wanted = range(self.count) if indices is None else indices
        if self._is_video:
            return self._decoded(wanted)
        if self.path.is_dir():
            files = list_images(self.path)
            return read_images([files[i] for i in wanted], self.path)
        with _opened(self.path) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        return _stacked([frames[i] for i in wanted], self.path)

    @property
    def _is_video(self) -> bool:
        if self.data is None and not self.path.exists():
            raise FileNotFoundError(f"got no {self.path} · expected a folder of images, an animated image or a video")
        return self.data is not None or (self.path.suffix.lower() in VIDEO and self.path.is_file())

    def _packets(self) -> int:
        with self._container() as container:
            stream = container.streams.video[0]
            packets = [packet.is_discard for packet in container.demux(stream) if packet.size]
            stated, shown = stream.frames, packets.count(False)  # an edit list may keep some frames from being shown
        if not shown or len(packets) < stated:
            got = f"{len(packets)} of {stated} frames"
            raise ValueError(f"got {self.path} with {got} · expected a whole video · fetch it anew")
        return shown

    def _decoded(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "F H W 3"]:
        needed, kept, count = set(wanted), {}, 0
        with self._container() as container:
            for frame in container.decode(video=0):
                if count in needed:
                    kept[count] = frame.to_ndarray(format="rgb24")
                count += 1
        if count != self.count:
            raise ValueError(f"got {self.path}, of which {count} of {self.count} frames decode · fetch it anew")
        return _stacked([kept[i] for i in wanted], self.path)

    @contextmanager
    def _container(self) -> Iterator[Any]:
        av = _import_av(self.path)
        try:
            with av.open(str(self.path) if self.data is None else io.BytesIO(self.data)) as container:
                if not container.streams.video:
                    raise ValueError(f"got {self.path}, which has no pictures · expected a video")
                yield container
        except av.error.FFmpegError as error:
            raise ValueError(f"got {self.path}, which cannot be read ({error}) · expected a video") from error


def _import_av(path: Path) -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        remedy = "pip install 'dit-lens[video]'"
        raise ModuleNotFoundError(f"got {path}, a video file · expected PyAV to decode it with · {remedy}") from error
    return av


def read_frames(path: str | Path) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames of a folder of images, in the order of their names, of an animated image or of a video file.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: no readable frames, or of several sizes; names the file.
        ModuleNotFoundError: it is a video file and PyAV is not installed.
    """
    return Film(Path(path)).read()


def list_visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files (macOS leaves `._name` beside each `name`).

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"got no folder {folder} · expected one · check the root and the split")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name, without hidden files."""
    return [file for file in list_visible(folder) if file.suffix.lower() in STILL]


def read_images(files: Sequence[Path], name: Path) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames that lie in these files, one in each; transparency is dropped.

    Args:
        name: what to call the whole in a message.

    Raises:
        ValueError: no files, one that cannot be read, or several sizes.
    """
    frames = []
    for file in files:
        with _opened(file) as image:
            if getattr(image, "n_frames", 1) != 1:
                raise ValueError(f"got {file}, which is animated · expected one frame in each file of a folder")
            frames.append(np.asarray(image.convert("RGB")))
    return _stacked(frames, name)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"got {file}, which cannot be read ({error}) · expected an image") from error


def _stacked(frames: Sequence[np.ndarray], name: Path) -> UInt8[np.ndarray, "F H W 3"]:
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"got {name} with frames of sizes {sorted(sizes)} · expected frames of one size")
    return np.stack(frames)


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
        raise ValueError(f"got {total} frames · expected at least {count} · frames are never repeated")
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
