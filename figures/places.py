"""Maps of label-odd patching effects by block and place, a column for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from analyses.pairs import label_odd
from dit_lens import plots
from figures.output import caption, save


def draw_places(result: xr.Dataset, name: str, columns: str, maps: Mapping[str, xr.DataArray]) -> Path:
    """Label-odd effects on the probe's logit at the first step, block by `columns`; returns the file.

    Args:
        maps: mean effects by the label of their row.
    """
    plots.use_style()
    step = result.step.values[0]
    models = [str(model) for model in result.model.values]
    figure, axes = plt.subplots(
        len(maps), len(models), figsize=(2.1 * len(models) + 1.3, 1.7 * len(maps) + 0.7), squeeze=False
    )
    for row, (label, odd) in enumerate(maps.items()):
        reach = float(np.nanmax(np.abs(odd))) or 1.0
        for column, model in enumerate(models):
            cell, values = axes[row, column], odd.sel(model=model, step=step).transpose("block", columns).values
            image = plots.heat_map(cell, values, (-reach, reach), "RdBu_r")
            cell.set_title(model if row == 0 else "")
            cell.set_xlabel("latent frame" if columns == "frame" else columns if row == len(maps) - 1 else "")
            cell.set_ylabel(f"{label}\nblock" if column == 0 else "")
        figure.colorbar(image, ax=axes[row], shrink=0.9)
    figure.suptitle(f"label-odd effect [probe SD], step {step}, σ = {float(result.sigma[0]):.2f}", fontsize=8)
    note = f"n = {result.sizes['quadruplet']} test quadruplets; hatched: behind the readout"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, name)


def by_rows(result: xr.Dataset, rows: str) -> dict[str, xr.DataArray]:
    """Mean label-odd effects of all pairs, by the values of a dimension."""
    odd = label_odd(result).mean("quadruplet", skipna=False)
    return {str(value): odd.sel({rows: value}) for value in result[rows].values}
