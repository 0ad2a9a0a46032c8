"""Groups of clips whose frames are in files: listed when the data set is loaded, read when they are accessed."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from dit_lens.clips import Clip, Scene, breaks_between
from dit_lens.datasets.framing import Framing
from dit_lens.reading import VideoFile

Item = TypeVar("Item")
Listed = TypeVar("Listed")


@dataclass(frozen=True)
class Outline:
    """Id, property, labels and matches of a scene, known without reading its frames.

    Attributes:
        id, property: as of the scene.
        labels: of its clips, in order: True, False, or None if unknown.
        matches: as of the scene.
        policy: "eval-only" where the authors allow no fitting.
        unit: as of the scene.
    """

    id: str
    property: str
    labels: tuple[bool | None, ...]
    matches: tuple[tuple[int, int], ...] = ()
    policy: str = ""
    unit: str = ""

    @cached_property  # the field above hides Python's own decorator
    def clips(self) -> int:
        """The number of its clips."""
        return len(self.labels)

    @cached_property
    def group(self) -> str:
        """The scene's group: one independent observation."""
        return self.unit or self.id


class Lazily(Sequence[Item], Generic[Listed, Item]):
    """A sequence of listed items, each read from disk when it is accessed."""

    def __init__(self, listed: Iterable[Listed], name: str):
        self.listed, self.name = list(listed), name
        if not self.listed:
            raise ValueError(
                f"got no clips in {name} · expected at least one · check the root, the split and the layout"
            )

    def __len__(self) -> int:
        return len(self.listed)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.read(listed) for listed in self.listed[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"got item {index} · expected a number below {len(self)}, the number of groups in {self.name}"
            )
        return self.read(self.listed[index])

    def __iter__(self) -> Iterator[Item]:
        return (self.read(listed) for listed in self.listed)

    @abstractmethod
    def read(self, listed: Listed) -> Item:
        """Reads an item with its frames."""

    @abstractmethod
    def outline(self, index: int) -> Outline:
        """Id, property, labels and matches of an item, without reading its frames."""


@dataclass(frozen=True)
class Recording:
    """One listed clip, its frames still on disk.

    Attributes:
        video: the frames.
        possible: as in `Clip`; None where the label is unknown.
        role: its role in its group.
        factors: everything else that is known of it.
        fps: frames per second where the video does not state them.
        first: index of the clip's first frame; earlier frames are not part of the clip.
    """

    video: VideoFile
    possible: bool | None
    role: str
    factors: Mapping[str, Any] = field(default_factory=dict)
    fps: float | None = None
    first: int = 0

    @cached_property
    def count(self) -> int:
        """Number of frames from `first` on."""
        if self.video.count <= self.first:
            raise ValueError(
                f"got {self.video.path} with {self.video.count} frames · expected more than the {self.first} that are"
                " trimmed"
            )
        return self.video.count - self.first

    def read(self, framing: Framing, group: str, prop: str, skip: int = 0) -> Clip:
        """Reads the clip; its factors name the file and the frames that were used, counted from 0 in the file.

        Args:
            framing: which frames, at what size.
            group: id of its group.
            prop: the physical property.
            skip: number of frames left out after `first`.

        Raises:
            ValueError: neither the video nor `fps` states the frames per second.
        """
        fps = self.video.fps or self.fps
        if not fps:
            raise ValueError(f"got {self.video.path}, which states no frame rate · expected one · pass fps")
        chosen = framing.indices(self.count - skip, str(self.video.path))
        indices = tuple(i + self.first + skip for i in chosen)
        frames = self.video.read(indices)
        record = framing.record(self.video.count, indices, frames.shape[1:3], fps) | {"source": str(self.video.path)}
        factors, rate = {**self.factors, **record}, framing.rate(fps, indices)
        return Clip(
            f"{group}/{self.role}", framing.shape(frames), self.possible, group, self.role, prop, factors, (), rate
        )


@dataclass(frozen=True)
class Batch:
    """A listed group: its recordings and which of them are compared.

    If `aligned`, leading frames of longer recordings are left out so that all are as long as the shortest.
    """

    id: str
    property: str
    recordings: tuple[Recording, ...]
    matches: tuple[tuple[int, int], ...] = ()
    aligned: bool = False

    def read(self, framing: Framing, tolerance: float = 0.0) -> Scene:
        """Reads the scene with its frames and locates its breaks.

        Args:
            framing: which frames, at what size.
            tolerance: distance (see `dit_lens.clips.frame_distances`) up to which two frames count as the same.

        Raises:
            ValueError: two clips that are compared are equal, bit for bit, in all frames that are used.
        """
        shortest = min(recording.count for recording in self.recordings) if self.aligned else None
        skips = [0 if shortest is None else recording.count - shortest for recording in self.recordings]
        clips = [
            recording.read(framing, self.id, self.property, skip)
            for recording, skip in zip(self.recordings, skips, strict=True)
        ]
        clips = [replace(clip, factors={**clip.factors, "break_tolerance": tolerance}) for clip in clips]
        breaks = tuple(shared_breaks(clips[i], clips[j], tolerance) for i, j in self.matches)
        return Scene(self.id, tuple(clips), self.matches, breaks)


class Recordings(Lazily[Batch, Scene]):
    """Scenes of recordings; `listed` has their labels and factors without reading a frame.

    Args:
        batches: the groups.
        name: of the data set, for error messages.
        framing: which frames, at what size.
        tolerance: distance (see `dit_lens.clips.frame_distances`) up to which two frames count as the same when
            breaks are located; compressed videos need a few grey levels.

    Raises:
        ValueError: no recordings, or a negative tolerance. FileNotFoundError: a listed file is missing; names it.
    """

    def __init__(self, batches: Iterable[Batch], name: str, framing: Framing | None = None, tolerance: float = 0.0):
        super().__init__(batches, name)
        self.framing, self.tolerance = framing or Framing(), check_tolerance(tolerance)
        for recording in (recording for batch in self.listed for recording in batch.recordings):
            if recording.video.data is None and not recording.video.path.exists():
                raise FileNotFoundError(f"got no file {recording.video.path} · expected it, because {name} lists it")

    def read(self, listed: Batch) -> Scene:
        """Reads a scene with its frames."""
        return listed.read(self.framing, self.tolerance)

    def outline(self, index: int) -> Outline:
        """Id, property, labels and matches of a scene, without reading its frames."""
        batch = self.listed[index]
        labels = tuple(recording.possible for recording in batch.recordings)
        policy = str(batch.recordings[0].factors.get("policy", ""))
        return Outline(batch.id, batch.property, labels, batch.matches, policy)


def match_labels(labels: Sequence[bool | None]) -> tuple[tuple[int, int], ...]:
    """Positions of every possible clip paired with every impossible one."""
    possible = [i for i, label in enumerate(labels) if label is True]
    return tuple((i, j) for i in possible for j, label in enumerate(labels) if label is False)


def shared_breaks(clip: Clip, match: Clip, tolerance: float = 0.0) -> tuple[int, ...]:
    """The frames at which two clips begin and cease to differ; none if they share no first frame, or differ too little.

    Raises:
        ValueError: the clips are equal, bit for bit, in all frames.
    """
    if clip.frames.shape != match.frames.shape:
        return ()
    if (clip.frames == match.frames).all():
        raise ValueError(
            f"got {clip.id} and {match.id}, which are equal in all {len(clip.frames)} frames that are used · expected"
            " frames in which they differ · use more frames, or check whether one file occurs twice"
        )
    breaks = breaks_between(clip.frames, match.frames, tolerance)
    return breaks if breaks and breaks[0] else ()


def check_tolerance(tolerance: float) -> float:
    """The tolerance, after a check that it is 0 or more.

    Raises:
        ValueError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise ValueError(f"got tolerance={tolerance:g} · expected 0 or more grey levels")
    return tolerance


@cache
def tell_once(notice: str) -> None:
    """Shows a licence notice once per process."""
    warnings.warn(notice, UserWarning, stacklevel=3)


def relative(path: Path, root: Path) -> str:
    """A path relative to the data set's root, with slashes."""
    return path.relative_to(root).as_posix()
