"""Sweeps: the effect of each of many changes on some metrics, exactly and without running anything twice.

changes: what is changed and what an effect is. suffix: the engine; waves: copies that join block by block; outlets:
heads' changes that go around attention; shelf: what is kept, in memory or in files. literal: the slow path. screening:
attribution patching, which ranks changes by one gradient, and says how well. along: changes that act at every step of a
stretch of a trajectory (stretches), read at its end or in the clip. tables: effects with named dimensions.
"""

from __future__ import annotations

from dit_lens.sweeps.along import Along, sweep_along, sweep_to_clip
from dit_lens.sweeps.changes import Change, Effects, change_each
from dit_lens.sweeps.literal import sweep_literally
from dit_lens.sweeps.screening import Screened, screen, screened_sweep
from dit_lens.sweeps.stretches import Stretch
from dit_lens.sweeps.suffix import sweep
from dit_lens.sweeps.tables import Path, clip_ids_of, evaluations, named, tabulate

__all__ = [
    "Along",
    "Change",
    "Effects",
    "Path",
    "Screened",
    "Stretch",
    "change_each",
    "clip_ids_of",
    "evaluations",
    "named",
    "screen",
    "screened_sweep",
    "sweep",
    "sweep_along",
    "sweep_literally",
    "sweep_to_clip",
    "tabulate",
]
