"""Interventions: exact effects of many edits on metrics, without computing any part of the model twice.

intervention: edits applied together, with their coordinates. sweeping: `sweep` in one evaluation and `over`, a table by
coordinates. effects: differences of metrics. exact: the engine, with batching (copies that join block by block), bypass
(edits of heads without attention) and spill (activations in memory or files). literal: one full forward per edit.
screening: attribution patching, which ranks interventions by one gradient, with its agreement. trajectories: edits at
every step of a path segment (segments), with metrics at its end or of the clip. tables: effects with named dimensions.
"""

from __future__ import annotations

from dit_lens.interventions.effects import Effects, Screened
from dit_lens.interventions.intervention import Intervention
from dit_lens.interventions.screening import Screening, screen
from dit_lens.interventions.segments import PathSegment
from dit_lens.interventions.sweeping import over, sweep
from dit_lens.interventions.tables import Path, clip_ids_of, evaluations, named, tabulate
from dit_lens.interventions.trajectories import PathEffects, sweep_along, sweep_to_clip

__all__ = [
    "Effects",
    "Intervention",
    "Path",
    "PathEffects",
    "PathSegment",
    "Screened",
    "Screening",
    "clip_ids_of",
    "evaluations",
    "named",
    "over",
    "screen",
    "sweep",
    "sweep_along",
    "sweep_to_clip",
    "tabulate",
]
