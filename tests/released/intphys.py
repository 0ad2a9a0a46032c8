"""IntPhys 2019 as it unpacks, and the list of its pairs that MVP publishes, with scenes of `released.scenes`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from released.scenes import BLOCKS, Scene, scenes

PAIRS = "intphys_pairs.csv"


def write_intphys(
    folder: Path, scenes_per_block: int = 4, frames: int = 17, size: int = 64, seed: int = 0, lossy: bool = False
) -> Path:
    """Writes dev (labelled), test (one scene a block, labels hidden) and train (three possible clips).

        folder/dev/O1/01/1/scene/scene_001.png ... and status.json
        folder/test/O1/0001/1/scene/...
        folder/train/00001/scene/... and status.json

    What is true of the scenes of dev is `scenes(scenes_per_block, frames, size, seed, lossy)`.
    """
    for scene in scenes(scenes_per_block, frames, size, seed, lossy):
        home = folder / "dev" / scene.block / f"{scene.index + 1:02}"
        for number, role in enumerate(scene.order, start=1):
            _write_clip(home / str(number), scene.clips[role], role in "AB")
    hidden = [Scene(block, 0, frames, size, seed + 1, lossy) for block in BLOCKS]
    for scene in hidden:
        for number, role in enumerate(scene.order, start=1):
            _write_clip(folder / "test" / scene.block / "0001" / str(number), scene.clips[role], None)
    for number, scene in enumerate(hidden, start=1):
        _write_clip(folder / "train" / f"{number:05}", scene.clips["A"], True)
    return folder


def write_intphys_pairs_csv(folder: Path, scenes_per_block: int = 4, seed: int = 0) -> Path:
    """Writes the pairs of dev as MVP lists them; returns the file.

    Videos are counted from 0, so that video 0 is the sub-directory 1; label 1 is possible. The two of a pair begin
    alike; the lower video comes first, and the pair of video 0 before the other.
    """
    rows: list[tuple[str, int, int, int, int, int]] = []
    for scene in scenes(scenes_per_block, seed=seed):
        pairs = sorted(sorted(scene.order.index(role) for role in pair) for pair in ("AC", "BD"))
        for first, second in pairs:
            labels = [int(scene.order[video] in "AB") for video in (first, second)]
            rows.append((scene.block, scene.index + 1, first, labels[0], second, labels[1]))
    path = folder / PAIRS
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(("Property", "id", "Video1", "Label1", "Video2", "Label2"))
        writer.writerows(rows)
    return path


def _write_clip(folder: Path, frames: np.ndarray, possible: bool | None) -> None:
    (folder / "scene").mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / "scene" / f"scene_{number:03}.png", compress_level=1)
    if possible is not None:
        (folder / "status.json").write_text(json.dumps({"header": {"is_possible": possible}}))
