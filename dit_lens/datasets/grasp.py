"""GRASP level 2 (Jassim et al.; i-machine-think/grasp): simulated videos in pairs, 50 frames per second.

ROOT/level2/P_<Property>/000.mp4 ... 127.mp4        plausible
ROOT/level2/IP_<Property>/000.mp4 ...               implausible; equal numbers are a pair
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dit_lens.choices import check_choice
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, relative
from dit_lens.reading import VideoFile, list_visible


class Grasp(Recordings):
    """Pairs of GRASP, the plausible video first.

    Args:
        root: the folder that holds level2.
        split: "level2".
        properties: such as "Collision"; by default all that have folders.
        framing: which frames, at what size.
        tolerance: distance up to which two frames count as the same (see `Recordings`).

    Raises:
        ValueError: unknown split or property. FileNotFoundError: no such folder, or a video without its pair; names it.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "level2",
        properties: Sequence[str] | None = None,
        framing: Framing | None = None,
        tolerance: float = 0.0,
    ):
        folder = Path(root) / check_choice(split, ("level2",), "GRASP split")
        names = (path.name for path in list_visible(folder) if path.is_dir())
        available = sorted({name.split("_", 1)[1] for name in names if name.startswith(("P_", "IP_"))})
        chosen = [
            check_choice(name, available, "GRASP property")
            for name in (available if properties is None else properties)
        ]
        super().__init__(
            [batch for prop in chosen for batch in _batches(folder, prop)], str(folder), framing, tolerance
        )


def _batches(folder: Path, prop: str) -> list[Batch]:
    folders = [folder / f"{source}_{prop}" for source in ("P", "IP")]
    names = sorted({path.name for source in folders for path in list_visible(source) if path.suffix.lower() == ".mp4"})
    batches = []
    for name in names:
        recordings = tuple(
            Recording(VideoFile(source / name), possible, role, {"path": relative(source / name, folder)})
            for source, possible, role in zip(folders, (True, False), ("P", "IP"), strict=True)
        )
        batches.append(Batch(f"grasp/{folder.name}/{prop}/{Path(name).stem}", prop, recordings, ((0, 1),)))
    return batches
