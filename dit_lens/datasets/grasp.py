"""GRASP level 2 (Jassim et al.; i-machine-think/grasp): simulated films in pairs, 50 frames per second.

ROOT/level2/P_<Property>/000.mp4 ... 127.mp4        plausible
ROOT/level2/IP_<Property>/000.mp4 ...               implausible; each number is the pair of its like
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dit_lens.choices import check_choice
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, relative
from dit_lens.reading import Film, list_visible


class Grasp(Recordings):
    """Pairs of GRASP, the plausible film first.

    Args:
        root: the folder that holds level2.
        split: "level2".
        properties: such as "Collision"; by default all whose folders are there.
        framing: which frames, at what size.

    Raises:
        ValueError: unknown split or property. FileNotFoundError: no such folder, or a film without its pair; names it.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "level2",
        properties: Sequence[str] | None = None,
        framing: Framing | None = None,
    ):
        folder = Path(root) / check_choice(split, ("level2",), "GRASP split")
        names = (path.name for path in list_visible(folder) if path.is_dir())
        there = sorted({name.split("_", 1)[1] for name in names if name.startswith(("P_", "IP_"))})
        chosen = [check_choice(name, there, "GRASP property") for name in (there if properties is None else properties)]
        super().__init__([batch for prop in chosen for batch in _batches(folder, prop)], str(folder), framing)


def _batches(folder: Path, prop: str) -> list[Batch]:
    sides = [folder / f"{side}_{prop}" for side in ("P", "IP")]
    names = sorted({path.name for side in sides for path in list_visible(side) if path.suffix.lower() == ".mp4"})
    batches = []
    for name in names:
        recordings = tuple(
            Recording(Film(side / name), possible, role, {"path": relative(side / name, folder)})
            for side, possible, role in zip(sides, (True, False), ("P", "IP"), strict=True)
        )
        batches.append(Batch(f"grasp/{folder.name}/{prop}/{Path(name).stem}", prop, recordings, ((0, 1),)))
    return batches
