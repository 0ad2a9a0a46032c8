"""Groups of clips whose frames lie in files: listed when the data set is loaded, read when one is asked for."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from dit_lens.clips import Clip, Group
from dit_lens.datasets.framing import Framing
from dit_lens.reading import Film

Item = TypeVar("Item")
Listed = TypeVar("Listed")


class Lazily(Sequence[Item], Generic[Listed, Item]):
    """What was listed, as a sequence of items each read when it is asked for."""

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
            raise IndexError(f"got item {index} · expected below {len(self)}, the number of groups in {self.name}")
        return self.read(self.listed[index])

    def __iter__(self) -> Iterator[Item]:
        return (self.read(listed) for listed in self.listed)

    @abstractmethod
    def read(self, listed: Listed) -> Item:
        """The item itself, its frames read."""


@dataclass(frozen=True)
class Recording:
    """One clip as it is listed, its frames still on disk.

    Attributes:
        film: the frames.
        possible: as in `Clip`; None where the label is unknown.
        role: its place in its group.
        factors: what else is known.
        fps: frames per second where the film does not state them.
        first: frames before this one are no part of the clip.
    """

    film: Film
    possible: bool | None
    role: str
    factors: Mapping[str, Any] = field(default_factory=dict)
    fps: float | None = None
    first: int = 0

    @cached_property
    def count(self) -> int:
        """Frames from `first` on."""
        if self.film.count <= self.first:
            raise ValueError(
                f"got {self.film.path} with {self.film.count} frames · expected more than the {self.first} to trim"
            )
        return self.film.count - self.first

    def read(self, framing: Framing, group: str, prop: str, skip: int = 0) -> Clip:
        """The clip; its factors name the file and the frames that were used, counted from 0 in the file.

        Args:
            framing: which frames, at what size.
            group: id of its group.
            prop: the law in question.
            skip: frames left out after `first`.

        Raises:
            ValueError: neither the film nor the listing states the frames per second.
        """
        fps = self.film.fps or self.fps
        if not fps:
            raise ValueError(f"got {self.film.path}, which states no frames per second · expected some · give fps")
        chosen = framing.indices(self.count - skip, str(self.film.path))
        indices = tuple(i + self.first + skip for i in chosen)
        frames = self.film.read(indices)
        record = framing.record(self.film.count, indices, frames.shape[1:3], fps) | {"source": str(self.film.path)}
        factors, rate = {**self.factors, **record}, framing.rate(fps, indices)
        return Clip(
            f"{group}/{self.role}", framing.shape(frames), self.possible, group, self.role, prop, factors, (), rate
        )


@dataclass(frozen=True)
class Batch:
    """A group as it is listed: its recordings and which of them are compared.

    Where `aligned`, leading frames of longer recordings are left out so that all have the frames of the shortest.
    """

    id: str
    property: str
    recordings: tuple[Recording, ...]
    matches: tuple[tuple[int, int], ...] = ()
    aligned: bool = False

    def read(self, framing: Framing) -> Group:
        """The group, its frames read."""
        shortest = min(recording.count for recording in self.recordings) if self.aligned else None
        skips = [0 if shortest is None else recording.count - shortest for recording in self.recordings]
        clips = (
            recording.read(framing, self.id, self.property, skip)
            for recording, skip in zip(self.recordings, skips, strict=True)
        )
        return Group(self.id, tuple(clips), self.matches)


class Recordings(Lazily[Batch, Group]):
    """Groups of recordings. `listed` has their labels and factors without a frame being read.

    Args:
        batches: the groups.
        name: what to call the whole in a message.
        framing: which frames, at what size.

    Raises:
        ValueError: there is none. FileNotFoundError: a listed file is missing; names it.
    """

    def __init__(self, batches: Iterable[Batch], name: str, framing: Framing | None = None):
        super().__init__(batches, name)
        self.framing = framing or Framing()
        for recording in (recording for batch in self.listed for recording in batch.recordings):
            if recording.film.data is None and not recording.film.path.exists():
                raise FileNotFoundError(f"got no {recording.film.path} · expected it, for it is listed in {name}")

    def read(self, listed: Batch) -> Group:
        """The group, its frames read."""
        return listed.read(self.framing)


def match_labels(labels: Sequence[bool | None]) -> tuple[tuple[int, int], ...]:
    """The places of every possible clip with every impossible one."""
    possible = [i for i, label in enumerate(labels) if label is True]
    return tuple((i, j) for i in possible for j, label in enumerate(labels) if label is False)


@cache
def tell_once(notice: str) -> None:
    """Shows a licence notice the first time it is due in a process."""
    warnings.warn(notice, UserWarning, stacklevel=3)


def relative(path: Path, root: Path) -> str:
    """A path as its data set writes it, with slashes."""
    return path.relative_to(root).as_posix()
