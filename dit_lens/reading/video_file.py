"""A video that is not read yet, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from dit_lens.reading.containers import VideoContainer
from dit_lens.reading.folders import list_frames
from dit_lens.reading.images import ImageFile, read_images

VIDEO = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv",
         ".wmv", ".ogv")  # fmt: skip


class FrameSource(Protocol):
    """Where frames lie."""

    @property
    def count(self) -> int:
        """How many frames are shown."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second; None where none are stated."""
        ...

    def read(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames at these places."""
        ...


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images in the order of their numbers."""

    path: Path
    fps = None

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(list_frames(self.path))

    def read(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "F H W 3"]:
        """The images at these places."""
        files = list_frames(self.path)
        return read_images([files[i] for i in wanted], self.path)


@dataclass(frozen=True)
class VideoFile:
    """A video that is not read yet: a folder of images, an animated image, a video file, or the bytes of a video file.

    Attributes:
        path: where it lies; where `data` is given, only its name in messages.
        data: a video file's bytes.
    """

    path: Path
    data: bytes | None = field(default=None, repr=False)

    @cached_property
    def count(self) -> int:
        """How many frames there are.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: it cannot be read, is cut short, or its frame rate is not constant; names it.
        """
        return self._source.count

    @cached_property
    def fps(self) -> float | None:
        """Frames per second as the file states them; None for a folder, and where an image states none.

        Raises:
            FileNotFoundError, ValueError: as of `count`.
        """
        return self._source.fps

    def read(self, indices: Sequence[int] | None = None) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames at those places as a player shows them, in that order (places may recur); else all frames.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: no readable frames, damaged or missing ones, of several sizes, or shown in a way that eight bits
                a colour in square pixels at even times cannot hold; names it and says what would help.
            ModuleNotFoundError: it is a video file and PyAV is not installed.
        """
        return self._source.read(range(self.count) if indices is None else indices)

    @cached_property
    def _source(self) -> FrameSource:
        if self.data is not None:
            return VideoContainer(self.path, self.data)
        if not self.path.exists():
            raise FileNotFoundError(
                f"got no file {self.path} · expected a folder of images, an animated image or a video"
            )
        if self.path.is_dir():
            return ImageFolder(self.path)
        return VideoContainer(self.path) if self.path.suffix.lower() in VIDEO else ImageFile(self.path)


def read_frames(path: str | Path) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames of a folder of images in the order of their numbers, of an animated image or of a video file.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as of `VideoFile.read`.
    """
    return VideoFile(Path(path)).read()
