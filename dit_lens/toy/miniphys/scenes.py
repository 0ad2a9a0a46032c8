"""The parameters of miniphys: looks, scenes, and what an object does in a scene (its cast).

Lengths are in world pixels: a frame is 32 x 32 of them at any resolution. x grows to the right, y downward. Times are
in frames; gravity in pixels per frame squared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAMES, WORLD, SPLICE = 17, 32.0, 9
EDGE = 1.0  # soft edge of the object (half a pixel) and of the occluder (half a pixel)
SHAPES = ("disc", "square", "triangle")
UNSEEN_SHAPES = ("diamond", "cross")
COLOURS = {
    "red": (0.95, 0.12, 0.12),
    "green": (0.12, 0.80, 0.20),
    "blue": (0.15, 0.25, 0.98),
    "yellow": (0.98, 0.90, 0.10),
}
UNSEEN_COLOURS = {
    "orange": (0.98, 0.52, 0.08),
    "cyan": (0.10, 0.85, 0.90),
    "purple": (0.55, 0.15, 0.85),
    "lime": (0.65, 0.92, 0.10),
}
PALETTE = COLOURS | UNSEEN_COLOURS
COMPLEMENTS = {"red": "green", "blue": "yellow", "orange": "cyan", "purple": "lime"}
COMPLEMENTS |= {second: first for first, second in COMPLEMENTS.items()}


@dataclass(frozen=True)
class Style:
    """The looks and layouts that a split may use.

    Attributes:
        unusual_layout: the occluder is darker, hangs from the top and stands off the centre.
        plain: no texture, no distractors, and the time behind the occluder is centred on the splice.
        crowded: always texture, of up to twice the contrast, two or three distractors, and 7 or 8 frames hidden.
    """

    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = tuple(COLOURS)
    unusual_layout: bool = False
    plain: bool = False
    crowded: bool = False


@dataclass(frozen=True)
class Distractor:
    """A small object in the foreground, never hidden, the same in all four clips; it moves straight or stands still."""

    shape: str
    colour: str
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """The parameters that the four clips share.

    Attributes:
        radius, speed: of the object; `speed` is the horizontal one, at `middle`.
        middle: the (fractional) frame at which the object is behind the centre of the occluder.
        occluder: its centre (x) and width.
        top: height that the occluder leaves free above it (below it if it hangs), frame by frame.
        hanging: whether the occluder hangs from the top instead of standing on the bottom.
        gravity: 0 where the world is viewed from above.
        ground: y of the floor, if there is one.
        ramp: angle of the incline in degrees (positive falls to the right), if there is one.
        ramp_height: y of its surface behind the centre of the occluder.
        gate: x and colour of a gate that paints an object that passes it, if there is one.
        wall: centre (x) of a visible wall, if there is one.
    """

    radius: float
    speed: float
    middle: float
    occluder: tuple[float, float]
    top: tuple[float, ...]
    occluder_colour: tuple[float, float, float]
    background: tuple[float, float, float]
    waves: tuple[tuple[float, float, float, float], ...] = ()
    distractors: tuple[Distractor, ...] = ()
    hanging: bool = False
    gravity: float = 0.0
    ground: float | None = None
    ramp: float | None = None
    ramp_height: float | None = None
    gate: tuple[float, str] | None = None
    wall: float | None = None


@dataclass(frozen=True)
class Cast:
    """Look and motion of the object; A and B of a quadruplet differ in one of these attributes (or in their ramp).

    Attributes:
        present: whether there is an object.
        direction: +1 to the right, -1 to the left.
        height: y at which it passes behind the centre of the occluder.
        place: x relative to the centre of the occluder, where it rests.
        arc: "over" (rises and falls) or "bounce" (falls and rises), if there is gravity.
        blocked: whether a wall behind the occluder throws it back.
        follower: colour of a second object that goes in after the first, if any.
        slope: angle in degrees that determines its acceleration.
    """

    shape: str
    colour: str
    present: bool = True
    direction: int = 1
    height: float = WORLD / 2
    place: float = 0.0
    arc: str = "over"
    blocked: bool = False
    follower: str | None = None
    slope: float = 0.0


def fixed(top: float) -> tuple[float, ...]:
    """Heights, by frame, of an occluder that stands still."""
    return (float(top),) * FRAMES


def rising(top: float, full: int, falls: int | None = None, frames: int = 3) -> tuple[float, ...]:
    """Heights, by frame, of an occluder that is up at frame `full` and falls after frame `falls`, each in `frames`."""
    t = np.arange(FRAMES)
    up = np.clip(1 - (full - t) / frames, 0, 1)
    down = np.ones(FRAMES) if falls is None else np.clip(1 - (t - falls) / frames, 0, 1)
    return tuple(float(y) for y in WORLD - (WORLD - top) * np.minimum(up, down))
