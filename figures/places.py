"""Maps of label effects of patches by block and place, a column for each model and one for a random direction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dit_lens import plots
from dit_lens.measures.nulls import LEVEL
from dit_lens.measures.patching import PLAUSIBILITY, RANDOM, against_flips, label_effect_of_pairs
from figures.output import caption, save

Series = tuple[str, str, str]


def columns_of(result: xr.Dataset) -> list[Series]:
    """Title, model and readout of each column: the probe in all models, and a random direction in the first."""
    models = [str(model) for model in result.model.values]
    random = [str(name) for name in result.readout.values[result.kind.values == RANDOM]]
    columns = [(model, model, PLAUSIBILITY) for model in models]
    return columns + [(f"{models[0]},\nrandom direction", models[0], name) for name in random[:1]]


def draw_map(axes: Axes, mean: xr.DataArray, p: xr.DataArray, reach: float) -> AxesImage:
    """Mean effects by block and another dimension; framed where the corrected p-value is below the level."""
    across = next(str(dim) for dim in mean.dims if dim != "block")
    image = plots.heat_map(axes, mean.transpose("block", across).values, (-reach, reach), "RdBu_r")
    plots.outline(axes, np.asarray(p.transpose("block", across).values < LEVEL))
    return image


def reach_of(values: xr.DataArray) -> float:
    """The largest size among some values, for a scale; 1 where there is none."""
    return float(np.nan_to_num(np.abs(values.values)).max()) or 1.0


def draw_places(
    result: xr.Dataset, name: str, columns: str, rows: Mapping[str, xr.DataArray], path: Path | None = None
) -> Path:
    """Label effects at the first step, block by `columns`; returns the file.

    Args:
        rows: effects (model, scene, readout, step, block, columns) by the label of their row.
    """
    plots.use_style()
    step, series = result.step.values[0], columns_of(result)
    figure, axes = plt.subplots(
        len(rows), len(series), figsize=(2.0 * len(series) + 1.3, 1.7 * len(rows) + 0.9), squeeze=False
    )
    p = against_flips(xr.concat([effect.sel(step=[step]) for effect in rows.values()], "row")).p.sel(step=step)
    for row, (label, effect) in enumerate(rows.items()):
        mean = effect.sel(step=step).mean("scene", skipna=False)
        reach = max(reach_of(mean.sel(model=model, readout=readout)) for _, model, readout in series)
        for column, (title, model, readout) in enumerate(series):
            at, cell = {"model": model, "readout": readout}, axes[row, column]
            image = draw_map(cell, mean.sel(at), p.isel(row=row).sel(at), reach)
            cell.set_title(title if row == 0 else "")
            cell.set_xlabel("latent frame" if columns == "frame" else columns if row == len(rows) - 1 else "")
            cell.set_ylabel(f"{label}\nblock" if column == 0 else "")
        figure.colorbar(image, ax=axes[row], shrink=0.9)
    figure.suptitle(f"label effect [probe SD], step {step}, σ = {float(result.sigma[0]):.2f}", fontsize=8)
    note = (
        f"n = {result.sizes['scene']} test scenes; hatched: after the readout, or nothing there; framed:"
        f" p < {LEVEL:g},\nof the largest |t| of all cells of a column, signs of scenes flipped"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, name, path)


def by_rows(result: xr.Dataset, rows: str) -> dict[str, xr.DataArray]:
    """Label effects of all pairs, by the values of a dimension."""
    effect = label_effect_of_pairs(result)
    return {str(value): effect.sel({rows: value}, drop=True) for value in result[rows].values}
