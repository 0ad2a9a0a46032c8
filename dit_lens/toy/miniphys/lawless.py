"""Halves without law: each is drawn from the layout alone, so that the first tells nothing of the second.

What the layout of a scene shows to both halves (the occluder and with it when things are hidden, the floor, the ramp,
the walls, the gate, the size of objects, the distractors), they share; presence, number, shape, colours, direction,
height or place, speed, timing, arc, slope and whether a wall stands behind the occluder are drawn for each half.

Worked example, a scene of the stage "passing" whose occluder hides 7 pixels:

    half 1: there, red disc, to the right, at y = 9, 1.8 pixels a frame, behind the centre at frame 8.1
    half 2: there, blue square, to the left, at y = 22, 1.6 pixels a frame, behind the centre at frame 9.0
    P(half 2 there) = .75 whether half 1 shows an object or not: what is seen at the start does not help at the end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import dit_lens.toy.miniphys.physics as physics
from dit_lens.toy.miniphys.scenes import EDGE, FRAMES, SPLICE, Cast, Layout, Style
from dit_lens.toy.miniphys.stages import RAMPS, STAGES, Rng, draw_height, hidden

PRESENT = 0.75  # share of halves with an object
VISIBLE = 3  # frames before and after the occluder that the time behind it leaves
TRIES = 1000
FOLLOWED = 4.0  # the latest frame at which an object that is followed is hidden, so that the two do not touch


def draw_half(stage: str, scene: Layout, style: Style, rng: Rng) -> tuple[Layout, Cast]:
    """A half of a scene: the layout with motion (speed, time and gravity) of its own, and a cast, drawn for it alone.

    Raises:
        RuntimeError: in this layout no motion is hidden at the splice (a fault of the stage).
    """
    cast = _draw_cast(stage, scene, style, rng)
    speed = STAGES[stage].draw(rng, style)[0].speed
    for _ in range(TRIES):
        moving = _draw_motion(stage, replace(scene, speed=speed), cast, rng)
        flying = replace(cast, height=physics.apex(moving)) if stage == "thrown" else cast
        positions = [position for position, _ in STAGES[stage].paths(moving, flying)]
        if all(hidden(moving, position)[[SPLICE - 1, SPLICE]].all() for position in positions):
            return moving, flying
    raise RuntimeError(f"got a layout of {stage} in which nothing is hidden at the splice · expected one that hides")


def _draw_cast(stage: str, scene: Layout, style: Style, rng: Rng) -> Cast:
    colours = [str(colour) for colour in rng.choice(style.colours, 2)]
    followed = stage == "queueing" and rng.random() < 0.5
    return Cast(
        shape=str(rng.choice(style.shapes)),
        colour=colours[0],
        present=bool(rng.random() < PRESENT),
        direction=int(rng.choice([-1, 1])),
        height=draw_height(rng, scene),
        place=float(rng.uniform(0.5, 1.0) * (11 - scene.radius - EDGE) * rng.choice([-1, 1])),
        arc=str(rng.choice(["over", "bounce"])),
        blocked=bool(stage == "blocked" and rng.random() < 0.5),
        follower=colours[1] if followed else None,
        slope=float(np.sign(scene.ramp or 0.0) * rng.choice(RAMPS)),
    )


def _draw_motion(stage: str, scene: Layout, cast: Cast, rng: Rng) -> Layout:
    """The layout with a time at which the object is behind the occluder's centre, and with gravity where it acts."""
    half = (scene.occluder[1] / 2 - scene.radius - EDGE) / scene.speed
    latest = min(SPLICE - 1 + half, FRAMES - VISIBLE - half, FOLLOWED + half if cast.follower else FRAMES)
    earliest = min(max(SPLICE - half, VISIBLE - 1 + half), latest)
    scene = replace(scene, middle=float(rng.uniform(earliest, latest)))
    return replace(scene, gravity=physics.draw_gravity(rng, scene)) if stage == "thrown" else scene
