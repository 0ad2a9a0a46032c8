"""Maps of label-odd patching effects by block and place, a column for each model and one for a random direction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analyses.pairs import label_odd
from analyses.pairs_table import LEVEL, against_flips
from analyses.readouts import PLAUSIBILITY, RANDOM
from dit_lens import plots
from figures.output import caption, save

Series = tuple[str, str, str]


def columns_of(result: xr.Dataset) -> list[Series]:
    """Title, model and readout of each column: the probe in all models, and a random direction in the first."""
    models = [str(model) for model in result.model.values]
    random = [str(name) for name in result.readout.values[result.kind.values == RANDOM]]
    found = [(model, model, PLAUSIBILITY) for model in models]
    return found + [(f"{models[0]},\nrandom direction", models[0], name) for name in random[:1]]


def draw_map(axes: Axes, mean: xr.DataArray, p: xr.DataArray, reach: float) -> AxesImage:
    """Mean effects by block and another dimension; framed where the corrected p-value is below the level."""
    across = next(str(dim) for dim in mean.dims if dim != "block")
    image = plots.heat_map(axes, mean.transpose("block", across).values, (-reach, reach), "RdBu_r")
    plots.outline(axes, np.asarray(p.transpose("block", across).values < LEVEL))
    return image


def draw_places(result: xr.Dataset, name: str, columns: str, rows: Mapping[str, xr.DataArray]) -> Path:
    """Label-odd effects at the first step, block by `columns`; returns the file.

    Args:
        rows: effects (model, quadruplet, readout, step, block, columns) by the label of their row.
    """
    plots.use_style()
    step, series = result.step.values[0], columns_of(result)
    figure, axes = plt.subplots(
        len(rows), len(series), figsize=(2.0 * len(series) + 1.3, 1.7 * len(rows) + 0.9), squeeze=False
    )
    p = against_flips(xr.concat([odd.sel(step=[step]) for odd in rows.values()], "row")).p.sel(step=step)
    for row, (label, odd) in enumerate(rows.items()):
        mean = odd.sel(step=step).mean("quadruplet")
        reach = max(float(np.abs(mean.sel(model=model, readout=readout)).max()) for _, model, readout in series) or 1.0
        for column, (title, model, readout) in enumerate(series):
            at, cell = {"model": model, "readout": readout}, axes[row, column]
            image = draw_map(cell, mean.sel(at), p.isel(row=row).sel(at), reach)
            cell.set_title(title if row == 0 else "")
            cell.set_xlabel("latent frame" if columns == "frame" else columns if row == len(rows) - 1 else "")
            cell.set_ylabel(f"{label}\nblock" if column == 0 else "")
        figure.colorbar(image, ax=axes[row], shrink=0.9)
    figure.suptitle(f"label-odd effect [probe SD], step {step}, σ = {float(result.sigma[0]):.2f}", fontsize=8)
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets; hatched: behind the readout, or nothing there; framed:"
        f" p < {LEVEL:g},\nof the largest |t| of all cells of a column, signs of quadruplets flipped"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, name)


def by_rows(result: xr.Dataset, rows: str) -> dict[str, xr.DataArray]:
    """Label-odd effects of all pairs, by the values of a dimension."""
    odd = label_odd(result)
    return {str(value): odd.sel({rows: value}, drop=True) for value in result[rows].values}
