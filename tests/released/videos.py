"""Benchmarks of mp4 files in the layout of their releases, with scenes of `released.scenes`, and a folder of one's own.

Videos are encoded as the releases are, so that frames that were alike are alike only nearly.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from released.scenes import Scene

INFLEVEL_TRIALS = {"continuity": ("vv", "ii", "vi", "iv"), "gravity": ("cv", "ui", "ci", "uv"),
                   "solidity": ("cv", "ui", "ci", "uv")}  # fmt: skip
INFLEVEL_PRIMING = {"continuity": 330, "gravity": 175, "solidity": 175}
INTPHYS2_COLUMNS = ("SceneIndex", "name", "file_name", "game_name", "condition", "env", "type", "occluder",
                    "Difficulty", "Camera")  # fmt: skip
TYPES = {"A": "1_Possible", "C": "1_Impossible", "B": "2_Possible", "D": "2_Impossible"}


def write_film(
    path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int, codec: str = "libx264"
) -> Path:
    """A mp4 file of frames (H, W, 3) of that height and width, in yuv420p."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"preset": "ultrafast", "crf": "18"} if codec == "libx264" else {"qscale": "3"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = *size, "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_inflevel(folder: Path, groups: int = 2, frames: int = 21, size: tuple[int, int] = (54, 96)) -> Path:
    """InfLevel lab: so many complete groups of continuity, gravity and solidity, each video with its priming in front.

    Args:
        folder: that inflevel_lab goes into.
        groups: of each property.
        frames: of the trial itself; some videos have up to three more.
        size: height and width, 16:9.
    """
    for prop, trials in INFLEVEL_TRIALS.items():
        for group in range(groups):
            cover, thing = ("darkbluecup", "bigbluecup")[group % 2], ("blueclover", "blackcrayon", "redcar")[group % 3]
            direction = f"__{('LR', 'RL')[group % 2]}" if prop == "continuity" else ""
            for number, trial in enumerate(trials):
                name = f"center__{prop}__{cover}__{thing}__{trial}{direction}.mp4"
                video = _trial(trial, INFLEVEL_PRIMING[prop], frames + (number + group) % 4, size, group)
                write_film(folder / "inflevel_lab" / prop / name, video, size, 30)
        (folder / "inflevel_lab" / prop / "._center.mp4").write_bytes(b"what macOS leaves")
    return folder


def _trial(trial: str, priming: int, frames: int, size: tuple[int, int], seed: int) -> Iterable[np.ndarray]:
    """A cover is shown for long; then an object, if the trial begins with one, goes behind it and is there or not."""
    draws = np.random.default_rng(seed)
    ground = np.full((*size, 3), 160) + draws.integers(-6, 7, (*size, 1))
    colour = draws.integers(0, 256, 3)
    begins, ends = trial[0] in "vc", trial[1] == "v"
    empty = ground.astype(np.uint8)
    for time in range(priming):  # the cover goes round and round, slowly
        yield _with_box(empty, 0.5 + 0.3 * np.sin(time / 40), 0.2, (40, 60, 140))
    for time in range(frames):
        share = time / (frames - 1)
        picture = empty
        if (begins and share < 0.4) or (ends and share > 0.6):
            picture = _with_box(picture, 0.5, 0.12, colour)
        yield _with_box(picture, 0.5 if 0.3 < share < 0.7 else 0.85, 0.2, (40, 60, 140))


def _with_box(picture: np.ndarray, middle: float, size: float, colour: Sequence[int] | np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    half, top = round(size * height), round(0.75 * height)
    left = round(middle * width) - half
    picture = picture.copy()
    picture[top - 2 * half : top, max(left, 0) : left + 2 * half] = colour
    return picture


def write_folder(folder: Path, groups: int = 4, frames: int = 17, size: int = 64) -> Path:
    """Clips of one's own with clips.csv: groups of a possible and an impossible clip, then one of four, one unlabelled.

    The table's columns are path, label, group, property, role, fps and, as one's own, hidden.
    """
    rows = []
    for index in range(groups):
        scene = Scene(("O1", "O2", "O3")[index % 3], index, frames, size, seed=5)
        prop = ("permanence", "shape", "continuity")[index % 3]
        for role in "ABCD" if index == groups - 1 else "AC":
            path = Path(f"scene{index}") / f"{role}.mp4"
            write_film(folder / path, scene.clips[role], (size, size), 15)
            label = "possible" if role in "AB" else "impossible"
            rows.append((path.as_posix(), label, f"scene{index}", prop, role, 15, scene.condition[0]))
    write_film(folder / "extra.mp4", Scene("O1", 0, frames, size, seed=6).clips["A"], (size, size), 15)
    rows.append(("extra.mp4", "unknown", "extra", "permanence", "A", 15, ""))
    _write_table(folder / "clips.csv", ("path", "label", "group", "property", "role", "fps", "hidden"), rows)
    return folder


def write_grasp(folder: Path, pairs: int = 2, frames: int = 33, size: int = 64) -> Path:
    """GRASP level 2: folders P_<property> and IP_<property>, each number a pair; 50 frames a second, mp4v."""
    for prop, block in {"ObjectPermanence": "O1", "Unchangeableness": "O2", "Continuity": "O3"}.items():
        for index in range(pairs):
            scene = Scene(block, index, frames, size, seed=7)
            for side, role in (("P", "A"), ("IP", "C")):
                path = folder / "level2" / f"{side}_{prop}" / f"{index:03}.mp4"
                write_film(path, scene.clips[role], (size, size), 50, "mpeg4")
    return folder


def write_likephys(folder: Path, subgroups: int = 2, frames: int = 33, size: int = 64) -> Path:
    """LikePhys: a valid video a subgroup, its violations, and two controls that break no law; 30 frames a second."""
    for scenario, block in {"ball_drop": "O1", "block_slide": "O3"}.items():
        for index in range(subgroups):
            home = folder / "data" / f"{scenario}_videos" / f"subgroup_{index:03}"
            clips = Scene(block, index, frames, size, seed=8).clips
            shuffled = np.random.default_rng(index).permutation(frames)
            videos = {
                "valid": clips["A"],
                "disappear": clips["C"],
                "teleport": clips["D"],
                "temporal_disorder": clips["A"][shuffled],
                "color_change": clips["A"][..., ::-1],
            }
            for name, video in videos.items():
                write_film(home / f"{name}_00.mp4", video, (size, size), 30)
    return folder


def write_intphys2(folder: Path, scenes: int = 2, frames: int = 33, size: int = 64) -> Path:
    """IntPhys 2: Debug and Main with labels, HeldOut without; scenes of four videos at 60 frames a second."""
    for split, seed in {"Debug": 9, "Main": 10, "HeldOut": 11}.items():
        rows = []
        for index in range(scenes):
            scene = Scene(("O1", "O2", "O3")[index % 3], index, frames, size, seed)
            condition = ("permanence", "immutability", "continuity")[index % 3]
            for role in scene.order:
                name = f"{split.lower()}_{index}_{scene.order.index(role)}"
                write_film(folder / split / "Videos" / f"{name}.mp4", scene.clips[role], (size, size), 60)
                kind = "" if split == "HeldOut" else TYPES[role]
                difficulty, camera = ("Easy", "BasicLevel_0"), ("Fixed", "Moving")[index % 2]
                rows.append((index, name, f"Videos/{name}.mp4", f"game{index % 2}", condition, difficulty[1], kind,
                             "wall", difficulty[0], camera))  # fmt: skip
        _write_table(folder / split / "metadata.csv", INTPHYS2_COLUMNS, rows)
    return folder


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
