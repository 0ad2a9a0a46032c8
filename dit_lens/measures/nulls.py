"""Tests of effects against labels exchanged in whole scenes, by the largest effect of all cells."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens import stats
from dit_lens.measures.labels import rows

LEVEL = 0.05
ROUNDING = 1e-9


def sign_flips(effects: xr.DataArray, seed: int = 0) -> xr.Dataset:
    """Effects as t over scenes, and p-values against the largest |t| of all cells under meaningless labels.

    Under the null the label effect of a scene is as likely as its negative, in all cells at once. Scenes of one group
    are averaged before. Cells that some scene lacks (NaN) are left out.

    Args:
        effects: label effects (scene, ...).

    Returns:
        `t` and `p` (...), corrected for the choice among all cells, and the `threshold` of |t| that p < 0.05 asks for;
        NaN of a single scene.
    """
    observed = rows(effects)
    t, p = np.full((2, *observed.shape[1:]), np.nan)
    threshold = np.nan
    if len(observed) > 1:
        flat, null = stats.sign_flips(observed.reshape(len(observed), -1).astype(float), seed)
        # Of few scenes many draws flip none or all: their |t| is the observed one, up to rounding, and counts as large.
        chances = stats.selection_corrected_p(np.abs(flat) * (1 - ROUNDING), np.abs(null))
        t, p = flat.reshape(t.shape), chances.reshape(p.shape)
        threshold = stats.selection_threshold(np.abs(null), LEVEL)
    like = effects.transpose("scene", ...).isel(scene=0, drop=True).astype(float)
    return xr.Dataset({"t": like.copy(data=t), "p": like.copy(data=p)}).assign(threshold=threshold)


def passing(p: xr.DataArray) -> tuple[int, int]:
    """How many cells pass the corrected threshold, of how many that have a p-value."""
    return int((p < LEVEL).sum()), int(p.notnull().sum())
