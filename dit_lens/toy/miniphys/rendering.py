"""Rendering of a scene: anti-aliased coverage from signed distances, at any resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dit_lens.toy.miniphys.physics import WALL
from dit_lens.toy.miniphys.scenes import PALETTE, WORLD, Layout

FLOOR_COLOUR = (0.40, 0.40, 0.40)
WALL_COLOUR = (0.15, 0.15, 0.15)
GATE = 0.6  # half the thickness of a gate


@dataclass(frozen=True, eq=False)
class Actor:
    """One moving object: its look, its direction, and its positions (F, 2) in world pixels."""

    shape: str
    colour: str
    radius: float
    position: Float[np.ndarray, "F 2"]
    direction: int = 1


def draw_frames(
    scene: Layout,
    hidden_wall: float | None,
    behind: Sequence[Actor],
    before: Sequence[Actor],
    span: slice,
    size: int,
) -> Float[np.ndarray, "n H W 3"]:
    """The frames of `span` without noise, with values about [0, 1].

    Args:
        hidden_wall: centre (x) of the wall that the occluder later covers, if any.
        behind, before: objects behind and in front of the occluder, in the order in which they are painted.
        size: height and width in pixels.
    """
    columns, rows = _grid(size)
    background = _background(scene, columns, rows)
    frames = np.broadcast_to(background, (span.stop - span.start, size, size, 3))

    def paint(frames: np.ndarray, distance: np.ndarray, colour: Sequence[float] | np.ndarray) -> np.ndarray:
        mask = np.clip(0.5 - distance * size / WORLD, 0, 1)[..., None]
        return (1 - mask) * frames + mask * np.asarray(colour)  # exact where a pixel is completely covered

    for distance, colour in _furniture(scene, hidden_wall, columns, rows):
        frames = paint(frames, distance, colour)
    for actor in behind:
        frames = paint(frames, _outline(actor, span, columns, rows), _colours(scene, actor, columns))
    frames = paint(frames, _occluder(scene, span, columns, rows), scene.occluder_colour)
    for actor in before:
        frames = paint(frames, _outline(actor, span, columns, rows), PALETTE[actor.colour])
    return frames


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(size) + 0.5) * (WORLD / size)
    return centres[None, None, :], centres[None, :, None]


def _background(scene: Layout, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    waves = sum(a * np.cos(kx * columns + ky * rows + phase) for a, kx, ky, phase in scene.waves)
    return np.asarray(scene.background) + np.asarray(waves + 0 * columns + 0 * rows)[..., None]


def _furniture(scene: Layout, hidden_wall: float | None, columns: np.ndarray, rows: np.ndarray):
    """(signed distance, colour) of floor, ramp, walls and gate, if the scene has them."""
    if scene.ground is not None:
        yield scene.ground - rows + 0 * columns, FLOOR_COLOUR
    if scene.ramp is not None and scene.ramp_height is not None:
        angle = np.radians(scene.ramp)
        below = (rows - scene.ramp_height) * np.cos(angle) - (columns - scene.occluder[0]) * np.sin(angle)
        yield -below, FLOOR_COLOUR
    if scene.wall is not None:
        yield np.abs(columns - scene.wall) - WALL + 0 * rows, WALL_COLOUR
    if hidden_wall is not None:
        top = scene.top[-1]
        reach = rows - (WORLD - top) if scene.hanging else top - rows
        yield np.maximum(np.abs(columns - hidden_wall) - WALL, reach + 1.0), WALL_COLOUR
    if scene.gate is not None:
        yield np.abs(columns - scene.gate[0]) - GATE + 0 * rows, PALETTE[scene.gate[1]]


def _occluder(scene: Layout, span: slice, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    top = np.asarray(scene.top[span])[:, None, None]
    centre, width = scene.occluder
    reach = rows - (WORLD - top) if scene.hanging else top - rows
    return np.maximum(np.abs(columns - centre) - width / 2, reach)


def _colours(scene: Layout, actor: Actor, columns: np.ndarray) -> np.ndarray:
    colour = np.asarray(PALETTE[actor.colour])
    if scene.gate is None:
        return colour
    x, painted = scene.gate
    beyond = (actor.direction * (columns - x) > 0)[..., None]
    return np.where(beyond, np.asarray(PALETTE[painted]), colour)


def _outline(actor: Actor, span: slice, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Signed distance to the outline (negative inside), world pixels."""
    x, y = actor.position[span, 0, None, None], actor.position[span, 1, None, None]
    return distance(actor.shape, actor.radius, columns - x, rows - y)


def distance(shape: str, radius: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Signed distance from the outline of a shape centred at the origin, which extends no further than `radius`."""
    r, box = radius, np.maximum(np.abs(dx), np.abs(dy)) - radius
    match shape:
        case "disc":
            return np.hypot(dx, dy) - r
        case "square":
            return box + 0.1 * r
        case "triangle":  # apex up; the box keeps the soft edge of its corners within reach
            return np.maximum(box, np.maximum(dy - 0.8 * r, np.abs(dx) * 0.894 - (dy + r) * 0.447))
        case "diamond":
            return np.maximum(box, (np.abs(dx) + np.abs(dy) - r) * 0.707)
        case "cross":
            arms = (np.maximum(np.abs(u) - r, np.abs(v) - 0.4 * r) for u, v in ((dx, dy), (dy, dx)))
            return np.minimum(*arms)
    raise ValueError(f"got shape {shape!r} · expected disc, square, triangle, diamond or cross")
