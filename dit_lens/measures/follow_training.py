"""Measures of a model over its training: loss, surprise, and accuracy of probes, checkpoint by checkpoint."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures.columns import aligned
from dit_lens.measures.comparison import Estimate

MEASURES = {
    "loss": "velocity error, possible clips",
    "surprise": "surprise, from the break on (%)",
    "inversion": "probe on inverted clips (accuracy)",
    "continuation": "probe on continuations (accuracy)",
}
CHANCE = {"surprise": 0.0, "inversion": 0.5, "continuation": 0.5}
WORDS = {
    "surprise": "the velocity error is larger on impossible clips",
    "inversion": "a probe on inverted clips is above chance",
    "continuation": "a probe on continuations is above chance",
}


def at(result: xr.Dataset, measure: str, checkpoint: int) -> Estimate:
    """A measure at a checkpoint."""
    values = result.value.sel(measure=measure, checkpoint=checkpoint, bound=["estimate", "low", "high"]).values
    return Estimate(measure, *(float(value) for value in values))


def since(result: xr.Dataset, measure: str) -> int | None:
    """The first checkpoint from which on the interval lies above chance at all later ones; None if never."""
    low = result.value.sel(measure=measure, bound="low").sortby("checkpoint")
    below = np.flatnonzero(~(low.values > CHANCE[measure]))
    first = below[-1] + 1 if len(below) else 0
    return int(low.checkpoint[first]) if first < low.sizes["checkpoint"] else None


def verdict(result: xr.Dataset) -> str:
    """From which training step on each measure is above chance, and where it ends."""
    last, measured = int(result.checkpoint.max()), [name for name in CHANCE if name in result.measure.values]
    parts = []
    for name in measured:
        step, end = since(result, name), at(result, name, last)
        when = f"from step {step} on" if step is not None else "at no step"
        parts.append(f"{WORDS[name]} {when} ({end.number(digits=3)} at the last)")
    first = int(result.checkpoint.min())
    start = ", ".join(f"{name} {at(result, name, first).number()}" for name in measured) if first == 0 else ""
    control = f" Control, the initialisation at step 0: {start}." if start else " The initialisation was not measured."
    n = int(result.scenes) if "scenes" in result else "?"
    return f"Over {last} steps of training (n = {n} test scenes), {'; '.join(parts)}.{control}"


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per checkpoint: every measure with its interval."""
    names = [str(name) for name in result.measure.values]
    rows = [["step", *(MEASURES.get(name, name) for name in names)]]
    for step in result.checkpoint.values:
        rows.append([f"{step}", *(at(result, name, step).number() for name in names)])
    return "\n".join(aligned(rows))
