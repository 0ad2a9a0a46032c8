"""Clips and scenes: the items of every data set.

A `Clip` is a short video with its labels and metadata. A `Scene` holds clips that belong together, and which of them
are compared. A quadruplet has two possible clips A, B and their two impossible crossings C (first half of A, second
half of B) and D (first half of B, second half of A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

ROLES = ("A", "B", "C", "D")
Half = Literal["first", "second"]


@dataclass(frozen=True, eq=False)
class Track:
    """Ground truth of one object in every frame (x to the right, y down; lengths in the data set's own unit).

    `present` says that there is an object (visible or not), `hidden` that it is completely behind the occluder. In
    frames without an object, numbers are NaN and names are empty.
    """

    position: Float[np.ndarray, "F 2"]
    velocity: Float[np.ndarray, "F 2"]
    present: Bool[np.ndarray, " F"]
    hidden: Bool[np.ndarray, " F"]
    radius: Float[np.ndarray, " F"]
    shape: np.ndarray
    colour: np.ndarray

    def splice(self, continuation: Track, frame: int) -> Track:
        """A track that equals this track before `frame` and the continuation from `frame` on."""
        names = [attribute.name for attribute in fields(self)]
        return Track(*(np.concatenate([getattr(self, n)[:frame], getattr(continuation, n)[frame:]]) for n in names))


@dataclass(frozen=True, eq=False)
class Clip:
    """One video with its labels and metadata.

    Attributes:
        id: unique name, `dataset/split/group/role`.
        frames: uint8 RGB of shape (F, H, W, 3).
        possible: True, False, or None if the label is unknown (never guessed).
        group: id of the quadruplet (or other unit) that no split may divide.
        role: "A", "B", "C" or "D" inside a quadruplet; in other groups the data set's own name for it.
        property: the physical property that the clip tests, such as "permanence".
        factors: all other metadata of the scene (plain Python values).
        tracks: ground truth of the objects, if known; first the one that the property is about.
        fps: nominal frames per second of the frames that are used.
    """

    id: str
    frames: UInt8[np.ndarray, "F H W 3"] = field(repr=False)
    possible: bool | None
    group: str
    role: str
    property: str
    factors: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tracks: tuple[Track, ...] = field(default=(), repr=False)
    fps: float = 15.0


@dataclass(frozen=True, eq=False)
class Pair:
    """A possible and an impossible clip of one scene.

    Attributes:
        shares: the half that they have in common, if any.
        first_difference, last_difference: first and last frame in which the two differ.
    """

    possible: Clip
    impossible: Clip
    shares: Half | None
    first_difference: int
    last_difference: int


@dataclass(frozen=True, eq=False)
class Scene:
    """Clips that no split may divide, and which of them are compared: the item of every data set.

    A scene whose clips have the roles A, B, C, D is a quadruplet: A and B are possible, C is compared with A and D with
    B. If it is also `crossed`, every frame of C and D is, bit for bit, a frame of A or B, so that a + b - c - d = 0 for
    every feature that is a sum over frames. Otherwise the clips are only matched, and controls are needed to show what
    distinguishes the impossible ones.

    Worked example of `breaks`: in a crossed scene of 17 frames with breaks ((9,), (9,)), C equals A up to frame 8 and B
    from frame 9 on. With breaks ((5, 11), (5, 11)), C equals A except in frames 5 to 10, where it equals B: two breaks.

    Attributes:
        id: unique name, also the `group` of its clips.
        clips: the clips, in the order of their roles.
        matches: positions in `clips` of the two that are compared: possible and impossible, or, if labels are unknown,
            the two that belong together.
        breaks: for each match the frames at which the two clips begin and cease to differ, in turn; empty if they are
            not known to share frames.
        crossed: see above.
        event: the impossible event, in words.
        unit: name of the independent observation, if several scenes belong to one; the scene's own id if empty.
    """

    id: str
    clips: tuple[Clip, ...]
    matches: tuple[tuple[int, int], ...] = ()
    breaks: tuple[tuple[int, ...], ...] = ()
    crossed: bool = False
    event: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.breaks and len(self.breaks) != len(self.matches):
            raise ValueError(f"got {len(self.breaks)} breaks of {len(self.matches)} matches · expected one of each")
        for frames in self.breaks:
            if any(later <= earlier for earlier, later in pairwise(frames)):
                raise ValueError(f"got breaks {frames} in {self.id} · expected rising frames")

    @property
    def group(self) -> str:
        """The independent observation that the scene belongs to: scenes of one group depend on each other."""
        return self.unit or self.id

    @property
    def roles(self) -> tuple[str, ...]:
        """The clips' roles, in order."""
        return tuple(clip.role for clip in self.clips)

    def __getitem__(self, role: str) -> Clip:
        """The clip of a role, such as `scene["A"]`.

        Raises:
            KeyError: no clip has this role.
        """
        if role not in self.roles:
            raise KeyError(f"got role {role!r} of {self.id} · expected one of {', '.join(self.roles)}")
        return self.clips[self.roles.index(role)]

    @property
    def splice(self) -> int:
        """The first frame in which any possible and impossible clip of the scene differ.

        Raises:
            ValueError: the scene's clips do not begin with equal frames.
        """
        return min(self.splices)

    @cached_property
    def splices(self) -> tuple[int, ...]:
        """For each clip, the first frame in which it differs from the clip (or any of several) it is compared with.

        Raises:
            ValueError: a clip shares no first frames with any other.
        """
        first: dict[int, int] = {}
        for match, frames in zip(self.matches, self.breaks, strict=False):
            first |= {i: min(frames[0], first.get(i, frames[0])) for i in match if frames}
        if len(first) < len(self.clips) or not all(first.values()):
            raise ValueError(
                f"got {self.id}, whose clips share no first frames · expected pairs that begin alike, to give the"
                " model what they share · take --path inversion or noising"
            )
        return tuple(first[i] for i in range(len(self.clips)))

    def pairs(self, shares: Half | None = None) -> tuple[Pair, ...]:
        """The pairs that are compared, or the possible/impossible pairs that share a half.

        Args:
            shares: for a quadruplet, "first" gives (A, C) and (B, D), "second" (A, D) and (B, C); None gives the
                matches of any scene.

        Raises:
            ValueError: an unknown half; halves of a scene that is not a quadruplet; two equal clips.
        """
        if shares is None:
            half: Half | None = "first" if self.breaks and all(len(frames) == 1 for frames in self.breaks) else None
            return tuple(_pair(self.clips[i], self.clips[j], half) for i, j in self.matches)
        if shares not in ("first", "second"):
            raise ValueError(
                f"got shares={shares!r} · expected 'first' or 'second' · say which half the pair has in common"
            )
        if self.roles != ROLES:
            raise ValueError(
                f"got {self.id} with roles {', '.join(self.roles)} · expected a quadruplet (A, B, C, D) for pairs that"
                " share a half · pairs() gives the pairs that are compared"
            )
        others = ("C", "D") if shares == "first" else ("D", "C")
        return tuple(_pair(self[a], self[b], shares) for a, b in zip("AB", others, strict=True))

    @cached_property
    def property(self) -> str:  # last: the name hides Python's own decorator from here on
        """The physical property that the scene tests."""
        return self.clips[0].property


def quadruplet(clips: Sequence[Clip], breaks: Sequence[Sequence[int]], event: str = "", crossed: bool = True) -> Scene:
    """The scene of four clips A, B, C, D; see `Scene`.

    Args:
        clips: A and B possible, C compared with A, D compared with B.
        breaks: of (A, C) and of (B, D).
        event: the impossible event in C and D.
        crossed: whether all frames of C and D are frames of A or B.

    Raises:
        ValueError: other roles.
    """
    if tuple(clip.role for clip in clips) != ROLES:
        raise ValueError(f"got roles {', '.join(clip.role for clip in clips)} · expected {', '.join(ROLES)}")
    frames_of_pairs = tuple(tuple(int(frame) for frame in frames) for frames in breaks)
    return Scene(clips[0].group, tuple(clips), ((0, 2), (1, 3)), frames_of_pairs, crossed, event)


def breaks_between(
    frames: UInt8[np.ndarray, "F H W 3"], reference: UInt8[np.ndarray, "F H W 3"], tolerance: float = 0.0
) -> tuple[int, ...]:
    """The frames at which two clips begin and cease to differ, in turn: (9,) if they differ from frame 9 to the end.

    Args:
        tolerance: distance in grey levels (see `frame_distances`) up to which two frames count as equal; 0 requires
            equality bit for bit. Compressed copies need a few grey levels.

    Raises:
        ValueError: clips of different shapes.
    """
    if frames.shape != reference.shape:
        raise ValueError(f"got clips of shapes {frames.shape} and {reference.shape} · expected equal shapes")
    if tolerance > 0:
        differs = frame_distances(frames, reference) > tolerance
    else:
        differs = (frames != reference).any(axis=(1, 2, 3))
    return tuple(int(i) for i in np.flatnonzero(np.diff(np.concatenate([[False], differs]).astype(np.int8))))


def frame_distances(
    frames: UInt8[np.ndarray, "F H W 3"], reference: UInt8[np.ndarray, "F H W 3"]
) -> Float[np.ndarray, " F"]:
    """Distances between the frames of two clips, in grey levels: the largest difference of means over 8 x 8 pixels.

    Compression changes every pixel a little but hardly any such mean; an object in only one of the two frames changes
    the means where it is. Averages over whole frames do not separate the two: in the example clips of IntPhys
    (GIF, 128 x 128) frames that show the same are 1.6 to 2.2 apart and frames with one ball more 1.8 to 2.3; by this
    measure they are 0.5 to 2.3 and, while the ball is in full view, 13 to 38 apart.
    """
    return np.abs(block_means(frames) - block_means(reference)).max(axis=(1, 2, 3))


def block_means(frames: UInt8[np.ndarray, "F H W 3"], side: int = 8) -> Float[np.ndarray, "F rows columns 3"]:
    """Means over squares of `side` pixels; those at the lower and right border are over the remaining pixels."""
    sums: np.ndarray = frames.astype(np.float32)
    for axis in (1, 2):
        starts = np.arange(0, frames.shape[axis], side)
        counts = np.diff([*starts, frames.shape[axis]]).astype(np.float32)
        sums = np.add.reduceat(sums, starts, axis=axis) / np.expand_dims(counts, [i for i in range(4) if i != axis])
    return sums


def _pair(possible: Clip, impossible: Clip, shares: Half | None) -> Pair:
    frames = np.flatnonzero((possible.frames != impossible.frames).any(axis=(1, 2, 3)))
    if not len(frames):
        raise ValueError(f"got {possible.id} and {impossible.id}, which are the same frames · expected two clips")
    return Pair(possible, impossible, shares, int(frames[0]), int(frames[-1]))


def stack_frames(clips: Clip | Sequence[Clip] | np.ndarray) -> UInt8[np.ndarray, "b F H W 3"]:
    """The frames of clips, or of an array with one or several clips, as one batch.

    Raises:
        TypeError: neither clips nor an array.
        ValueError: clips of different shapes, or no clips.
    """
    if isinstance(clips, np.ndarray):
        if not len(clips):
            raise ValueError(f"got an array of shape {clips.shape}, without a clip · expected at least one")
        return clips if clips.ndim == 5 else clips[None]
    items = list(clips) if isinstance(clips, Sequence) else [clips]
    if not items or not all(isinstance(clip, Clip) for clip in items):
        actual = f"a list of {type(items[0]).__name__}" if items else "an empty list"
        raise TypeError(
            f"got {actual if isinstance(clips, Sequence) else type(clips).__name__} · expected clips, uint8 frames"
            " (F, H, W, 3) or latents · of a pair, pair.possible"
        )
    shapes = sorted({clip.frames.shape for clip in items})
    if len(shapes) > 1:
        raise ValueError(
            f"got clips of shapes {', '.join(map(str, shapes))} · expected one number of frames and one size in a batch"
            " · give them a Framing, or one after another"
        )
    return np.stack([clip.frames for clip in items])


def clip_ids(clips: Clip | Sequence[Clip] | np.ndarray | Tensor) -> tuple[str, ...]:
    """The clips' ids, or numbers for an array or a tensor."""
    if isinstance(clips, Clip):
        return (clips.id,)
    if isinstance(clips, (Tensor, np.ndarray)):
        return tuple(str(i) for i in range(len(clips) if clips.ndim == 5 else 1))
    return tuple(clip.id for clip in clips)
