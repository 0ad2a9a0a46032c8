"""Clips of one's own: a folder of videos, animated images or folders of frames, with a table of labels or without.

The table is `clips.csv` in the folder, one line a clip. Its column `path` is relative to the folder. Of the other
columns, all optional, `label` is 1, possible or plausible; 0, impossible or implausible; or unknown. Clips of one
`group` stay together; `property`, `role` and `fps` are as in `Clip`; the rest are factors, as text.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, match_labels
from dit_lens.reading import VIDEO, Film, list_images, list_visible

TABLE = "clips.csv"
ANIMATED = (".gif", ".webp", ".apng")
LABELS = {
    **dict.fromkeys(("1", "true", "possible", "plausible"), True),
    **dict.fromkeys(("0", "false", "impossible", "implausible"), False),
    "unknown": None,
}
NAMED = ("path", "label", "group", "property", "role", "fps")


class Folder(Recordings):
    """Groups of the clips of a folder: as its table groups them, or each by itself and without a label.

    Where labels are known, each possible clip of a group is matched with each impossible one.

    Args:
        root: the folder.
        split: a sub-folder of it, if any.
        fps: frames per second of what does not state them, such as folders of images.
        framing: which frames, at what size.

    Raises:
        FileNotFoundError: no such folder or clip. ValueError: nothing in it, or a bad line of the table; names it.
    """

    def __init__(self, root: str | Path, split: str = "", fps: float | None = None, framing: Framing | None = None):
        folder = (Path(root) / split).resolve()  # its name begins the ids, whatever it was called by
        table = folder / TABLE
        batches = _from_table(table, fps) if table.exists() else _from_names(folder, fps)
        super().__init__(batches, str(folder), framing)


def _from_names(folder: Path, fps: float | None) -> list[Batch]:
    """One group for each clip."""
    found = [path for path in list_visible(folder) if _is_clip(path)]
    names = {path: path.name for path in found}
    return [
        Batch(f"{folder.name}/{names[path]}", "", (Recording(Film(path), None, "A", {"path": names[path]}, fps),))
        for path in found
    ]


def _is_clip(path: Path) -> bool:
    return bool(list_images(path)) if path.is_dir() else path.suffix.lower() in VIDEO + ANIMATED


def _from_table(table: Path, fps: float | None) -> list[Batch]:
    with table.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if "path" not in (reader.fieldnames or ()):
            raise ValueError(f"got {table} with columns {reader.fieldnames} · expected a column path")
        rows = [(f"{table}, line {reader.line_num}", row) for row in reader]
    groups: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for line, row in rows:
        if not row["path"] or None in row or None in row.values():
            raise ValueError(f"got {line}, without a path or not of the header's columns · expected as many cells")
        groups.setdefault(row.get("group") or row["path"], []).append((line, row))
    return [_batch(table.parent, name, members, fps) for name, members in groups.items()]


def _batch(folder: Path, name: str, members: list[tuple[str, Mapping[str, str]]], fps: float | None) -> Batch:
    recordings = []
    for number, (line, row) in enumerate(members, start=1):
        rest = {key: value for key, value in row.items() if key not in NAMED} | {"path": row["path"]}
        rate = _number(row["fps"], line) if row.get("fps") else fps
        role = row.get("role") or str(number)
        recordings.append(Recording(Film(folder / row["path"]), _label(row, line), role, rest, rate))
    properties = {row.get("property", "") for _, row in members}
    roles = {recording.role for recording in recordings}
    if len(properties) > 1 or len(roles) < len(recordings):
        raise ValueError(f"got group {name!r} up to {members[-1][0]} · expected one property, and a role for each clip")
    matches = match_labels([recording.possible for recording in recordings])
    return Batch(f"{folder.name}/{name}", properties.pop(), tuple(recordings), matches)


def _label(row: Mapping[str, str], line: str) -> bool | None:
    """The label; unknown where the table has no such column. An empty cell is an error, for it may be a slip."""
    text = row.get("label", "unknown").strip().lower()
    if text not in LABELS:
        raise ValueError(f"got {line}, label {row['label']!r} · expected one of {', '.join(LABELS)}")
    return LABELS[text]


def _number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"got {line}, fps {text!r} · expected frames per second") from error
