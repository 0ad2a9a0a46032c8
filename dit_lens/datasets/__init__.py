"""Data sets by name: sequences of `Scene`s. `export` writes them in the IntPhys layout.

======== ============================================================= ==============================================
name     what                                                          scenes
======== ============================================================= ==============================================
miniphys generated, 11 properties                                      quadruplets, crossed
intphys  IntPhys 2019: dev, test, train                                quadruplets, crossed; train: one clip
inflevel InfLevel: lab, sim (for evaluation only)                      four clips, two pairs
intphys2 IntPhys 2: Debug, Main, HeldOut (for evaluation only)         four clips, two pairs
grasp    GRASP level 2                                                 one pair
likephys LikePhys                                                      a possible clip and its violations
phyworld PhyWorld, with true positions                                 one clip without label
folder   your own, with or without a table of labels                   as the table groups them
======== ============================================================= ==============================================

All but miniphys take `root`, the folder that the data were unpacked into, and `framing`, which sets the number of
frames and their size. Each clip's factors record the file and the frames that were used. Names are listed when a data
set is loaded (`outline` gives id, property and labels of a scene without its frames); frames are read when a scene is
accessed. A missing file is an error that names it. `spec` parses a data set from the command line; `scenes` selects
comparable scenes from any data set, and splits them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dit_lens.choices import check_choice

if TYPE_CHECKING:
    from dit_lens.clips import Scene
    from dit_lens.datasets.framing import Framing

__all__ = ["NAMES", "Framing", "load"]

CLASSES = {
    "miniphys": "dit_lens.toy.miniphys.MiniPhys",
    "intphys": "dit_lens.datasets.intphys.IntPhys",
    "inflevel": "dit_lens.datasets.inflevel.InfLevel",
    "intphys2": "dit_lens.datasets.intphys2.IntPhys2",
    "grasp": "dit_lens.datasets.grasp.Grasp",
    "likephys": "dit_lens.datasets.likephys.LikePhys",
    "phyworld": "dit_lens.datasets.phyworld.PhyWorld",
    "folder": "dit_lens.datasets.folder.Folder",
}
NAMES = tuple(CLASSES)


def load(name: str, **options: Any) -> Sequence[Scene]:
    """A data set as a sequence of scenes, each read when it is accessed.

    Args:
        name: one of `NAMES`.
        **options: of the data set: `split`, and for all but miniphys `root` and `framing`; its class documents the
            others, such as `dit_lens.datasets.intphys.IntPhys`.

    Raises:
        ValueError: unknown name, option or option value, or no root; names the nearest.
        FileNotFoundError: no such folder or file; names it.
    """
    cls = reader(name)
    parameters = inspect.signature(cls).parameters
    for option in options:
        check_choice(option, parameters, f"option of {name}")
    if "root" in parameters and "root" not in options:
        raise ValueError(
            f"got no root for {name} · expected the folder into which it was unpacked · load({name!r}, root=...)"
        )
    return cls(**options)


def reader(name: str) -> Any:
    """The class of a data set.

    Raises:
        ValueError: unknown name; names the nearest.
    """
    check_choice(name, NAMES, "data set")
    module, _, kind = CLASSES[name].rpartition(".")
    return getattr(importlib.import_module(module), kind)


def __getattr__(name: str) -> Any:
    if name == "Framing":
        from dit_lens.datasets.framing import Framing

        return Framing
    raise AttributeError(f"module 'dit_lens.datasets' has no attribute {name!r}")
