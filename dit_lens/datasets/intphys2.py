"""IntPhys 2 (Bordes et al.; facebookresearch/IntPhys2), for evaluation only.

    ROOT/<Debug|Main|HeldOut>/metadata.csv      SceneIndex,name,file_name,game_name,condition,env,type,occluder,...
    ROOT/<split>/Videos/<name>.mp4              file_name is relative to the split

A scene has four videos, 1_Possible, 1_Impossible, 2_Possible and 2_Impossible; HeldOut has no labels. Fixed and moving
cameras are fully confounded with game_name.
"""

from __future__ import annotations

from pathlib import Path

from dit_lens.choices import check_choice
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, tell_once
from dit_lens.datasets.tables import read_table
from dit_lens.reading import VideoFile

SPLITS = ("Debug", "Main", "HeldOut")
TYPES = ("1_Possible", "1_Impossible", "2_Possible", "2_Impossible")
POLICY = "eval-only"
NOTICE = "IntPhys 2 is CC BY-NC 4.0 and limited to evaluation: do not train on it, not even a linear probe."


class IntPhys2(Recordings):
    """Scenes of a split of IntPhys 2; `matches` are the possible and the impossible video of one number.

    Factors are the other columns of metadata.csv, as text. The licence notice is shown once and is in every clip's
    factors (`policy`, `licence`).

    Args:
        root: the folder that holds Debug, Main and HeldOut.
        split: one of them.
        framing: which frames, at what size.
        tolerance: distance up to which two frames count as the same (see `Recordings`).

    Raises:
        ValueError: unknown split, a table without its columns, a line without its label; names it.
        FileNotFoundError: no such table or video.
    """

    def __init__(self, root: str | Path, split: str = "Main", framing: Framing | None = None, tolerance: float = 0.0):
        folder = Path(root) / check_choice(split, SPLITS, "IntPhys 2 split")
        scenes: dict[str, list[dict[str, str]]] = {}
        for row in _rows(folder / "metadata.csv", labelled=split != "HeldOut"):
            scenes.setdefault(row["SceneIndex"], []).append(row)
        tell_once(NOTICE)
        super().__init__(
            [_batch(folder, index, rows) for index, rows in scenes.items()], str(folder), framing, tolerance
        )


def _rows(table: Path, labelled: bool) -> list[dict[str, str]]:
    if not table.exists():
        raise FileNotFoundError(f"got no file {table} · expected the table of the split · check the root")
    columns, rows = read_table(table)
    missing = {"SceneIndex", "name", "file_name"} - set(columns)
    if missing:
        raise ValueError(
            f"got {table} without the columns {', '.join(sorted(missing))} · expected them · unpack the release again"
        )
    lines: dict[str, str] = {}
    for line, row in rows:
        row["type"] = row.get("type", "")
        if row["type"] not in TYPES and (labelled or row["type"]):
            raise ValueError(f"got {line}, type {row['type']!r} · expected one of {', '.join(TYPES)}")
        if row["file_name"] in lines:
            raise ValueError(
                f"got {line} and {lines[row['file_name']]} for the same video · expected one line for each video"
            )
        lines[row["file_name"]] = line
    return [row for _, row in rows]


def _batch(folder: Path, index: str, rows: list[dict[str, str]]) -> Batch:
    rows = sorted(rows, key=lambda row: (TYPES.index(row["type"]) if row["type"] else 0, row["name"]))
    recordings = tuple(
        Recording(VideoFile(folder / row["file_name"]), _label(row), row["type"] or row["name"], _factors(row))
        for row in rows
    )
    places = {row["type"]: place for place, row in enumerate(rows) if row["type"]}
    complete = (number for number in "12" if {f"{number}_Possible", f"{number}_Impossible"} <= set(places))
    matches = tuple((places[f"{number}_Possible"], places[f"{number}_Impossible"]) for number in complete)
    return Batch(f"intphys2/{folder.name}/{index}", rows[0].get("condition") or "", recordings, matches)


def _label(row: dict[str, str]) -> bool | None:
    return row["type"].endswith("_Possible") if row["type"] else None


def _factors(row: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if key} | {"policy": POLICY, "licence": NOTICE}
