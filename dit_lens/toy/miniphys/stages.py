"""Stages: the kinds of scenes. Each draws a scene and a cast, and computes the positions of the objects.

========== ============================================================ =========================================
stage      what happens                                                 attributes that a property may vary
========== ============================================================ =========================================
passing    passes behind a standing occluder                            present, shape, colour, height, direction
resting    lies still; an occluder rises before it and falls            present, shape, colour, place
thrown     flies over an apex, or bounces, behind the occluder          arc
blocked    a wall (or none) is visible, an occluder rises before it     blocked
sliding    slides down or up a ramp behind the occluder                 slope (with the ramp)
queueing   two go in one after the other, of different colours          colour (with the follower's)
turning    a visible wall throws it back before it goes in              direction
painting   a visible gate paints it after it has come out               colour
========== ============================================================ =========================================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import dit_lens.toy.miniphys.physics as physics
from dit_lens.toy.miniphys.physics import Path
from dit_lens.toy.miniphys.scenes import (
    COMPLEMENTS,
    EDGE,
    SPLICE,
    WORLD,
    Cast,
    Distractor,
    Layout,
    Style,
    fixed,
    rising,
)

Rng = np.random.Generator
# Hidden spans (first frame, last frame) of 5 to 8 frames that hold the splice and a whole latent frame beside it
# (frames 5-8 or 9-12), and leave at least three frames before and after.
HIDDEN_SPANS = tuple(
    (first, last)
    for first, last in itertools.product(range(3, 9), range(9, 14))
    if 5 <= last - first + 1 <= 8 and (first <= SPLICE - 4 or last >= SPLICE + 3)
)
CENTRED_SPANS = tuple(span for span in HIDDEN_SPANS if abs(sum(span) - (2 * SPLICE - 1)) <= 1)
LONG_SPANS = tuple(span for span in HIDDEN_SPANS if span[1] - span[0] >= 6)
RAMPS = (5.0, 12.0, 18.0)


@dataclass(frozen=True)
class Stage:
    """One kind of scene.

    Attributes:
        draw: draws a scene and a cast.
        paths: (positions, velocities) of the object and of its follower, if any, from scene and cast.
    """

    draw: Callable[[Rng, Style], tuple[Layout, Cast]]
    paths: Callable[[Layout, Cast], list[tuple[Path, Path]]]


def _scene(rng: Rng, style: Style, spans: tuple[tuple[int, int], ...] = HIDDEN_SPANS, **options: Any) -> Layout:
    """A scene in which the object is completely hidden in the frames of a span, and up to a third of a frame longer."""
    spans = _spans(style, spans)
    # Short spans are more frequent: a long one needs a wide occluder, which leaves less of the object to be seen.
    weights = np.array([(9.0 - (last - first + 1)) ** 2 for first, last in spans])
    first, last = spans[rng.choice(len(spans), p=weights / weights.sum())]
    radius, speed = rng.uniform(*options.pop("radius", (2.8, 3.4))), rng.uniform(*options.pop("speed", (1.5, 1.9)))
    width = speed * (last - first + 0.4) + 2 * radius + 2 * EDGE
    centre = WORLD / 2 + options.pop("off_centre", 0.0) + rng.uniform(-0.5, 0.5)
    shifts = options.pop("shifts", (-2.0, 2.0))
    grey = (0.20, 0.26) if style.unusual_layout else (0.32, 0.38)
    top = rng.uniform(*options.pop("top", (0.5, 3.0)))
    scene = Layout(
        radius=radius,
        speed=speed,
        middle=(first + last) / 2 + rng.uniform(-0.15, 0.15),
        occluder=(centre + (float(rng.choice(shifts)) if style.unusual_layout else 0.0), width),
        top=fixed(top),
        occluder_colour=tuple(rng.uniform(*grey, 3).tolist()),
        background=tuple(rng.uniform(0.45, 0.55, 3).tolist()),
        waves=_waves(rng, style),
        distractors=_distractors(rng, style),
        hanging=style.unusual_layout,
    )
    return replace(scene, **options)


def _spans(style: Style, spans: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Those of the spans that the style allows; all, where the stage leaves no choice."""
    allowed = CENTRED_SPANS if style.plain else LONG_SPANS if style.crowded else spans
    return tuple(span for span in spans if span in allowed) or spans


def _waves(rng: Rng, style: Style) -> tuple[tuple[float, float, float, float], ...]:
    """Texture of the background: none in half of the scenes, else waves (amplitude, per pixel in x and y, phase)."""
    if style.plain:
        return ()
    chances, strongest = ([0.0, 0.4, 0.3, 0.3], 0.06) if style.crowded else ([0.5, 0.2, 0.15, 0.15], 0.03)
    count = rng.choice(4, p=chances)
    angle, length = rng.uniform(0, np.pi, count), rng.uniform(12, 48, count)
    pitch = 2 * np.pi / length
    waves = zip(rng.uniform(0.01, strongest, count), pitch * np.cos(angle), pitch * np.sin(angle), strict=True)
    return tuple((float(a), float(kx), float(ky), float(rng.uniform(0, 2 * np.pi))) for a, kx, ky in waves)


def _distractors(rng: Rng, style: Style) -> tuple[Distractor, ...]:
    if style.plain:
        return ()
    count = rng.integers(2, 4) if style.crowded else rng.choice(3, p=[0.6, 0.28, 0.12])
    return tuple(_distractor(rng, style) for _ in range(count))


def _distractor(rng: Rng, style: Style) -> Distractor:
    moves = rng.random() < 0.5
    return Distractor(
        shape=str(rng.choice(style.shapes)),
        colour=str(rng.choice(style.colours)),
        radius=rng.uniform(1.5, 2.0),
        start=(rng.uniform(2, WORLD - 2), rng.uniform(2, WORLD - 2)),
        velocity=(rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)) if moves else (0.0, 0.0),
    )


def _cast(rng: Rng, style: Style, **fields: Any) -> Cast:
    cast = Cast(str(rng.choice(style.shapes)), str(rng.choice(style.colours)), direction=int(rng.choice([-1, 1])))
    return replace(cast, **fields)


def draw_height(rng: Rng, scene: Layout) -> float:
    """A random y at which the object is in the picture and within the height of the occluder."""
    margin = scene.radius + EDGE
    span = (margin + scene.top[SPLICE], WORLD - margin)
    return float(rng.uniform(*span)) if not scene.hanging else float(WORLD - rng.uniform(*span))


def change(cast: Cast, attribute: str, scene: Layout, style: Style, rng: Rng) -> Cast:
    """The cast with another value of one attribute."""
    match attribute:
        case "present" | "blocked":
            return replace(cast, **{attribute: not getattr(cast, attribute)})
        case "shape":
            return replace(cast, shape=str(rng.choice([s for s in style.shapes if s != cast.shape])))
        case "colour":  # of the follower too, where there is one: the two change places
            return recoloured(cast)
        case "direction":
            return replace(cast, direction=-cast.direction)
        case "arc":
            return replace(cast, arc="bounce" if cast.arc == "over" else "over")
        case "slope":
            others = [angle for angle in RAMPS if angle != abs(cast.slope)]
            return replace(cast, slope=float(np.sign(cast.slope) * rng.choice(others)))
        case "height":
            shift = rng.uniform(8, 13) * (1 if cast.height < WORLD / 2 else -1)
            margin = scene.radius + EDGE + 3.0
            return replace(cast, height=float(np.clip(cast.height + shift, margin, WORLD - margin)))
        case "place":
            return replace(cast, place=-cast.place)
    raise ValueError(f"got attribute {attribute!r} · expected one that a stage varies")


def recoloured(cast: Cast) -> Cast:
    """The same cast in complementary colours."""
    return replace(cast, colour=COMPLEMENTS[cast.colour], follower=cast.follower and COMPLEMENTS[cast.follower])


def hidden(scene: Layout, position: Path) -> np.ndarray:
    """Whether an object at `position` is completely behind the occluder, by frame."""
    centre, width = scene.occluder
    reach, top = scene.radius + EDGE, np.asarray(scene.top)
    beside = np.abs(position[:, 0] - centre) + reach <= width / 2
    y = position[:, 1]
    return beside & (y + reach <= WORLD - top if scene.hanging else y - reach >= top)


def _draw_passing(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    scene = _scene(rng, style)
    return scene, _cast(rng, style, height=draw_height(rng, scene))


def _pass(scene: Layout, cast: Cast) -> list[tuple[Path, Path]]:
    return [physics.straight((scene.occluder[0], cast.height), (cast.direction * scene.speed, 0.0), scene.middle)]


def _draw_resting(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    spans = _spans(style, tuple(span for span in HIDDEN_SPANS if span[1] - span[0] < 7))
    first, last = spans[rng.choice(len(spans))]
    scene = _scene(rng, style)
    scene = replace(scene, occluder=(scene.occluder[0], 22.0), top=rising(scene.top[0], first, last))
    reach = 11 - scene.radius - EDGE
    place = float(rng.uniform(0.5, 1.0) * reach * rng.choice([-1, 1]))
    return scene, _cast(rng, style, height=draw_height(rng, scene), place=place)


def _rest(scene: Layout, cast: Cast) -> list[tuple[Path, Path]]:
    return [physics.straight((scene.occluder[0] + cast.place, cast.height), (0.0, 0.0), 0)]


def _draw_thrown(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    ground = float(rng.uniform(28.5, 30.5))
    scene = _scene(rng, style, top=(0.5, 1.5))
    if scene.hanging:  # the ball is to be hidden on the ground too
        ground = min(ground, WORLD - scene.top[SPLICE] - 2 * EDGE)
    scene = replace(scene, ground=ground)
    scene = replace(scene, gravity=physics.draw_gravity(rng, scene))
    return scene, _cast(rng, style, height=physics.apex(scene), arc=str(rng.choice(["over", "bounce"])))


def _draw_blocked(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    spans = tuple(span for span in HIDDEN_SPANS if span[0] >= 4)
    scene = _scene(rng, style, spans=spans)
    scene = replace(scene, top=rising(scene.top[0], 3))
    return scene, _cast(rng, style, height=draw_height(rng, scene), blocked=bool(rng.random() < 0.5))


def _meet_wall(scene: Layout, cast: Cast) -> list[tuple[Path, Path]]:
    if not cast.blocked:
        return _pass(scene, cast)
    v = cast.direction * scene.speed
    wall = hidden_wall(scene, cast)
    ends = ((wall, -WORLD), (wall, 2 * WORLD), physics.WALL)
    start = (scene.occluder[0] - v * scene.middle, cast.height)
    return [physics.simulate(start, (v, 0.0), scene.radius, [ends])]


def hidden_wall(scene: Layout, cast: Cast) -> float:
    """Centre (x) of the wall that throws the object back when it is behind the centre of the occluder."""
    return scene.occluder[0] + cast.direction * (scene.radius + physics.WALL)


def _draw_sliding(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    angle = float(rng.choice(RAMPS) * rng.choice([-1, 1]))
    # The speed is exact at `middle` only: the object comes up to a frame early or late, and must be visible on both
    # sides even if it starts from rest.
    spans = ((5, 10), (7, 12))
    height = float(rng.uniform(15, 21))
    scene = _scene(rng, style, spans, radius=(2.4, 2.7), top=(0.5, 1.5), gravity=0.35, ramp=angle, ramp_height=height)
    return scene, _cast(rng, style, slope=angle)


def _draw_queueing(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    scene = _scene(rng, style, spans=((3, 9), (3, 10)), radius=(2.4, 2.7), speed=(1.6, 1.8))
    cast = _cast(rng, style, height=draw_height(rng, scene))
    return scene, replace(cast, follower=COMPLEMENTS[cast.colour])


def _queue(scene: Layout, cast: Cast) -> list[tuple[Path, Path]]:
    """Paths of the object and of a follower, an eighth slower and fully hidden half a frame before the splice."""
    if cast.follower is None:
        return _pass(scene, cast)
    x, direction = scene.occluder[0], cast.direction
    edge = scene.occluder[1] / 2 - scene.radius - EDGE
    speed, entry = 0.875 * scene.speed, SPLICE - 1.5
    second = physics.straight((x - direction * edge, cast.height), (direction * speed, 0.0), entry)
    return [*_pass(scene, cast), second]


def _draw_turning(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    side = int(rng.choice([-1, 1]))  # where the wall is
    scene = _scene(
        rng, style, spans=((8, 12), (7, 12)), radius=(2.4, 2.7), speed=(1.8, 2.0), off_centre=-4.0 * side,
        wall=WORLD / 2 + side * (WORLD / 2 - physics.WALL),
        shifts=(2.0 * side,),  # away from the wall, there would be no time to meet it while visible
    )  # fmt: skip
    return scene, _cast(rng, style, height=draw_height(rng, scene), direction=-side)


def _draw_painting(rng: Rng, style: Style) -> tuple[Layout, Cast]:
    direction = int(rng.choice([-1, 1]))
    scene = _scene(
        rng, style, spans=((3, 9), (4, 9), (5, 9)), radius=(2.4, 2.7), speed=(1.7, 1.9), off_centre=-3.0 * direction
    )
    cast = _cast(rng, style, height=draw_height(rng, scene), direction=direction)
    gate = scene.occluder[0] + direction * (scene.occluder[1] / 2 + scene.radius + 2.0)
    colour = cast.colour if rng.random() < 0.5 else COMPLEMENTS[cast.colour]
    return replace(scene, gate=(float(gate), colour)), cast


STAGES = {
    "passing": Stage(_draw_passing, _pass),
    "resting": Stage(_draw_resting, _rest),
    "thrown": Stage(_draw_thrown, lambda s, c: [physics.thrown(s, c)]),
    "blocked": Stage(_draw_blocked, _meet_wall),
    "sliding": Stage(_draw_sliding, lambda s, c: [physics.slid(s, c)]),
    "queueing": Stage(_draw_queueing, _queue),
    "turning": Stage(_draw_turning, lambda s, c: [physics.turned(s, c)]),
    "painting": Stage(_draw_painting, _pass),
}
