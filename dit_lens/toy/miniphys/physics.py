"""Motion of objects: straight paths by formula, gravity, inclines and collisions by a rigid-body engine (pymunk)."""

from __future__ import annotations

import numpy as np
import pymunk
from jaxtyping import Float

from dit_lens.toy.miniphys.scenes import FRAMES, WORLD, Cast, Layout

Path = Float[np.ndarray, "F 2"]
SUBSTEPS = 16
WALL = 1.0  # half the thickness of a wall


def straight(position: tuple[float, float], velocity: tuple[float, float], at: float) -> tuple[Path, Path]:
    """Positions and velocities of a body without forces that is at `position` at time `at` (frames)."""
    t = np.arange(FRAMES)[:, None] - at
    return np.asarray(position) + t * np.asarray(velocity), np.tile(np.asarray(velocity, float), (FRAMES, 1))


def simulate(
    position: tuple[float, float],
    velocity: tuple[float, float],
    radius: float,
    walls: list[tuple[tuple[float, float], tuple[float, float], float]],
    gravity: tuple[float, float] = (0.0, 0.0),
    elasticity: float = 1.0,
) -> tuple[Path, Path]:
    """Positions and velocities, frame by frame, of a frictionless disc among static segments.

    Args:
        position, velocity: at frame 0.
        walls: segments (end, end, half thickness).
        gravity: pixels per frame squared.
    """
    space = pymunk.Space()
    space.gravity, space.collision_slop = gravity, 0.01
    body = pymunk.Body(mass=1.0, moment=float("inf"))
    body.position, body.velocity = position, velocity
    disc = pymunk.Circle(body, radius)
    disc.elasticity, disc.friction = elasticity, 0.0
    space.add(body, disc)
    for start, end, half in walls:
        segment = pymunk.Segment(space.static_body, start, end, half)
        segment.elasticity, segment.friction = elasticity, 0.0
        space.add(segment)
    # The engine moves with the velocity at the start of a substep; with this term parabolas are exact.
    lag = pymunk.Vec2d(*gravity) * (0.5 / SUBSTEPS**2)
    positions, velocities = np.zeros((FRAMES, 2)), np.zeros((FRAMES, 2))
    for frame in range(FRAMES):
        positions[frame], velocities[frame] = body.position, body.velocity
        for _ in range(SUBSTEPS):
            body.position += lag
            space.step(1 / SUBSTEPS)
    return positions, velocities


def thrown(scene: Layout, cast: Cast) -> tuple[Path, Path]:
    """Positions and velocities over an apex behind the occluder, or in a bounce there; `cast.height` is the apex.

    The bounce's speed at the ground is such that both motions have equal heights at the edges of the occluder.
    """
    assert scene.ground is not None
    floor, x, vx = scene.ground - scene.radius, scene.occluder[0], cast.direction * scene.speed
    t, g = scene.middle, scene.gravity
    if cast.arc == "over":
        # A late apex is the second one: at frame 0 the object is still falling from the first.
        to_ground = np.sqrt(2 * (floor - cast.height) / g)
        since = -t if t <= to_ground else 2 * to_ground - t
        y, vy = cast.height + g * since**2 / 2, g * since
    else:
        impact = (floor - cast.height) / half_hidden(scene)
        y, vy = floor - impact * t + g * t**2 / 2, impact - g * t
    ground = ((-4 * WORLD, scene.ground + 1), (5 * WORLD, scene.ground + 1), 1.0)
    return simulate((x - vx * t, y), (vx, vy), scene.radius, [ground], (0.0, g))


def half_hidden(scene: Layout) -> float:
    """Half the time (frames) for which the object is completely hidden."""
    return (scene.occluder[1] / 2 - scene.radius) / scene.speed


def draw_gravity(rng: np.random.Generator, scene: Layout) -> float:
    """Strong enough for an arc that reaches the ground as it leaves the picture; a bounce stays in the picture."""
    return float(rng.uniform(0.75, 0.95) * min(0.55 / (8.5 / half_hidden(scene) - 1), 0.4))


def apex(scene: Layout) -> float:
    """Y of the object's highest point where it is thrown."""
    assert scene.ground is not None
    return float(scene.ground - scene.radius - 36 * scene.gravity)


def slid(scene: Layout, cast: Cast) -> tuple[Path, Path]:
    """Positions and velocities down or up the ramp, with the acceleration g sin(slope) of the cast's own slope."""
    assert scene.ramp is not None and scene.ramp_height is not None
    angle = np.radians(scene.ramp)
    along, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([np.sin(angle), -np.cos(angle)])
    acceleration = scene.gravity * np.sin(np.radians(cast.slope))
    v = cast.direction * scene.speed
    t = -scene.middle
    foot = np.array([scene.occluder[0], scene.ramp_height])
    start = foot + scene.radius * normal + (v * t + acceleration * t**2 / 2) * along
    velocity = (v + acceleration * t) * along
    push = acceleration * along - scene.gravity * np.cos(angle) * normal
    left, right = (_pair(foot - normal + s * 3 * WORLD * along) for s in (-1, 1))
    return simulate(_pair(start), _pair(velocity), scene.radius, [(left, right, 1.0)], _pair(push), elasticity=0.0)


def _pair(vector: np.ndarray) -> tuple[float, float]:
    return float(vector[0]), float(vector[1])


def turned(scene: Layout, cast: Cast) -> tuple[Path, Path]:
    """Positions and velocities on a horizontal path with a visible wall at one end."""
    assert scene.wall is not None
    x, y = scene.occluder[0], cast.height
    direction = np.sign(x - scene.wall)  # the wall throws back towards this side
    face = scene.wall + direction * (WALL + scene.radius)
    v, start = cast.direction * scene.speed, x - cast.direction * scene.speed * scene.middle
    if (start - face) * direction < 0:  # it has been thrown back already when it goes in
        start, v = 2 * face - start, -v
    wall = ((scene.wall, -WORLD), (scene.wall, 2 * WORLD), WALL)
    return simulate((start, y), (v, 0.0), scene.radius, [wall])
