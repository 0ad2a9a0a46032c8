"""The clip contract: what a data set hands out, whoever made it.

A `Clip` is a short video with what is known of it; a `Quadruplet` is two possible clips A, B and their two
impossible crossings C (first half of A, second half of B) and D (first half of B, second half of A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

ROLES = ("A", "B", "C", "D")
Half = Literal["first", "second"]


@dataclass(frozen=True, eq=False)
class Track:
    """Ground truth of one object in every frame (x to the right, y down; lengths in the data set's own unit).

    `present` says that there is an object (visible or not), `hidden` that it is wholly behind the occluder. Where no
    object is present, numbers are NaN and names are empty.
    """

    position: Float[np.ndarray, "F 2"]
    velocity: Float[np.ndarray, "F 2"]
    present: Bool[np.ndarray, " F"]
    hidden: Bool[np.ndarray, " F"]
    radius: Float[np.ndarray, " F"]
    shape: np.ndarray
    colour: np.ndarray

    def splice(self, other: Track, frame: int) -> Track:
        """The track that follows this one before `frame` and the other from `frame` on."""
        names = [part.name for part in fields(self)]
        return Track(*(np.concatenate([getattr(self, n)[:frame], getattr(other, n)[frame:]]) for n in names))


@dataclass(frozen=True, eq=False)
class Clip:
    """One video and what is known of it.

    Attributes:
        id: unique name, `dataset/split/group/role`.
        frames: uint8 RGB of shape (F, H, W, 3).
        possible: True, False, or None where the label is unknown (never guessed).
        group: id of the quadruplet (or other unit) that must stay on one side of every split.
        role: "A", "B", "C" or "D" inside a quadruplet; in other groups the data set's own word.
        property: the law in question, such as "permanence".
        factors: everything else that was drawn for the scene (plain Python values).
        tracks: ground truth of the objects, where it is known; first the one that the property is about.
        fps: frames per second as the maker intends them, at the frames that are used.
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
    """A possible and an impossible clip of one quadruplet that share one half.

    `first_difference` and `last_difference` are the first and last frame in which the two differ.
    """

    possible: Clip
    impossible: Clip
    shares: Half
    first_difference: int
    last_difference: int


@dataclass(frozen=True, eq=False)
class Quadruplet:
    """Two possible clips (a, b) and their crossings (c, d), spliced at frame `splice`.

    Where it is `crossed`, every frame of c and d is, bit for bit, a frame of a or b, so that a + b - c - d = 0 for
    every feature that is a sum over frames. Otherwise the four are matched only: each half of c and d has its like
    in a or b, and it takes the controls to show what gives it away.
    """

    a: Clip
    b: Clip
    c: Clip
    d: Clip
    splice: int
    property: str
    event: str
    crossed: bool = True

    @cached_property
    def id(self) -> str:
        """The group id shared by the four clips."""
        return self.a.group

    @cached_property
    def clips(self) -> tuple[Clip, Clip, Clip, Clip]:
        """The clips in the order A, B, C, D."""
        return self.a, self.b, self.c, self.d

    def pairs(self, shares: Half) -> tuple[Pair, Pair]:
        """The two possible/impossible pairs with the same first half (A, C), (B, D) or second half (A, D), (B, C).

        Args:
            shares: "first" or "second".

        Raises:
            ValueError: any other half.
        """
        match shares:
            case "first":
                return _pair(self.a, self.c, shares), _pair(self.b, self.d, shares)
            case "second":
                return _pair(self.a, self.d, shares), _pair(self.b, self.c, shares)
        raise ValueError(
            f"got shares={shares!r} · expected 'first' or 'second' · say which half the pair has in common"
        )


@dataclass(frozen=True, eq=False)
class Group:
    """Clips that must stay on one side of every split and are no quadruplet: unlabelled, real, or of another number.

    Attributes:
        id: the group id shared by the clips.
        clips: the clips.
        matches: places in `clips` of the two that are compared: possible and impossible, or, where labels are
            unknown, the two that belong together.
    """

    id: str
    clips: tuple[Clip, ...]
    matches: tuple[tuple[int, int], ...] = ()

    @cached_property
    def property(self) -> str:
        """The law in question."""
        return self.clips[0].property


def _pair(possible: Clip, impossible: Clip, shares: Half) -> Pair:
    frames = np.flatnonzero((possible.frames != impossible.frames).any(axis=(1, 2, 3)))
    if not len(frames):
        raise ValueError(f"got {possible.id} and {impossible.id}, which are the same frames · expected two clips")
    return Pair(possible, impossible, shares, int(frames[0]), int(frames[-1]))


def stack_frames(clips: Clip | Sequence[Clip] | np.ndarray) -> UInt8[np.ndarray, "b F H W 3"]:
    """The frames of clips, or of an array of one clip or several.

    Raises:
        TypeError: neither.
    """
    if isinstance(clips, np.ndarray):
        return clips if clips.ndim == 5 else clips[None]
    several = [clips] if isinstance(clips, Clip) else list(clips)
    if not several or not all(isinstance(clip, Clip) for clip in several):
        got = f"a list of {type(several[0]).__name__}" if several else "an empty list"
        raise TypeError(f"got {got} · expected clips, uint8 frames (F, H, W, 3) or latents · of a pair, pair.possible")
    return np.stack([clip.frames for clip in several])


def clip_ids(clips: Clip | Sequence[Clip] | np.ndarray | Tensor) -> tuple[str, ...]:
    """The clips' ids, or numbers where an array or a tensor has none."""
    if isinstance(clips, Clip):
        return (clips.id,)
    if isinstance(clips, (Tensor, np.ndarray)):
        return tuple(str(i) for i in range(len(clips) if clips.ndim == 5 else 1))
    return tuple(clip.id for clip in clips)
