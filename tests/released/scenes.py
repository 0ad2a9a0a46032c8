"""Scenes in the manner of IntPhys, drawn with numpy: two possible clips, and two impossible ones of their frames.

The six conditions are those of the benchmark, a break that is seen or hidden by a wall, and a target that stands
(static), moves and breaks once (dynamic_1), or moves and breaks twice (dynamic_2):

    clip        one break                   two breaks
    A           a a a a a a a a a           a a a a a a a a a
    B           b b b b b b b b b           b b b b b b b b b
    C           a a a a|b b b b b           a a a|b b b|a a a
    D           b b b b b b|a a a           b b b|a a a|b b b

C and D break at a frame of their choice, which need not be the same frame. In a hidden scene all four clips are
pixel-identical around each break, so that the pixels show it late, or not to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCKS = ("O1", "O2", "O3")  # permanence, shape constancy, continuity
# In an order such that any four in a row have scenes that are seen and hidden, and one of two breaks at least.
CONDITIONS = (
    ("occluded", "dynamic_1"),
    ("visible", "dynamic_2"),
    ("visible", "static"),
    ("occluded", "dynamic_2"),
    ("visible", "dynamic_1"),
    ("occluded", "static"),
)
COLOURS = np.array([(200, 60, 50), (60, 120, 200), (220, 180, 60), (90, 170, 90)], dtype=np.uint8)
WALL = np.array((110, 80, 60), dtype=np.uint8)
LOSS = 2  # grey levels by which a re-encoded copy may be off


@dataclass(frozen=True)
class Scene:
    """One scene of four clips.

    Attributes:
        block: "O1" (B lacks A's target), "O2" (B's target has another shape) or "O3" (it is elsewhere).
        index: number of the scene in its block, from 0.
        frames: length of each clip, 17 at least.
        size: height and width in pixels.
        seed: of everything that is drawn by chance.
        lossy: each clip is off by up to two grey levels of its own, as a re-encoded copy is.
    """

    block: str
    index: int
    frames: int = 17
    size: int = 64
    seed: int = 0
    lossy: bool = False

    def __post_init__(self) -> None:
        if self.frames < 17:
            raise ValueError(f"got {self.frames} frames · expected at least 17, so that every break can be hidden")

    @property
    def condition(self) -> tuple[str, str]:
        """("visible" or "occluded", "static", "dynamic_1" or "dynamic_2")."""
        return CONDITIONS[(self.index + BLOCKS.index(self.block)) % len(CONDITIONS)]

    @property
    def objects(self) -> int:
        """1, 2 or 3 objects, of which one is the target."""
        return 1 + self.index % 3

    @cached_property
    def order(self) -> str:
        """The role in each of the sub-directories 1, 2, 3, 4, such as "CADB"."""
        return "".join(self._draws("order").permutation(list("ABCD")))

    @cached_property
    def breaks(self) -> dict[str, tuple[int, ...]]:
        """The frames at which C and D go over to the other possible clip; one frame, or two where both have two."""
        visibility, motion = self.condition
        draws, last = self._draws("break"), self.frames - 1
        if visibility == "occluded":
            hidden = self._hidden_stretches
            return {role: tuple(int(draws.choice(stretch)) for stretch in hidden) for role in "CD"}
        if motion == "dynamic_2":
            first = int(draws.integers(last // 4, last // 2))
            both = first, int(draws.integers(first + 2, last - 1))
            return {"C": both, "D": both}
        splice = int(draws.integers(last // 4, last - 3))
        return {"C": (splice,), "D": (splice + int(motion == "dynamic_1") * 2,)}

    @cached_property
    def clips(self) -> dict[str, np.ndarray]:
        """Frames (F, H, W, 3) of each role, uint8."""
        exact = {role: self._rendered(role) for role in "AB"}
        for role, start, second in (("C", "A", "B"), ("D", "B", "A")):
            swapped = np.searchsorted(self.breaks[role], np.arange(self.frames), side="right") % 2
            exact[role] = np.where(swapped[:, None, None, None] == 1, exact[second], exact[start])
        return {role: self._copied(role, frames) for role, frames in exact.items()}

    def _copied(self, role: str, frames: np.ndarray) -> np.ndarray:
        if not self.lossy:
            return frames
        error = self._draws(f"loss {role}").integers(-LOSS, LOSS + 1, frames.shape)
        return np.clip(frames.astype(int) + error, 0, 255).astype(np.uint8)

    def _draws(self, purpose: str) -> np.random.Generator:
        """Chance for one purpose, the same whenever it is asked for."""
        return np.random.default_rng([self.seed, BLOCKS.index(self.block), self.index, *purpose.encode()])

    # The world: x to the right and y down in [0, 1].

    @cached_property
    def _path(self) -> np.ndarray:
        """Where the target is, x in each frame: it stands, or comes in on one side and leaves on the other."""
        draws = self._draws("path")
        if self.condition[1] == "static":
            return np.full(self.frames, draws.uniform(0.3, 0.7))
        x = np.linspace(-0.1, 1.1, self.frames)
        return x if draws.random() < 0.5 else 1 - x

    @cached_property
    def _walls(self) -> list[tuple[float, np.ndarray]]:
        """Middle of each wall, and its height in each frame."""
        visibility, motion = self.condition
        if visibility == "visible":
            return []
        draws = self._draws("walls")
        if motion == "static":  # rises, stands, falls
            rise, time = int(draws.integers(1, self.frames // 3)), np.arange(self.frames)
            height = np.clip(np.minimum(time - rise, self.frames - 2 - time) / 3, 0, 1)
            return [(float(self._path[0]), 0.6 * height)]
        middles = [draws.uniform(0.35, 0.65)] if motion == "dynamic_1" else draws.uniform((0.24, 0.68), (0.32, 0.76))
        return [(float(middle), np.full(self.frames, 0.6)) for middle in middles]

    @property
    def _hidden_stretches(self) -> list[np.ndarray]:
        """Where the two possible clips are the same: frames of each stretch but its first, in order.

        The ends, where a moving target is out of the picture, are none.
        """
        a, b = self._rendered("A"), self._rendered("B")
        alike = np.flatnonzero((a == b).all(axis=(1, 2, 3)))
        inside = alike[(alike > 0) & (alike < self.frames - 1)]
        stretches = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
        longest = sorted(stretches, key=len)[-2 if self.condition[1] == "dynamic_2" else -1 :]
        return [stretch[1:] for stretch in sorted(longest, key=lambda stretch: int(stretch[0]))]

    def _rendered(self, role: str) -> np.ndarray:
        """A possible clip."""
        draws, centres = self._draws("look"), (np.arange(self.size) + 0.5) / self.size
        y, x = np.meshgrid(centres, centres, indexing="ij")
        ground = np.where(y[..., None] < FLOOR, (150, 170, 190), (120, 130, 110)) + draws.integers(-8, 9, (*y.shape, 1))
        colours = COLOURS[draws.permutation(len(COLOURS))]
        squares = draws.random(3) < 0.5
        for number in range(1, self.objects):  # bystanders, in front of the back wall
            place = (0.15 + 0.7 * (number - 1), 0.2)
            ground[_covers(x, y, place, 0.06, bool(squares[number]))] = colours[number]
        square, lane = bool(squares[0]), FLOOR
        if self.block == "O2" and role == "B":
            square = not square
        if self.block == "O3" and role == "B":
            lane -= 0.25
        video = np.repeat(ground[None], self.frames, 0)
        for time in range(self.frames):
            if self.block != "O1" or role == "A":
                video[time][_covers(x, y, (self._path[time], lane), RADIUS, square)] = colours[0]
            for middle, height in self._walls:
                video[time][(np.abs(x - middle) <= WIDTH / 2) & (y > FOOT - height[time]) & (y <= FOOT)] = WALL
        return video.astype(np.uint8)


RADIUS, WIDTH = 0.08, 0.34  # of the target, of a wall
FLOOR, FOOT = 0.7, 0.85


def _covers(x: np.ndarray, y: np.ndarray, place: tuple[float, float], radius: float, square: bool) -> np.ndarray:
    """Pixels of a disc or a square."""
    across, down = np.abs(x - place[0]), np.abs(y - place[1])
    return np.maximum(across, down) <= radius if square else across**2 + down**2 <= radius**2


def scenes(
    scenes_per_block: int = 4, frames: int = 17, size: int = 64, seed: int = 0, lossy: bool = False
) -> list[Scene]:
    """So many scenes of each block, with what is true of them."""
    return [Scene(block, index, frames, size, seed, lossy) for block in BLOCKS for index in range(scenes_per_block)]
