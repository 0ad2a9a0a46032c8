"""Maps of what plausibility needs, by block: `python -m figures.ablate_blocks` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analyses.ablate_blocks_table import label_odd, surprise, threshold
from dit_lens import plots, results, stats
from figures.output import caption, save

TABLE = Path("figures/data/ablate_blocks.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "0.45")  # Okabe and Ito's: safe for the colour-blind


def draw(result: xr.Dataset) -> Path:
    """Rows: models. Columns: readings, as maps of replacement and write by block; last, the change of surprise."""
    plots.use_style()
    odd = label_odd(result).drop_sel(replacement="none")
    mean = odd.mean("quadruplet", skipna=False)
    reach = float(np.nanmax(np.abs(mean))) or 1.0
    readings, models = [str(r) for r in odd.reading.values], [str(m) for m in odd.model.values]
    size = 1.9 * len(readings) + 4, 0.17 * mean.sizes["replacement"] * mean.sizes["write"] * len(models) + 1.2
    figure, axes = plt.subplots(len(models), len(readings) + 1, figsize=size, squeeze=False,
                                width_ratios=[1] * len(readings) + [1.4])  # fmt: skip
    for line, (row, model) in enumerate(zip(axes, models, strict=True)):
        for cell, reading in zip(row, readings, strict=False):
            image = _map(cell, odd.sel(model=model, reading=reading), reach)
            cell.set_title(reading if line == 0 else "")
        row[0].set_yticks(range(mean.sizes["replacement"] * mean.sizes["write"]), _names(odd), fontsize=5)
        row[0].set_ylabel(model)
        _surprise(row[-1], result.sel(model=model))
        figure.colorbar(image, ax=row[:-1], label="label-odd [SD]", shrink=0.9)
    axes[0, -1].legend(frameon=False, fontsize=5)
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets; below 0: possible and impossible come closer; framed:"
        " beyond the largest |t| of a map under swapped labels (5%);\nhatched: behind the readout; right: change of"
        " surprise without all that a block writes, 95% CI over quadruplets"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "ablate_blocks")


def _map(axes: Axes, odd: xr.DataArray, reach: float) -> AxesImage:
    """Replacement and write by block, those beyond chance framed."""
    t, beyond = threshold(odd)
    order = ("replacement", "write", "block")
    rows = [
        x.transpose(*order).values.reshape(-1, odd.sizes["block"]) for x in (odd.mean("quadruplet", skipna=False), t)
    ]
    image = plots.heat_map(axes, rows[0], (-reach, reach), "RdBu_r")
    plots.outline(axes, np.abs(np.nan_to_num(rows[1])) > beyond)
    axes.set_yticks([])
    axes.set_xlabel("block")
    return image


def _names(odd: xr.DataArray) -> list[str]:
    return [f"{kind}, {write}" for kind in odd.replacement.values for write in odd.write.values]


def _surprise(axes: Axes, result: xr.Dataset) -> None:
    """The change of surprise without all that a block writes."""
    change, whole = (x.isel(write=0).transpose("quadruplet", "replacement", "block") for x in surprise(result))
    estimate, low, high = stats.bootstrap_ratio(change.values, whole.values)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    kinds = [str(kind) for kind in change.replacement.values]
    for i, kind in list(enumerate(kinds))[1:]:
        errors = np.stack([estimate[i] - low[i], high[i] - estimate[i]])
        at = change.block.values + 0.15 * (i - len(kinds) / 2)
        axes.errorbar(
            at, estimate[i], yerr=errors, fmt="o", markersize=2.6, linewidth=0.9, label=kind, color=COLOURS[i - 1]
        )
    axes.set_xlabel("block")
    axes.set_ylabel("change of surprise (%)")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
