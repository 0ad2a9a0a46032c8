"""Data sets by name: sequences of `Quadruplet`s and `Group`s. `export` writes them in the IntPhys layout.

======== ==================================================================================== ====================
name     what                                                                                 items
======== ==================================================================================== ====================
miniphys made on the spot, 11 properties                                                      quadruplets
intphys  IntPhys 2019: dev, test, train                                                       quadruplets; groups
inflevel InfLevel: lab, sim (for evaluation only)                                             groups of four
intphys2 IntPhys 2: Debug, Main, HeldOut (for evaluation only)                                groups of four
grasp    GRASP level 2                                                                        groups of two
likephys LikePhys                                                                             a film, its violations
phyworld PhyWorld, with true positions                                                        groups of one
folder   your own, with a table of labels or without                                          groups
======== ==================================================================================== ====================

All but miniphys take `root`, the folder that the data were unpacked into, and `framing`, which says how many frames
are used and at what size. Each clip's factors keep the file and the frames that were used. Names are listed when a
data set is loaded; frames are read when an item is asked for. What is missing is an error that names the file.
`lines` reads a data set off a line of a command.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, Literal, overload

from dit_lens.choices import check_choice
from dit_lens.clips import Quadruplet
from dit_lens.datasets.framing import Framing

__all__ = ["NAMES", "Framing", "load"]

CLASSES = {
    "miniphys": "MiniPhys",
    "intphys": "IntPhys",
    "inflevel": "InfLevel",
    "intphys2": "IntPhys2",
    "grasp": "Grasp",
    "likephys": "LikePhys",
    "phyworld": "PhyWorld",
    "folder": "Folder",
}
NAMES = tuple(CLASSES)


@overload
def load(name: Literal["miniphys"], **options: Any) -> Sequence[Quadruplet]: ...
@overload
def load(name: str, **options: Any) -> Sequence[Any]: ...
def load(name: str, **options: Any) -> Sequence[Any]:
    """A data set as a sequence of quadruplets or groups of clips, each read when it is asked for.

    Args:
        name: one of `NAMES`.
        **options: the data set's own: `split`, and for all but miniphys `root` and `framing`; the rest is told by its
            class, such as `dit_lens.datasets.intphys.IntPhys`.

    Raises:
        ValueError: unknown name, option or option value, or no root; names the nearest.
        FileNotFoundError: no such folder or file; names it.
    """
    check_choice(name, NAMES, "data set")
    cls = getattr(importlib.import_module(f"dit_lens.datasets.{name}"), CLASSES[name])
    parameters = inspect.signature(cls).parameters
    for option in options:
        check_choice(option, parameters, f"option of {name}")
    if "root" in parameters and "root" not in options:
        raise ValueError(
            f"got no root for {name} · expected the folder it was unpacked into · load({name!r}, root=...)"
        )
    return cls(**options)
