"""miniphys: procedural intuitive physics, one object that passes behind a static occluder.

Every item is a crossed quadruplet. A and B obey the law and differ in one attribute; C and D swap their second
halves while the object is hidden. Sensor noise is drawn per frame of A and of B and travels with the frame, and
everything static (background, occluder) is shared by the scene, so the four clips are balanced frame by frame:
nothing that adds up over frames can tell possible from impossible.

========== ==================================== ==========================================
property   A against B                          what C and D show
========== ==================================== ==========================================
permanence an object, or none                   goes in and never leaves; leaves, never went in
shape      two shapes                           another shape comes out
colour     two colours                          another colour comes out
continuity two heights                          comes out at another height
inertia    from the left, or from the right     turns back behind the occluder
========== ==================================== ==========================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import overload

import numpy as np
from jaxtyping import Float, UInt8

from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Quadruplet, Track

PROPERTIES = ("permanence", "shape", "colour", "continuity", "inertia")
# No law at all: A and B share the scene and the timing, everything else is drawn anew. Crossed, its clips have halves
# that know nothing of each other; they train the null twin.
LAWLESS = "lawless"
SPLITS = {"pretrain": 0, "train": 1, "test": 2}
FRAMES, SIZE, SPLICE = 17, 32, 9
SENSOR_NOISE = 0.02
EDGE = 1.0  # soft edge of the object (half a pixel) and of the occluder (half a pixel)
SHAPES = ("disc", "square", "triangle")
COLOURS = {
    "red": (0.95, 0.12, 0.12),
    "green": (0.12, 0.80, 0.20),
    "blue": (0.15, 0.25, 0.98),
    "yellow": (0.98, 0.90, 0.10),
}
EVENTS = {
    "permanence": "vanishes or appears",
    "shape": "changes shape",
    "colour": "changes colour",
    "continuity": "leaves at another height",
    "inertia": "turns back",
    LAWLESS: "changes in any way",
}
# Hidden spans (first frame, last frame) of 5 to 8 frames that hold the splice and a whole latent frame beside it
# (frames 5-8 or 9-12), and leave at least three frames before and after.
HIDDEN_SPANS = tuple(
    (first, last)
    for first, last in itertools.product(range(3, 9), range(9, 14))
    if 5 <= last - first + 1 <= 8 and (first <= SPLICE - 4 or last >= SPLICE + 3)
)


@dataclass(frozen=True)
class Scene:
    """What the four clips share: the occluder (pixels) and the background's colour."""

    occluder_x: float
    occluder_width: float
    occluder_top: float
    occluder_colour: tuple[float, float, float]
    background: tuple[float, float, float]


@dataclass(frozen=True)
class Mover:
    """One object on a straight, level path; `present=False` is the empty clip of object permanence.

    `middle` is the (fractional) frame at which it is behind the centre of the occluder, `direction` +1 (to the right)
    or -1; `radius` in pixels, `speed` in pixels per frame.
    """

    shape: str
    colour: str
    radius: float
    height: float
    speed: float
    direction: int
    middle: float
    present: bool = True


@dataclass(frozen=True, eq=False)
class Film:
    """A lawful clip as shot: uint8 frames with their own sensor noise, the ground truth, and who moved."""

    frames: UInt8[np.ndarray, "F H W 3"]
    track: Track
    mover: Mover


class MiniPhys(Sequence[Quadruplet]):
    """A split of miniphys as a sequence of quadruplets, each made when it is asked for.

    Item i of a split depends on (seed, split, i) alone: a longer split begins with the shorter one.

    Args:
        split: "pretrain" (for training a DiT), "train" (for fitting probes) or "test"; scenes never recur.
        quadruplets: how many.
        properties: which laws; items take them in turn. ("lawless" is no law, see `LAWLESS`.)
        seed: seed of the whole world.

    Raises:
        ValueError: unknown split or property, or a negative size.
    """

    def __init__(
        self,
        split: str = "test",
        quadruplets: int = 100,
        properties: Sequence[str] = PROPERTIES,
        seed: int = 0,
    ):
        self.split = check_choice(split, SPLITS, "miniphys split")
        self.properties = tuple(check_choice(p, EVENTS, "miniphys property") for p in properties)
        if quadruplets < 0 or not self.properties:
            raise ValueError(
                f"got {quadruplets} quadruplets of {len(self.properties)} properties"
                " · expected 0 or more, of at least one property"
            )
        self.quadruplets, self.seed = quadruplets, seed

    def __len__(self) -> int:
        return self.quadruplets

    @overload
    def __getitem__(self, index: int) -> Quadruplet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Quadruplet]: ...
    def __getitem__(self, index: int | slice) -> Quadruplet | list[Quadruplet]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"got quadruplet {index} · expected below {len(self)} · ask load() for more quadruplets")
        return self._make(index % len(self))

    def __iter__(self) -> Iterator[Quadruplet]:
        return (self._make(i) for i in range(len(self)))

    def _make(self, index: int) -> Quadruplet:
        prop = self.properties[index % len(self.properties)]
        stream = np.random.SeedSequence([self.seed, SPLITS[self.split], list(EVENTS).index(prop), index])
        group = f"miniphys/{self.split}/{index:06d}-{prop}"
        return make_quadruplet(prop, group, np.random.default_rng(stream))


def make_quadruplet(prop: str, group: str, rng: np.random.Generator) -> Quadruplet:
    """Two lawful clips drawn from `rng` and their two crossings."""
    scene, mover_a, span = _draw(rng)
    if prop == LAWLESS:
        mover_a, mover_b = (_anyone(mover_a, scene, rng) for _ in range(2))
    else:
        mover_b = _vary(mover_a, prop, rng)
    a, b = (_film(scene, mover, rng) for mover in (mover_a, mover_b))
    scenery = {"occluder": (scene.occluder_x, scene.occluder_width), "hidden": span, "splice": SPLICE}
    clips = [
        Clip(
            id=f"{group}/{role}",
            frames=np.concatenate([first.frames[:SPLICE], second.frames[SPLICE:]]),
            possible=first is second,
            group=group,
            role=role,
            property=prop,
            factors=scenery | {"first": asdict(first.mover), "second": asdict(second.mover)},
            track=first.track.splice(second.track, SPLICE),
        )
        for role, (first, second) in {"A": (a, a), "B": (b, b), "C": (a, b), "D": (b, a)}.items()
    ]
    return Quadruplet(*clips, splice=SPLICE, property=prop, event=EVENTS[prop])


def _draw(rng: np.random.Generator) -> tuple[Scene, Mover, tuple[int, int]]:
    # Short spans are more frequent: a long one needs a wide occluder, which leaves less of the object to be seen.
    weights = np.array([(9.0 - (last - first + 1)) ** 2 for first, last in HIDDEN_SPANS])
    first, last = HIDDEN_SPANS[rng.choice(len(HIDDEN_SPANS), p=weights / weights.sum())]
    radius, speed = rng.uniform(2.8, 3.4), rng.uniform(1.5, 1.9)
    # Wide enough that the object is wholly hidden from `first` to `last` and, by a third of a frame, no longer.
    width = speed * (last - first + 0.4) + 2 * radius + 2 * EDGE
    top = rng.uniform(0.5, 3.0)
    mover = Mover(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        radius=radius,
        height=_height(top, radius, rng),
        speed=speed,
        direction=int(rng.choice([-1, 1])),
        middle=(first + last) / 2 + rng.uniform(-0.15, 0.15),
    )
    scene = Scene(
        occluder_x=SIZE / 2 + rng.uniform(-0.5, 0.5),
        occluder_width=width,
        occluder_top=top,
        occluder_colour=tuple(rng.uniform(0.32, 0.38, 3)),
        background=tuple(rng.uniform(0.45, 0.55, 3)),
    )
    return scene, mover, (first, last)


def _vary(mover: Mover, prop: str, rng: np.random.Generator) -> Mover:
    """The same mover with the one attribute changed that the property is about."""
    match prop:
        case "permanence":
            return replace(mover, present=False)
        case "shape":
            return replace(mover, shape=str(rng.choice([s for s in SHAPES if s != mover.shape])))
        case "colour":
            return replace(mover, colour=str(rng.choice([c for c in COLOURS if c != mover.colour])))
        case "continuity":
            shift = rng.uniform(8, 13) * (1 if mover.height < SIZE / 2 else -1)
            return replace(mover, height=float(np.clip(mover.height + shift, 7.4, SIZE - mover.radius - EDGE)))
        case "inertia":
            return replace(mover, direction=-mover.direction)
    raise ValueError(f"got property {prop!r} · expected one of {', '.join(PROPERTIES)}")


def _anyone(mover: Mover, scene: Scene, rng: np.random.Generator) -> Mover:
    """Any mover of the same size, speed and timing; one in ten is absent, as among lawful clips."""
    return replace(
        mover,
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        height=_height(scene.occluder_top, mover.radius, rng),
        direction=int(rng.choice([-1, 1])),
        present=bool(rng.random() >= 0.1),
    )


def _height(top: float, radius: float, rng: np.random.Generator) -> float:
    return rng.uniform(top + radius + EDGE, SIZE - radius - EDGE)


def _film(scene: Scene, mover: Mover, rng: np.random.Generator) -> Film:
    offset = mover.direction * mover.speed * (np.arange(FRAMES) - mover.middle)
    x, y = scene.occluder_x + offset, np.full(FRAMES, mover.height)
    frames = np.broadcast_to(np.asarray(scene.background), (FRAMES, SIZE, SIZE, 3))
    if mover.present:
        frames = _paint(frames, _object_mask(mover, x, y), COLOURS[mover.colour])
    frames = _paint(frames, _occluder_mask(scene), scene.occluder_colour)
    frames = frames + SENSOR_NOISE * rng.standard_normal(frames.shape)
    nowhere = np.nan if not mover.present else 1.0
    velocity = np.stack([np.full(FRAMES, mover.direction * mover.speed), np.zeros(FRAMES)], axis=-1)
    track = Track(
        position=np.stack([x, y], axis=-1) * nowhere,
        velocity=velocity * nowhere,
        present=np.full(FRAMES, mover.present),
        hidden=mover.present & (np.abs(offset) + mover.radius + EDGE <= scene.occluder_width / 2),
    )
    return Film(np.round(255 * frames.clip(0, 1)).astype(np.uint8), track, mover)


def _paint(frames: np.ndarray, mask: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    return frames + mask[..., None] * (np.asarray(colour) - frames)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    centres = np.arange(SIZE) + 0.5
    return centres[None, None, :], centres[None, :, None]


def _object_mask(mover: Mover, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "F H W"]:
    """Anti-aliased coverage in [0, 1] from the signed distance to the outline."""
    columns, rows = _grid()
    dx, dy, r = columns - x[:, None, None], rows - y[:, None, None], mover.radius
    match mover.shape:
        case "disc":
            distance = np.hypot(dx, dy) - r
        case "square":
            distance = np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * r
        case _:  # triangle, apex up
            distance = np.maximum(dy - 0.8 * r, np.abs(dx) * 0.894 - (dy + r) * 0.447)
    return np.clip(0.5 - distance, 0, 1)


def _occluder_mask(scene: Scene) -> Float[np.ndarray, "1 H W"]:
    columns, rows = _grid()
    distance = np.maximum(np.abs(columns - scene.occluder_x) - scene.occluder_width / 2, scene.occluder_top - rows)
    return np.clip(0.5 - distance, 0, 1)
