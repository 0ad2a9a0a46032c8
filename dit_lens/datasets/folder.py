"""Your own clips: a folder of videos, animated images or folders of frames, with or without a table of labels.

The table is `clips.csv` in the folder, one line a clip. Its column `path` is relative to the folder. Of the other
columns, all optional, `label` is 1, possible or plausible; 0, impossible or implausible; or unknown. Clips of one
`group` stay together; `property`, `role` and `fps` are as in `Clip`; other columns are factors, as text. Blanks around
a cell are ignored, and each video has one line; a copy of it under another name must have the same group.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from math import inf, nan
from pathlib import Path

from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, match_labels
from dit_lens.datasets.tables import Row, read_table
from dit_lens.reading import VIDEO, VideoFile, list_images, list_visible

TABLE = "clips.csv"
ANIMATED = (".gif", ".webp", ".apng")
LABELS = {
    **dict.fromkeys(("1", "true", "possible", "plausible"), True),
    **dict.fromkeys(("0", "false", "impossible", "implausible"), False),
    "unknown": None,
}
NAMED = ("path", "label", "group", "property", "role", "fps")


class Folder(Recordings):
    """Groups of the clips of a folder: as its table groups them, or one unlabelled clip per group.

    If labels are known, each possible clip of a group is matched with each impossible one.

    Args:
        root: the folder.
        split: a sub-folder of it, if any.
        fps: frames per second of clips that do not state them, such as folders of images.
        framing: which frames, at what size.
        tolerance: distance up to which two frames count as the same (see `Recordings`).

    Raises:
        FileNotFoundError: no such folder or clip.
        ValueError: an empty folder, a bad line in the table, or a video in two groups; names it.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "",
        fps: float | None = None,
        framing: Framing | None = None,
        tolerance: float = 0.0,
    ):
        folder = (Path(root) / split).resolve()  # its name begins the ids, whatever it was called by
        table = folder / TABLE
        batches = _from_table(table, fps) if table.exists() else _from_names(folder, fps)
        super().__init__(batches, str(folder), framing, tolerance)
        check_copies(self.listed)


def check_copies(batches: Sequence[Batch]) -> None:
    """Checks that no video is in two groups under two names; only files of equal sizes are compared.

    Raises:
        ValueError: a video is in two groups; names both files.
    """
    by_size: dict[tuple[int, ...], list[tuple[str, Path]]] = {}
    for batch in batches:
        for path in (recording.video.path for recording in batch.recordings):
            sizes = tuple(file.stat().st_size for file in _files(path))
            by_size.setdefault(sizes, []).append((batch.id, path))
    for alike in by_size.values():
        first: dict[bytes, tuple[str, Path]] = {}
        for group, path in alike if len({group for group, _ in alike}) > 1 else ():
            other_group, copy = first.setdefault(_digest(path), (group, path))
            if other_group != group:
                raise ValueError(
                    f"got {path} in {group} and its copy {copy} in {other_group} · expected each video in one group"
                    " only, so that it cannot be on both sides of a split · remove one of them, or put both in the"
                    " same group"
                )


def _files(path: Path) -> list[Path]:
    return list_images(path) if path.is_dir() else [path]


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(file.read_bytes())
    return digest.digest()


def _from_names(folder: Path, fps: float | None) -> list[Batch]:
    """One group per clip, for a folder without a table."""
    paths = [path for path in list_visible(folder) if _is_clip(path)]
    names = {path: path.name for path in paths}
    return [
        Batch(f"{folder.name}/{names[path]}", "", (Recording(VideoFile(path), None, "A", {"path": names[path]}, fps),))
        for path in paths
    ]


def _is_clip(path: Path) -> bool:
    return bool(list_images(path)) if path.is_dir() else path.suffix.lower() in VIDEO + ANIMATED


def _from_table(table: Path, fps: float | None) -> list[Batch]:
    groups: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    lines: dict[Path, str] = {}
    for line, row in _rows(table):
        group, video = row.get("group") or row["path"], (table.parent / row["path"]).resolve()
        place = f"{line} (group {group!r}, label {row.get('label', '')!r})"
        if video in lines:
            raise ValueError(
                f"got {row['path']} twice, in {place} and in {lines[video]} · expected one line for each video, so that"
                " it cannot be on both sides of a split · remove one of them"
            )
        lines[video] = place
        groups.setdefault(group, []).append((line, row))
    return [_batch(table.parent, name, members, fps) for name, members in groups.items()]


def _rows(table: Path) -> list[tuple[str, Row]]:
    """The lines of a table, each with the name that error messages use."""
    columns, rows = read_table(table)
    _check_columns(table, columns)
    for line, row in rows:
        if not row["path"]:
            raise ValueError(f"got {line}, without a path · expected a file in the column path")
    return rows


def _check_columns(table: Path, columns: Sequence[str]) -> None:
    """Checks that no column name is a misspelling of one with a meaning.

    Raises:
        ValueError: a misspelt column, or no column path.
    """
    for column in columns:
        close = difflib.get_close_matches(column.strip().lower(), NAMED, n=1, cutoff=0.8)
        if column not in NAMED and close:
            raise ValueError(
                f"got {table} with the column {column!r} · expected {close[0]!r}, which it resembles · correct it, or"
                " rename the column"
            )
    if "path" not in columns:
        raise ValueError(
            f"got {table} with columns {list(columns)} · expected a column path · separate the cells by commas"
        )


def _batch(folder: Path, name: str, members: list[tuple[str, Mapping[str, str]]], fps: float | None) -> Batch:
    recordings = []
    for number, (line, row) in enumerate(members, start=1):
        factors = {key: value for key, value in row.items() if key not in NAMED} | {"path": row["path"]}
        rate = _number(row["fps"], line) if row.get("fps") else fps
        role = row.get("role") or str(number)
        recordings.append(Recording(VideoFile(folder / row["path"]), _label(row, line), role, factors, rate))
    properties = {row.get("property", "") for _, row in members}
    roles = {recording.role for recording in recordings}
    if len(properties) > 1 or len(roles) < len(recordings):
        raise ValueError(
            f"got group {name!r} (up to {members[-1][0]}) with several properties or a repeated role · expected one"
            " property, and a role of its own for each clip"
        )
    matches = match_labels([recording.possible for recording in recordings])
    return Batch(f"{folder.name}/{name}", properties.pop(), tuple(recordings), matches)


def _label(row: Mapping[str, str], line: str) -> bool | None:
    """The label; unknown if the table has no such column. An empty cell is an error, as it may be a mistake."""
    text = row.get("label", "unknown").lower()
    if text not in LABELS:
        raise ValueError(f"got {line}, label {row['label']!r} · expected one of {', '.join(LABELS)}")
    return LABELS[text]


def _number(text: str, line: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not 0 < number < inf:
        raise ValueError(f"got {line}, fps {text!r} · expected a positive number of frames per second")
    return number
