"""Losses of scores by an ablation, with intervals over scenes: shared by the ablation analyses.

Results have `counts` (..., scene, score, part): how much of each scene was "good", and "of" how much, in the whole
model (replacement "none") and without something. A score that the data cannot give is NaN, or absent.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.labels import by_group, ratio_interval
from dit_lens.stats import DIFFERENCE

FIXED, REFITTED, COLOUR = SCORES = ("fixed", "refitted", "colour")
NONE, CONTROL = "none", "random write"


def scores_of(result: xr.Dataset) -> list[str]:
    """The scores that a result has, in order."""
    return [str(name) for name in result.score.values if bool(result.counts.sel(score=name).notnull().any())]


def value(result: xr.Dataset) -> xr.DataArray:
    """Each score over all scenes: the sum of "good" over the sum of "of"."""
    sums = by_group(result.counts).sum("scene", skipna=False)
    return sums.sel(part="good") / sums.sel(part="of")


def loss(result: xr.Dataset) -> xr.DataArray:
    """Loss of each score by an ablation: intact model minus ablated model, (replacement, ...)."""
    scores = value(result)
    return scores.sel(replacement=NONE) - scores.drop_sel(replacement=NONE)


def loss_interval(result: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The loss of one score by one ablation, the last replacement, with its 95% interval over scenes."""
    names = NONE, str(result.replacement.values[-1])
    intact, ablated = (result.counts.sel(replacement=name, drop=True) for name in names)
    lost = intact.sel(part="good", drop=True) - ablated.sel(part="good", drop=True)
    return ratio_interval(lost, intact.sel(part="of", drop=True), DIFFERENCE)


def points(interval: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
    """A loss in percentage points."""
    return text.interval(*(100 * x for x in interval), signed=True, digits=1)


def replacements(result: xr.Dataset) -> list[str]:
    """The replacements, without the control of a random write where there is another."""
    kinds = [str(kind) for kind in result.replacement.values if kind != NONE]
    return [kind for kind in kinds if kind != CONTROL] or kinds
