"""IntPhys 2019 (Riochet et al., intphys.cognitive-ml.fr), read from its PNG folders, and its submission file.

    ROOT/dev/O1/01/1/scene/scene_001.png ...    with status.json: {"header": {"is_possible": true, ...}, ...}
    ROOT/test/O1/0001/1/scene/...               labels are hidden
    ROOT/train/00001/scene/...                  possible scenes only, one clip each

The four clips of a scene lie in shuffled sub-directories. They are paired by their frames: clip 1 goes with the clip
that differs from it last, and the other two are the other pair. A pair shares its frames up to its break.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Group, Quadruplet
from dit_lens.datasets.export import BLOCKS
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Lazily, relative
from dit_lens.reading import list_visible, read_images

SPLITS = ("dev", "test", "train")
NUMBERS = ("1", "2", "3", "4")
FPS = 15.0  # the engine runs at 30 and every second tick is captured
PROPERTIES = {block: prop for prop, block in BLOCKS.items()}
EVENTS = {"O1": "vanishes or appears", "O2": "changes shape", "O3": "comes out elsewhere"}


@dataclass(frozen=True, eq=False)
class Shot:
    """One clip as it lies on disk: all its frames and its label."""

    folder: Path
    frames: np.ndarray
    possible: bool | None


class IntPhys(Lazily[Path, Quadruplet | Group]):
    """A split of IntPhys: quadruplets; groups of four where labels are unknown; in train groups of one.

    Of a quadruplet, A is the possible clip of the lower sub-directory, and C shares its first frames with A. It is
    `crossed` where C and D are bit for bit made of A and B. Each clip's factors name its place (`video`, such as
    "O1/01/2", as submissions do) and the frame at which its pair breaks (`break_frame`, from 0, in the file).

    Args:
        root: the folder that holds dev, test and train.
        split: "dev", "test" or "train".
        blocks: blocks to read, such as ("O1",); by default all that are there.
        framing: which frames, at what size. Pairing looks at all frames whatever is chosen.

    Raises:
        ValueError: unknown split or block, a scene without its four clips.
        FileNotFoundError: no such folder. Reading raises it for a missing frame or label, by the file's name.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "dev",
        blocks: tuple[str, ...] | None = None,
        framing: Framing | None = None,
    ):
        self.split, self.framing = check_choice(split, SPLITS, "IntPhys split"), framing or Framing()
        self.folder = Path(root) / split
        scenes = self._folders() if split == "train" else self._scenes(blocks)
        super().__init__(scenes, f"{self.folder}")

    def read(self, listed: Path) -> Quadruplet | Group:
        """The scene, its frames read."""
        if self.split == "train":
            shot = _shoot(listed, labelled=True)
            return Group(self._id(listed), (self._clip(shot, listed, relative(listed, self.folder), None),))
        shots = [_shoot(listed / number, labelled=self.split == "dev") for number in NUMBERS]
        _check_lengths(shots)
        pairs = pair_by_break([shot.frames for shot in shots])
        if any(shot.possible is None for shot in shots):
            breaks = {i: _break(shots[a], shots[b]) for a, b in pairs for i in (a, b)}
            clips = (self._clip(shot, listed, str(i + 1), breaks[i]) for i, shot in enumerate(shots))
            return Group(self._id(listed), tuple(clips), pairs)
        return self._quadruplet(listed, *[_by_label(shots[i], shots[j]) for i, j in pairs])

    def _quadruplet(self, scene: Path, first: tuple[Shot, Shot], second: tuple[Shot, Shot]) -> Quadruplet:
        (a, c), (b, d) = sorted((first, second), key=lambda pair: pair[0].folder)
        breaks = _break(a, c), _break(b, d)
        clip_a, clip_b, clip_c, clip_d = clips = [
            self._clip(shot, scene, role, frame)
            for role, shot, frame in zip("ABCD", (a, b, c, d), breaks * 2, strict=True)
        ]
        splice = sum(i < breaks[0] for i in self.framing.indices(len(a.frames)))
        event = EVENTS.get(scene.parent.name, "breaks the law")
        prop, crossed = self._property(scene), _is_crossed(clips, splice)
        return Quadruplet(clip_a, clip_b, clip_c, clip_d, splice, prop, event, crossed)

    def _clip(self, shot: Shot, scene: Path, role: str, break_frame: int | None) -> Clip:
        total, group = len(shot.frames), self._id(scene)
        indices = self.framing.indices(total, str(shot.folder))
        factors = {"video": relative(shot.folder, self.folder), "source": str(shot.folder), "break_frame": break_frame}
        factors |= self.framing.record(total, indices, shot.frames.shape[1:3], FPS)
        frames, rate = self.framing.shape(shot.frames[list(indices)]), self.framing.rate(FPS, indices)
        return Clip(f"{group}/{role}", frames, shot.possible, group, role, self._property(scene), factors, (), rate)

    def _id(self, scene: Path) -> str:
        return f"intphys/{self.split}/{relative(scene, self.folder)}"

    def _property(self, scene: Path) -> str:
        return "" if self.split == "train" else PROPERTIES[scene.parent.name]

    def _folders(self) -> list[Path]:
        return [folder for folder in list_visible(self.folder) if folder.is_dir()]

    def _scenes(self, blocks: tuple[str, ...] | None) -> list[Path]:
        there = {folder.name: folder for folder in self._folders()}
        for block in there:
            check_choice(block, PROPERTIES, f"in {self.folder} the block")
        names = sorted(there, key=lambda block: int(block[1:])) if blocks is None else blocks
        folders = [there[check_choice(name, there, "IntPhys block")] for name in names]
        scenes = [scene for folder in folders for scene in list_visible(folder) if scene.is_dir()]
        for scene in scenes:
            found = tuple(folder.name for folder in list_visible(scene) if folder.is_dir())
            if found != NUMBERS:
                raise ValueError(f"got {scene} with clips {', '.join(found)} · expected 1, 2, 3, 4 · unpack it anew")
        return scenes


def pair_by_break(films: list[np.ndarray]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The places of the clips that share their first frames: the first and what differs from it last, the other two."""
    breaks = [_first_difference(films[0], film) for film in films[1:]]
    partner = 1 + int(np.argmax(breaks))
    first, second = (i for i in (1, 2, 3) if i != partner)
    return (0, partner), (first, second)


def write_submission(plausibilities: Mapping[str, float], split: IntPhys, path: str | Path) -> Path:
    """Writes what intphys.cognitive-ml.fr takes, a zip of answer.txt with a line `O1/0001/1 0.9751` for each clip.

    Args:
        plausibilities: in [0, 1], by `clip.factors["video"]`.
        split: the split that is answered, whole.

    Raises:
        ValueError: a clip of the split has no plausibility, or one outside [0, 1], or there is one of no clip.
    """
    videos = [f"{relative(scene, split.folder)}/{number}" for scene in split.listed for number in NUMBERS]
    wrong = sorted(set(videos) ^ set(plausibilities))
    if wrong:
        raise ValueError(f"got {len(plausibilities)} plausibilities · expected one of each clip · see {wrong[0]}")
    outside = [video for video in videos if not 0 <= plausibilities[video] <= 1]
    if outside:
        raise ValueError(f"got {plausibilities[outside[0]]} of {outside[0]} · expected plausibilities in [0, 1]")
    lines = (f"{video} {float(plausibilities[video])!r}\n" for video in videos)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("answer.txt", "".join(lines))
    return Path(path)


def _shoot(folder: Path, labelled: bool) -> Shot:
    status = _status(folder, labelled)
    possible = status["header"]["is_possible"] if status else None
    return Shot(folder, read_images(_frame_files(folder, status), folder), possible)


def _status(folder: Path, labelled: bool) -> dict[str, Any] | None:
    """What status.json says; None where there is none and none is due."""
    path = folder / "status.json"
    if not path.exists():
        if labelled:
            raise FileNotFoundError(f"got no {path} · expected the label in it · unpack the split anew")
        return None
    try:
        status = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"got {path}, which is no JSON ({error}) · unpack the split anew") from error
    label = status.get("header", {}).get("is_possible") if isinstance(status, dict) else None
    if not isinstance(label, bool):
        raise ValueError(f"got {path} with is_possible {label!r} · expected true or false in its header")
    return status


def _frame_files(folder: Path, status: Mapping[str, Any] | None) -> list[Path]:
    """The frames scene_001.png ... in order; where the status lists frames, as many as it lists."""
    files = {path.name: path for path in list_visible(folder / "scene")}
    numbered = {name: match for name in files if (match := re.fullmatch(r"scene_(\d+)\.png", name))}
    highest = max((int(match[1]) for match in numbered.values()), default=0)
    digits = max((len(match[1]) for match in numbered.values()), default=3)
    count = max(highest, len((status or {}).get("frames", ())), 1)
    names = [f"scene_{number:0{digits}}.png" for number in range(1, count + 1)]
    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(f"got no {folder / 'scene' / missing[0]} · expected {count} frames · unpack it anew")
    return [files[name] for name in names]


def _check_lengths(shots: list[Shot]) -> None:
    longest = max(shots, key=lambda shot: len(shot.frames))
    for shot in shots:
        if shot.frames.shape != longest.frames.shape:
            raise ValueError(
                f"got {shot.folder / 'scene'} with frames {shot.frames.shape[:3]} · expected {longest.frames.shape[:3]}"
                f", as in {longest.folder} · unpack it anew"
            )


def _first_difference(one: np.ndarray, other: np.ndarray) -> int:
    """The first frame in which two films differ; their length where they do not."""
    differs = (one != other).any(axis=(1, 2, 3))
    return int(np.argmax(differs)) if differs.any() else len(one)


def _break(one: Shot, other: Shot) -> int:
    frame = _first_difference(one.frames, other.frames)
    if frame == len(one.frames):
        raise ValueError(
            f"got {one.folder} and {other.folder}, which are the same frames · expected a pair that breaks"
        )
    return frame


def _by_label(one: Shot, other: Shot) -> tuple[Shot, Shot]:
    """The pair with the possible clip first."""
    if one.possible == other.possible:
        both = "possible" if one.possible else "impossible"
        raise ValueError(f"got {one.folder} and {other.folder} paired by their frames, both {both} · expected one each")
    return (one, other) if one.possible else (other, one)


def _is_crossed(clips: Sequence[Clip], splice: int) -> bool:
    a, b, c, d = (clip.frames for clip in clips)
    halves = (c[:splice], a[:splice]), (c[splice:], b[splice:]), (d[:splice], b[:splice]), (d[splice:], a[splice:])
    return all(np.array_equal(one, other) for one, other in halves)
