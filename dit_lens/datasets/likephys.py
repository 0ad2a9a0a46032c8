"""LikePhys (Yuan et al.; YuanJianhao508/LikePhys): a valid video and its violations, 60 frames at 30 per second.

ROOT/data/<scenario>_videos/subgroup_000/valid_00.mp4
ROOT/data/<scenario>_videos/subgroup_000/<violation>_00.mp4
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dit_lens.choices import check_choice
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, match_labels, relative
from dit_lens.reading import VideoFile, list_visible

VALID = "valid"
# Controls that break no law of physics: shuffled frames, and a video in another colour.
NO_PHYSICS = ("temporal_disorder", "color_change")


class LikePhys(Recordings):
    """Subgroups of LikePhys: the valid video matched with each of its violations of physics.

    A group's property is its scenario; a clip's role is the video's name, and its factors name the `violation`.

    Args:
        root: the folder that holds data.
        split: "data".
        scenarios: such as "ball_drop"; by default all that have folders.
        controls: whether to include shuffled and recoloured videos; their label is unknown, as they break no law, and
            they are not matched.
        framing: which frames, at what size.
        tolerance: distance up to which two frames count as the same (see `Recordings`).

    Raises:
        ValueError: unknown split or scenario. FileNotFoundError: no such folder, or a subgroup without a valid video.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "data",
        scenarios: Sequence[str] | None = None,
        controls: bool = False,
        framing: Framing | None = None,
        tolerance: float = 0.0,
    ):
        folder = Path(root) / check_choice(split, ("data",), "LikePhys split")
        names = (path.name for path in list_visible(folder) if path.is_dir())
        available = [name.removesuffix("_videos") for name in names if name.endswith("_videos")]
        chosen = [
            check_choice(name, available, "LikePhys scenario")
            for name in (available if scenarios is None else scenarios)
        ]
        subgroups = (
            (name, path) for name in chosen for path in list_visible(folder / f"{name}_videos") if path.is_dir()
        )
        super().__init__(
            [_batch(folder, name, path, controls) for name, path in subgroups], str(folder), framing, tolerance
        )


def _batch(folder: Path, scenario: str, subgroup: Path, controls: bool) -> Batch:
    recordings = []
    for path in list_visible(subgroup):
        if path.suffix.lower() != ".mp4":
            continue
        kind, _, number = path.stem.rpartition("_")
        if not kind or not number.isdecimal():
            raise ValueError(f"got {path} · expected a name such as valid_00.mp4 or <violation>_00.mp4")
        if controls or kind not in NO_PHYSICS:
            possible = None if kind in NO_PHYSICS else kind == VALID
            factors = {"violation": "" if possible else kind, "path": relative(path, folder)}
            recordings.append(Recording(VideoFile(path), possible, path.stem, factors))
    if not any(recording.possible for recording in recordings):
        raise FileNotFoundError(f"got no file {subgroup / 'valid_00.mp4'} · expected a valid video in each subgroup")
    recordings.sort(key=lambda recording: (recording.possible is not True, recording.role))
    matches = tuple(
        (i, j)
        for i, j in match_labels([recording.possible for recording in recordings])
        if recordings[i].role.rsplit("_", 1)[1] == recordings[j].role.rsplit("_", 1)[1]
    )
    return Batch(f"likephys/{scenario}/{subgroup.name}", scenario, tuple(recordings), matches)
