"""Tables of grids of probes: accuracy of every cell, and logits at the cell that training scenes chose."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dit_lens.probing import Features, fit


def scored(train: Features, test: Features, unseen: Features | None = None, **fitting: Any) -> xr.Dataset:
    """Accuracy of every cell out of fold on training scenes and on test scenes; logits of the chosen cells.

    Args:
        **fitting: how probes are fitted and a cell is chosen, such as rule and strengths: see `probing.fit`.

    Returns:
        `train_accuracy`, `test_accuracy` (step, block); the cell chosen on training scenes; of the test clips `logit`
        there, `own_logit` at the cell that their own property's training clips choose and `transfer_logit` by a probe
        that was fitted on all other properties (scene, role); `unseen_logit` (unseen_scene, role).
    """
    probes = fit(train, **fitting)
    right = (probes.all_logits(test).values > 0) == test.labels[:, None, None]
    cell = dict(zip(train.dims, probes.cell, strict=True))
    table = xr.Dataset(
        {
            "train_accuracy": probes.accuracy,
            "test_accuracy": (train.dims, right.mean(0)),
            **{f"chosen_{dim}": value for dim, value in cell.items()},
            "logit": test.table(probes.logits(test)),
            "own_logit": test.table(probes.chosen_by_property(test)),
            "transfer_logit": test.table(probes.left_out(test)),
        }
    )
    if unseen is not None:
        logits = unseen.table(probes.logits(unseen)).reset_coords(drop=True)
        table["unseen_logit"] = logits.rename(scene="unseen_scene")
    return table.drop_vars("possible", errors="ignore")


def logits_by_scene(features: Features, values: np.ndarray) -> xr.DataArray:
    """One number per clip as (scene, role)."""
    return features.table(values).drop_vars("possible", errors="ignore")
