"""Maps of the blocks that plausibility needs: `python -m figures.ablate_blocks` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dit_lens import plots
from dit_lens.measures.ablate_blocks import change, surprise
from dit_lens.measures.ablation import NONE
from dit_lens.measures.labels import ratio_interval
from dit_lens.measures.nulls import LEVEL, sign_flips
from dit_lens.plots import COLOURS
from figures.output import caption, main, save
from figures.places import reach_of


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Rows: models. Columns: readings, as maps of replacement and write by block; last, the change of surprise."""
    plots.use_style()
    changed = change(result).drop_sel(replacement=NONE)
    mean = changed.mean("scene", skipna=False)
    reach = reach_of(mean)
    readings, models = [str(r) for r in changed.reading.values], [str(m) for m in changed.model.values]
    size = 1.9 * len(readings) + 4, 0.17 * mean.sizes["replacement"] * mean.sizes["write"] * len(models) + 1.2
    figure, axes = plt.subplots(len(models), len(readings) + 1, figsize=size, squeeze=False,
                                width_ratios=[1] * len(readings) + [1.4])  # fmt: skip
    for line, (row, model) in enumerate(zip(axes, models, strict=True)):
        for cell, reading in zip(row, readings, strict=False):
            image = _map(cell, changed.sel(model=model, reading=reading), reach)
            cell.set_title(reading if line == 0 else "")
        row[0].set_yticks(range(mean.sizes["replacement"] * mean.sizes["write"]), _names(changed), fontsize=5)
        row[0].set_ylabel(model)
        if "error" in result:
            _surprise(row[-1], result.sel(model=model))
        else:
            row[-1].set_axis_off()
        figure.colorbar(image, ax=row[:-1], label="label effect [SD]", shrink=0.9)
    if "error" in result:
        axes[0, -1].legend(frameon=False, fontsize=5)
    note = (
        f"n = {result.sizes['scene']} test scenes; below 0: possible and impossible clips move closer; framed: beyond"
        " the largest |t| of a map under swapped labels (5%);\nhatched: after the readout; right: change of surprise"
        " without all that a block writes, 95% CI over scenes"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "ablate_blocks", path)


def _map(axes: Axes, changed: xr.DataArray, reach: float) -> AxesImage:
    """Replacement and write by block, those beyond chance framed."""
    flips = sign_flips(changed)
    order = ("replacement", "write", "block")
    rows = [
        x.transpose(*order).values.reshape(-1, changed.sizes["block"])
        for x in (changed.mean("scene", skipna=False), flips.p)
    ]
    image = plots.heat_map(axes, rows[0], (-reach, reach), "RdBu_r")
    plots.outline(axes, rows[1] < LEVEL)
    axes.set_yticks([])
    axes.set_xlabel("block")
    return image


def _names(changed: xr.DataArray) -> list[str]:
    return [f"{kind}, {write}" for kind in changed.replacement.values for write in changed.write.values]


def _surprise(axes: Axes, result: xr.Dataset) -> None:
    """The change of surprise with all writes of a block replaced."""
    changed, intact = (x.isel(write=0).transpose("scene", "replacement", "block") for x in surprise(result))
    estimate, low, high = ratio_interval(changed, intact)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    kinds = [str(kind) for kind in changed.replacement.values]
    for i, kind in list(enumerate(kinds))[1:]:
        errors = np.stack([estimate[i] - low[i], high[i] - estimate[i]])
        at = changed.block.values + 0.15 * (i - len(kinds) / 2)
        axes.errorbar(
            at, estimate[i], yerr=errors, fmt="o", markersize=2.6, linewidth=0.9, label=kind, color=COLOURS[i - 1]
        )
    axes.set_xlabel("block")
    axes.set_ylabel("change of surprise (%)")


if __name__ == "__main__":
    main("ablate_blocks", draw)
