"""Reading the clips of IntPhys 2019 from disk: frames in scene/scene_001.png ..., the label in status.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.reading import list_visible, read_images

NUMBERS = ("1", "2", "3", "4")


@dataclass(frozen=True, eq=False)
class Shot:
    """One clip: its folder, all its frames (F, H, W, 3) and its label (None if unknown)."""

    folder: Path
    frames: np.ndarray
    possible: bool | None


def read_shot(folder: Path, labelled: bool) -> Shot:
    """A clip with all its frames.

    Args:
        labelled: whether a label is required.

    Raises:
        FileNotFoundError: a frame or a required label is missing. ValueError: a file that cannot be read.
    """
    status = _status(folder, labelled)
    possible = status["header"]["is_possible"] if status else None
    return Shot(folder, read_images(_frame_files(folder, status), folder), possible)


def read_shots(scene: Path, labelled: bool) -> list[Shot]:
    """The four clips of a scene, in the order of their sub-directories.

    Raises:
        ValueError: clips of different length or size; otherwise as `read_shot`.
    """
    shots = [read_shot(scene / number, labelled) for number in NUMBERS]
    _check_lengths(shots)
    return shots


def read_label(folder: Path) -> bool:
    """The label of a clip, without reading its frames.

    Raises:
        FileNotFoundError: there is none. ValueError: no label in it.
    """
    status = _status(folder, labelled=True)
    return bool(status and status["header"]["is_possible"])


def has_labels(scene: Path) -> bool:
    """Whether the clips of a scene have labels.

    Raises:
        FileNotFoundError: only some of the four have labels.
    """
    missing = [path for number in NUMBERS if not (path := scene / number / "status.json").exists()]
    if missing and len(missing) < len(NUMBERS):
        raise FileNotFoundError(
            f"got no file {missing[0]} · expected a label for each of the four clips, or for none · unpack the split"
            " again"
        )
    return not missing


def _status(folder: Path, labelled: bool) -> dict[str, Any] | None:
    """The content of status.json; None if there is none and none is required."""
    path = folder / "status.json"
    if not path.exists():
        if labelled:
            raise FileNotFoundError(
                f"got no file {path} · expected the label of the clip in it · unpack the split again"
            )
        return None
    try:
        status = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"got {path}, which is not JSON ({error}) · expected JSON · unpack the split again") from error
    header = status.get("header") if isinstance(status, dict) else None
    label = header.get("is_possible") if isinstance(header, dict) else None
    if not isinstance(label, bool):
        raise ValueError(f"got {path} with is_possible {label!r} · expected true or false in its header")
    return status


def _frame_files(folder: Path, status: Mapping[str, Any] | None) -> list[Path]:
    """The frames scene_001.png ... in order; as many as the status lists, if it lists frames."""
    files = {path.name: path for path in list_visible(folder / "scene")}
    numbered = {name: match for name in files if (match := re.fullmatch(r"scene_(\d+)\.png", name))}
    highest = max((int(match[1]) for match in numbered.values()), default=0)
    digits = max((len(match[1]) for match in numbered.values()), default=3)
    count = max(highest, len((status or {}).get("frames", ())), 1)
    names = [f"scene_{number:0{digits}}.png" for number in range(1, count + 1)]
    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(
            f"got no {folder / 'scene' / missing[0]} · expected {count} frames · unpack the split again"
        )
    return [files[name] for name in names]


def _check_lengths(shots: Sequence[Shot]) -> None:
    longest = max(shots, key=lambda shot: len(shot.frames))
    for shot in shots:
        if shot.frames.shape != longest.frames.shape:
            raise ValueError(
                f"got {shot.folder / 'scene'} with frames {shot.frames.shape[:3]} · expected"
                f" {longest.frames.shape[:3]}, as in {longest.folder} · unpack the split again"
            )
