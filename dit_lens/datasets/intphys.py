"""IntPhys 2019 (Riochet et al., intphys.cognitive-ml.fr), read from its PNG folders, and its submission file.

    ROOT/dev/O1/01/1/scene/scene_001.png ...    with status.json: {"header": {"is_possible": true, ...}, ...}
    ROOT/test/O1/0001/1/scene/...               labels are hidden
    ROOT/train/00001/scene/...                  possible scenes only, one clip each

The four clips of a scene are in shuffled sub-directories. Which of them are compared, and from which frame on they
differ, is determined from their frames or from a table: see `dit_lens.datasets.intphys_pairs`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Clip, Scene, breaks_between
from dit_lens.datasets.export import BLOCKS
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.intphys_files import NUMBERS, Shot, has_labels, read_shot, read_shots
from dit_lens.datasets.intphys_pairs import Match, PairingError, is_crossed, pair_by_frames, read_pairs
from dit_lens.datasets.recordings import Lazily, Outline, check_tolerance, relative
from dit_lens.reading import list_visible

SPLITS = ("dev", "test", "train")
FPS = 15.0  # the engine runs at 30 and every second tick is captured
PROPERTIES = {block: prop for prop, block in BLOCKS.items()}
EVENTS = {"O1": "vanishes or appears", "O2": "changes shape", "O3": "comes out elsewhere"}


class IntPhys(Lazily[Path, Scene]):
    """A split of IntPhys: quadruplets A, B, C, D; in test four clips without labels; in train one possible clip.

    In a quadruplet, A is the possible clip of the lower sub-directory, C is compared with A and D with B. In test,
    roles are the sub-directories "1" to "4"; the first clip is compared with the third, the second with the fourth.
    `breaks` are those of each pair, at the frames that are used. A scene is `crossed` where every one of these frames
    of C and D is, bit for bit, a frame of A or B. Resizing comes later, and equal frames stay equal.

    Each clip's factors name its folder (`video`, such as "O1/01/2", as in submissions), the frames at which its pair
    breaks (`break_frames`, from 0, in the file) and the `break_tolerance`.

    Args:
        root: the folder that holds dev, test and train.
        split: "dev", "test" or "train".
        blocks: blocks to read, such as ("O1",); by default all that have folders.
        tolerance: distance in grey levels (see `dit_lens.clips.frame_distances`) up to which two frames count as the
            same when clips are paired and breaks are located; 0 for the release, a few for compressed copies.
        pairs: a table of the pairs of dev, to be used instead of pairing by frames (see `intphys_pairs`). A scene with
            one pair in the table becomes that pair, with the roles A and C; scenes without a pair are left out and
            listed in `left_out`.
        framing: which frames, at what size. Pairing always uses all frames.

    Raises:
        ValueError: unknown split or block, a scene without its four clips, a bad line of the table, a table for another
            split than dev, a negative tolerance. FileNotFoundError: no such folder or table. Reading a scene raises it
            for a missing frame or label, by the file's name, and ValueError where its frames do not show the pairs, or
            the frames that are used do not show a break.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "dev",
        blocks: tuple[str, ...] | None = None,
        tolerance: float = 0.0,
        pairs: str = "",
        framing: Framing | None = None,
    ):
        self.split, self.framing = check_choice(split, SPLITS, "IntPhys split"), framing or Framing()
        self.folder, self.tolerance = Path(root) / split, check_tolerance(tolerance)
        if pairs and split != "dev":
            raise ValueError(
                f"got pairs={pairs} for the split {split} · expected a table of pairs for dev only · leave pairs out"
            )
        scenes = self._folders() if split == "train" else self._scenes(blocks)
        blocks_on_disk = [folder.name for folder in self._folders()]
        self.pairs = read_pairs(Path(pairs), scenes, blocks_on_disk) if pairs else None
        self.left_out = [scene for scene in scenes if self.pairs is not None and scene not in self.pairs]
        super().__init__((scene for scene in scenes if scene not in self.left_out), f"{self.folder}")

    def read(self, listed: Path) -> Scene:
        """Reads a scene with its frames."""
        if self.split == "train":
            shot = read_shot(listed, labelled=True)
            return Scene(self._id(listed), (self._clip(shot, listed, relative(listed, self.folder), ()),))
        shots = read_shots(listed, self._labelled(listed))
        return self._scene(listed, shots, self.pairs[listed] if self.pairs else self.pair(listed, shots))

    def pair(self, scene: Path, shots: Sequence[Shot]) -> tuple[Match, ...]:
        """The pairs of clips that are compared, as their frames show them.

        Raises:
            PairingError: the frames do not show pairs; says what would help.
        """
        videos, labels = [shot.frames for shot in shots], [shot.possible for shot in shots]
        return pair_by_frames(videos, labels, self.tolerance, str(scene))

    def outline(self, index: int) -> Outline:
        """Id, property, labels and matches of a scene, without reading its frames."""
        folder = self.listed[index]
        if self.split == "train":
            return Outline(self._id(folder), "", (True,))
        half = len(self.pairs[folder]) if self.pairs else 2
        labels = (True,) * half + (False,) * half if self._labelled(folder) else (None,) * 4
        return Outline(self._id(folder), self._property(folder), labels, _matches(half))

    def _scene(self, scene: Path, shots: Sequence[Shot], pairs: Sequence[Match]) -> Scene:
        """The scene of the clips that are compared: the first clip of each pair, then the second of each."""
        half, name = len(pairs), self._id(scene)
        order = [shots[i] for i, _ in pairs] + [shots[j] for _, j in pairs]
        roles = (ROLES if half == 2 else ("A", "C")) if self._labelled(scene) else [shot.folder.name for shot in order]
        file_breaks = [breaks_between(shots[i].frames, shots[j].frames, self.tolerance) for i, j in pairs]
        clips = tuple(
            self._clip(shot, scene, role, frames)
            for shot, role, frames in zip(order, roles, file_breaks * 2, strict=True)
        )
        used = list(self.framing.indices(len(shots[0].frames), str(scene)))
        videos = [shot.frames[used] for shot in order]
        breaks = tuple(self._breaks(videos[i], videos[i + half], scene, file_breaks[i]) for i in range(half))
        event = EVENTS.get(scene.parent.name, "breaks the law")
        return Scene(name, clips, _matches(half), breaks, half == 2 and is_crossed(videos), event)

    def _breaks(self, first: np.ndarray, second: np.ndarray, scene: Path, in_file: tuple[int, ...]) -> tuple[int, ...]:
        """The breaks of a pair at the frames that are used; none if the two clips share no first frame."""
        breaks = breaks_between(first, second, self.tolerance)
        if not breaks:
            raise ValueError(
                f"got {scene}, one of whose pairs is equal in all {len(first)} frames that are used, and differs in the"
                f" file from frame {in_file[0] if in_file else '-'} on · expected frames that show the difference · use"
                " more frames, or resample the whole clip"
            )
        return breaks if breaks[0] else ()

    def _clip(self, shot: Shot, scene: Path, role: str, break_frames: tuple[int, ...]) -> Clip:
        total, group = len(shot.frames), self._id(scene)
        indices = self.framing.indices(total, str(shot.folder))
        factors = {"video": relative(shot.folder, self.folder), "source": str(shot.folder)}
        factors |= {"break_frames": break_frames, "break_tolerance": self.tolerance}
        factors |= self.framing.record(total, indices, shot.frames.shape[1:3], FPS)
        frames, rate = self.framing.shape(shot.frames[list(indices)]), self.framing.rate(FPS, indices)
        return Clip(f"{group}/{role}", frames, shot.possible, group, role, self._property(scene), factors, (), rate)

    def _labelled(self, scene: Path) -> bool:
        return self.split == "dev" or has_labels(scene)

    def _id(self, scene: Path) -> str:
        return f"intphys/{self.split}/{relative(scene, self.folder)}"

    def _property(self, scene: Path) -> str:
        return "" if self.split == "train" else PROPERTIES[scene.parent.name]

    def _folders(self) -> list[Path]:
        return [folder for folder in list_visible(self.folder) if folder.is_dir()]

    def _scenes(self, blocks: tuple[str, ...] | None) -> list[Path]:
        available = {folder.name: folder for folder in self._folders()}
        for block in available:
            check_choice(block, PROPERTIES, f"in {self.folder} the block")
        names = sorted(available, key=lambda block: int(block[1:])) if blocks is None else blocks
        folders = [available[check_choice(name, available, "IntPhys block")] for name in names]
        scenes = [scene for folder in folders for scene in list_visible(folder) if scene.is_dir()]
        for scene in scenes:
            clips = tuple(folder.name for folder in list_visible(scene) if folder.is_dir())
            if clips != NUMBERS:
                raise ValueError(
                    f"got {scene} with clips {', '.join(clips)} · expected 1, 2, 3, 4 · unpack the split again"
                )
        return scenes


@dataclass(frozen=True)
class Disagreement:
    """A scene in which pairing by frames and by a table differ.

    Attributes:
        scene: such as "O1/01".
        by_frames, by_table: sub-directories of the possible and the impossible clip of each pair; none where the frames
            show no pairs, or the table lists none.
        reason: why the frames show no pairs.
    """

    scene: str
    by_frames: tuple[tuple[str, str], ...]
    by_table: tuple[tuple[str, str], ...]
    reason: str = ""


def compare_pairings(
    root: str | Path, pairs: str | Path, blocks: tuple[str, ...] | None = None, tolerance: float = 0.0
) -> list[Disagreement]:
    """The scenes of dev in which the pairs that the frames show are not those of a table; empty where both agree.

    Args:
        root, pairs, blocks, tolerance: as of `IntPhys`.

    Raises:
        ValueError, FileNotFoundError: as of `IntPhys`.
    """
    split = IntPhys(root, "dev", blocks, tolerance, str(pairs))
    listed = dict.fromkeys([*split.listed, *split.left_out])
    compared = (_compare(split, scene) for scene in sorted(listed))
    return [item for item in compared if item.by_frames != item.by_table]


def _compare(split: IntPhys, scene: Path) -> Disagreement:
    by_table, name = (split.pairs or {}).get(scene, ()), relative(scene, split.folder)
    try:
        by_frames, reason = split.pair(scene, read_shots(scene, labelled=True)), ""
    except PairingError as error:
        by_frames, reason = (), str(error)
    return Disagreement(name, _numbered(by_frames), _numbered(by_table), reason)


def _numbered(pairs: Sequence[Match]) -> tuple[tuple[str, str], ...]:
    return tuple((NUMBERS[i], NUMBERS[j]) for i, j in pairs)


def _matches(half: int) -> tuple[Match, ...]:
    """Matches of clips in the order of their roles: each of the first half with one of the second half."""
    return tuple((i, i + half) for i in range(half))


def write_submission(plausibilities: Mapping[str, float], split: IntPhys, path: str | Path) -> Path:
    """Writes a submission to intphys.cognitive-ml.fr: a zip of answer.txt with a line `O1/0001/1 0.9751` for each clip.

    Args:
        plausibilities: in [0, 1], by `clip.factors["video"]`.
        split: the complete split.

    Raises:
        ValueError: a clip of the split has no plausibility, or one outside [0, 1], or there is one of no clip.
    """
    videos = [f"{relative(scene, split.folder)}/{number}" for scene in split.listed for number in NUMBERS]
    wrong = sorted(set(videos) ^ set(plausibilities))
    if wrong:
        raise ValueError(f"got {len(plausibilities)} plausibilities · expected one for each clip · see {wrong[0]}")
    outside = [video for video in videos if not 0 <= plausibilities[video] <= 1]
    if outside:
        raise ValueError(
            f"got plausibility {plausibilities[outside[0]]} for {outside[0]} · expected a number in [0, 1]"
        )
    lines = (f"{video} {float(plausibilities[video])!r}\n" for video in videos)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("answer.txt", "".join(lines))
    return Path(path)
