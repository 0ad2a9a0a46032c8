"""Sweeps: the effect of each of many changes on some metrics, exactly and without running anything twice.

changes: what is changed and what an effect is. suffix: the engine. literal: the slow path that it equals. screening:
attribution patching, which ranks changes by one gradient, and says how well. tables: effects with named dimensions.
"""

from __future__ import annotations

from dit_lens.sweeps.changes import Change, Effects, change_each
from dit_lens.sweeps.literal import sweep_literally
from dit_lens.sweeps.screening import Screened, screen, screened_sweep
from dit_lens.sweeps.suffix import sweep
from dit_lens.sweeps.tables import Path, clip_ids_of, evaluations, named, tabulate

__all__ = [
    "Change",
    "Effects",
    "Path",
    "Screened",
    "change_each",
    "clip_ids_of",
    "evaluations",
    "named",
    "screen",
    "screened_sweep",
    "sweep",
    "sweep_literally",
    "tabulate",
]
