"""miniphys: procedural intuitive physics behind an occluder, at 32 x 32 or 64 x 64.

Every item is a quadruplet. A and B obey the law and differ in one attribute; C and D swap their second halves while
the object is hidden. Sensor noise is drawn per frame of A and of B and stays with the frame, and everything static is
shared by the scene, so crossed clips are balanced frame by frame: no feature that is a sum over frames can separate
possible from impossible.

=========== =========================================== ===================================================
property    A against B                                 what C and D show
=========== =========================================== ===================================================
permanence  an object, or none                          goes in and never leaves; leaves, never went in
shape       two shapes                                  another shape comes out
colour      complementary colours                       another colour comes out
continuity  two heights; two places at rest             comes out elsewhere; has jumped while at rest
inertia     from the left, or from the right            turns back behind the occluder
gravity     over an apex, or a bounce off the ground    keeps rising; falls through where the ground is
solidity    a wall was seen behind, or none             passes through the wall; is thrown back by nothing
incline     two ramps (a matched pair, not crossed)     speeds up as on the other ramp
exchange    two go in, one order or the other           the second to go in comes out first
collision   thrown back by a wall in sight first, or    turns back behind the occluder
            coming from the other side
gate        of the colour of the gate it will pass      comes out in another colour; the gate paints it
=========== =========================================== ===================================================

The last three are lawful changes (`CHANGES`). In collision and gate, what is seen at the end differs from what was
seen at the start (direction, colour) in possible clips as often as in impossible ones; in exchange, what comes out
differs from what went in last in every possible clip and in no impossible one. "Same or different" does not tell
possible from impossible there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, overload

import numpy as np
from jaxtyping import Float

from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Scene, Track, quadruplet
from dit_lens.datasets.recordings import Outline
from dit_lens.toy.miniphys.lawless import draw_half
from dit_lens.toy.miniphys.physics import Path, straight
from dit_lens.toy.miniphys.rendering import Actor, draw_frames
from dit_lens.toy.miniphys.scenes import (
    FRAMES,
    SPLICE,
    UNSEEN_COLOURS,
    UNSEEN_SHAPES,
    Cast,
    Layout,
    Style,
)
from dit_lens.toy.miniphys.stages import STAGES, change, hidden, hidden_wall, recoloured

__all__ = ["CHANGES", "EVENTS", "FRAMES", "LAWS", "PROPERTIES", "SPLICE", "SPLITS", "MiniPhys", "make_quadruplet"]

SENSOR_NOISE = 0.02
SIZES = (32, 64)
SPANS = (slice(0, SPLICE), slice(SPLICE, FRAMES))  # of the halves
Half = tuple[dict[str, float], Cast]  # of a clip: how its motion differs from the layout's, and its cast


@dataclass(frozen=True)
class Law:
    """A physical property: the stages that show it, the attribute in which A and B differ, and the event in C and D."""

    stages: tuple[str, ...]
    attribute: str
    event: str
    crossed: bool = True


LAWFUL = {
    "permanence": Law(("passing", "resting"), "present", "vanishes or appears"),
    "shape": Law(("passing", "resting"), "shape", "changes shape"),
    "colour": Law(("passing", "resting"), "colour", "changes colour"),
    "continuity": Law(("passing", "resting"), "height", "comes out elsewhere"),
    "inertia": Law(("passing",), "direction", "turns back"),
    "gravity": Law(("thrown",), "arc", "keeps rising or falling"),
    "solidity": Law(("blocked",), "blocked", "passes a wall or is thrown back by none"),
    "incline": Law(("sliding",), "slope", "speeds up as on another ramp", crossed=False),
    "exchange": Law(("queueing",), "colour", "come out in another order"),
    "collision": Law(("turning",), "direction", "turns back"),
    "gate": Law(("painting",), "colour", "changes colour"),
}
PROPERTIES = tuple(LAWFUL)
CHANGES = ("exchange", "collision", "gate")
EVENTS = {name: law.event for name, law in LAWFUL.items()}
# How the halves of clips A and B are related. "swap": as in physics, but colours change to their complements behind
# the occluder. "lawless": each half is drawn from the layout alone (`lawless.draw_half`).
LAWS = ("physics", "swap", "lawless")
SPLITS = {"pretrain": 0, "train": 1, "test": 2, "unseen": 3}
NOVELTIES: dict[str, dict[str, Any]] = {
    "shape": {"shapes": UNSEEN_SHAPES},
    "colour": {"colours": tuple(UNSEEN_COLOURS)},
    "layout": {"unusual_layout": True},
}
# How hard scenes are to read: by default as mini-wan was trained on; "clean" shows two stages, plainly.
DIFFICULTIES = {"": Style(), "clean": Style(plain=True), "hard": Style(crowded=True)}
CLEAN_STAGES = ("passing", "thrown")


@dataclass(frozen=True, eq=False)
class Shot:
    """One rendered half of a clip: uint8 frames (n, H, W, 3) with sensor noise, and tracks over the whole clip."""

    frames: np.ndarray
    tracks: list[Track]


class MiniPhys(Sequence[Scene]):
    """A split of miniphys as a sequence of quadruplets, each generated when it is accessed.

    Scene i of a split depends only on seed, split, properties, i and law: a longer split begins with the shorter one.

    Args:
        split: "pretrain" (for training a DiT), "train" (for fitting probes), "test", or "unseen" (test scenes whose
            shapes, colours or layouts, in turn, occur in no other split); no scene is in two splits.
        quadruplets: number of quadruplets.
        properties: physical properties, which items take in turn; None for all that the world shows.
        seed: seed of all scenes.
        size: height and width of the frames in pixels, 32 or 64.
        difficulty: "" for the world that mini-wan was trained on; "clean" for scenes that pass behind the occluder or
            are thrown (six properties), without texture or distractors, hidden for as long before the splice as after
            it; "hard" for textured scenes with two or three distractors, hidden for long.
        law: "physics"; or, for training twins, "swap" (A and B turn into their complementary colour behind the
            occluder) or "lawless" (the halves of A and of B are independent of each other). Clips of these worlds have
            no label.

    Raises:
        ValueError: unknown split, property, size, difficulty or law, a property that clean scenes do not show, or a
            negative number of quadruplets.
    """

    def __init__(
        self,
        split: str = "test",
        quadruplets: int = 100,
        properties: Sequence[str] | None = None,
        seed: int = 0,
        size: int = 32,
        law: str = "physics",
        difficulty: str = "",
    ):
        self.difficulty = check_choice(difficulty, DIFFICULTIES, "miniphys difficulty")
        shown = {name: law for name, law in LAWFUL.items() if _stages(name, difficulty)}
        self.split = check_choice(split, SPLITS, "miniphys split")
        self.law = check_choice(law, LAWS, "miniphys law")
        kind = f"{difficulty} miniphys property".strip()
        self.properties = tuple(check_choice(p, shown, kind) for p in (shown if properties is None else properties))
        if quadruplets < 0 or not self.properties:
            raise ValueError(
                f"got {quadruplets} quadruplets of {len(self.properties)} properties"
                " · expected 0 or more, of at least one property"
            )
        if size not in SIZES:
            raise ValueError(f"got frames of {size} pixels · expected {' or '.join(map(str, SIZES))}")
        self.quadruplets, self.seed, self.size = quadruplets, seed, size

    def __len__(self) -> int:
        return self.quadruplets

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"got quadruplet {index} · expected below {len(self)} · ask load() for more quadruplets")
        return self._make(index % len(self))

    def __iter__(self) -> Iterator[Scene]:
        return (self._make(i) for i in range(len(self)))

    def outline(self, index: int) -> Outline:
        """Id, property, labels and matches of a scene, without generating it."""
        prop, _, group = self._named(index)
        labelled = self.law == "physics"
        labels = (True, True, False, False) if labelled else (None,) * 4
        return Outline(group, prop, labels, ((0, 2), (1, 3)))

    def _named(self, index: int) -> tuple[str, str, str]:
        """Property, kind of novelty, and id of a scene."""
        prop, kind = self.properties[index % len(self.properties)], ""
        if self.split == "unseen":
            kind = tuple(NOVELTIES)[index // len(self.properties) % len(NOVELTIES)]
        world = "-".join(part for part in ("miniphys", self.difficulty) if part)
        return prop, kind, f"{world}/{self.split}/{index:06d}-{prop}" + (f"-{kind}" if kind else "")

    def _make(self, index: int) -> Scene:
        prop, kind, group = self._named(index)
        world = [tuple(DIFFICULTIES).index(self.difficulty)] if self.difficulty else []
        stream = np.random.SeedSequence([self.seed, SPLITS[self.split], PROPERTIES.index(prop), index, *world])
        style = replace(DIFFICULTIES[self.difficulty], **NOVELTIES[kind] if kind else {})
        stage = str((rng := np.random.default_rng(stream)).choice(_stages(prop, self.difficulty)))
        return make_quadruplet(prop, stage, group, rng, style, self.size, self.law)


def _stages(prop: str, difficulty: str) -> tuple[str, ...]:
    """The stages that show a property."""
    return tuple(stage for stage in LAWFUL[prop].stages if difficulty != "clean" or stage in CLEAN_STAGES)


def make_quadruplet(
    prop: str, name: str, group: str, rng: np.random.Generator, style: Style, size: int = 32, law: str = "physics"
) -> Scene:
    """A scene of stage `name`: clips A and B that obey `law`, drawn from `rng`, and their two crossings C and D."""
    scenes, halves = _scenes_and_halves(name, prop, law, style, rng)
    noise = SENSOR_NOISE * rng.standard_normal((2, FRAMES, size, size, 3), dtype=np.float32)
    settings = {"stage": name, "splice": SPLICE, "law": law, "size": size}
    shots: dict[tuple[int, int, int], Shot] = {}

    def shot(scene: int, actor: int, half: int) -> Shot:
        # Where both clips share a scene, C and D consist of the same frames as A and B, noise included.
        key = (actor if LAWFUL[prop].crossed else scene, actor, half)
        if key not in shots:
            motion, cast = halves[actor][half]
            shots[key] = _shoot(name, replace(scenes[scene], **motion), cast, noise[actor], SPANS[half])
        return shots[key]

    clips = []
    for role, (start, end) in {"A": (0, 0), "B": (1, 1), "C": (0, 1), "D": (1, 0)}.items():
        first, second = shot(start, start, 0), shot(start, end, 1)
        casting = {"first": _factors(halves[start][0]), "second": _factors(halves[end][1])}
        clips.append(
            Clip(
                id=f"{group}/{role}",
                frames=np.concatenate([first.frames, second.frames]),
                possible=None if law != "physics" else start == end,
                group=group,
                role=role,
                property=prop,
                factors=settings | {"scene": asdict(scenes[start])} | casting,
                tracks=tuple(a.splice(b, SPLICE) for a, b in zip(first.tracks, second.tracks, strict=True)),
            )
        )
    return quadruplet(clips, ((SPLICE,), (SPLICE,)), EVENTS[prop], LAWFUL[prop].crossed)


def _scenes_and_halves(
    name: str, prop: str, law: str, style: Style, rng: np.random.Generator
) -> tuple[tuple[Layout, Layout], tuple[tuple[Half, Half], tuple[Half, Half]]]:
    """Scenes of A and B (the same, except for the ramp), and both halves of each."""
    stage, attribute = STAGES[name], LAWFUL[prop].attribute
    if name == "resting" and attribute == "height":
        attribute = "place"
    scene, a = stage.draw(rng, style)
    b = change(a, attribute, scene, style, rng)
    scenes = (scene, replace(scene, ramp=b.slope)) if attribute == "slope" else (scene, scene)
    if law == "swap":
        return scenes, ((({}, a), ({}, recoloured(a))), (({}, b), ({}, recoloured(b))))
    if law == "lawless":
        (a1, a2), (b1, b2) = ([_lawless_half(name, layout, style, rng) for _ in SPANS] for layout in scenes)
        return scenes, ((a1, a2), (b1, b2))
    return scenes, ((({}, a), ({}, a)), (({}, b), ({}, b)))


def _lawless_half(name: str, scene: Layout, style: Style, rng: np.random.Generator) -> Half:
    moving, cast = draw_half(name, scene, style, rng)
    return {field: getattr(moving, field) for field in ("speed", "middle", "gravity")}, cast


def _factors(half: Half) -> dict[str, Any]:
    motion, cast = half
    return asdict(cast) | motion


def _shoot(stage: str, scene: Layout, cast: Cast, noise: Float[np.ndarray, "F H W 3"], span: slice) -> Shot:
    """Renders the frames of `span`, with the track of every object: first the one that the property is about."""
    occluded, tracks = [], []
    for colour, (position, velocity) in zip((cast.colour, cast.follower), _paths(stage, scene, cast), strict=False):
        actor = Actor(cast.shape, str(colour), scene.radius, position, cast.direction)
        occluded.insert(0, actor)
        tracks.append(_track(actor, velocity, hidden(scene, position), scene.gate, cast.present))
    if stage == "queueing" and cast.follower is None:  # in the other half there may be one
        tracks.append(_absent(tracks[0]))
    foreground = []
    for item in scene.distractors:
        position, velocity = straight(item.start, item.velocity, 0)
        foreground.append(Actor(item.shape, item.colour, item.radius, position))
        tracks.append(_track(foreground[-1], velocity, np.zeros(FRAMES, bool)))
    wall = hidden_wall(scene, cast) if cast.blocked else None
    frames = draw_frames(scene, wall, occluded if cast.present else [], foreground, span, noise.shape[1])
    return Shot(np.round(255 * (frames + noise[span]).clip(0, 1)).astype(np.uint8), tracks)


@lru_cache(maxsize=8)
def _paths(stage: str, scene: Layout, cast: Cast) -> list[tuple[Path, Path]]:
    return STAGES[stage].paths(scene, cast)


def _absent(track: Track) -> Track:
    """The track of an object that is not there."""
    nowhere, no, nothing = np.full_like(track.position, np.nan), np.zeros(FRAMES, bool), np.full(FRAMES, "")
    return Track(nowhere, nowhere, no, no, nowhere[:, 0], nothing, nothing)


def _track(
    actor: Actor,
    velocity: Path,
    hidden: np.ndarray,
    gate: tuple[float, str] | None = None,
    present: bool = True,
) -> Track:
    mask = 1.0 if present else np.nan
    colour = np.full(FRAMES, actor.colour)
    if gate is not None:
        colour = np.where(actor.direction * (actor.position[:, 0] - gate[0]) > 0, gate[1], colour)
    return Track(
        position=actor.position * mask,
        velocity=velocity * mask,
        present=np.full(FRAMES, present),
        hidden=present & hidden,
        radius=np.full(FRAMES, actor.radius * mask),
        shape=np.full(FRAMES, actor.shape if present else ""),
        colour=colour if present else np.full(FRAMES, ""),
    )
