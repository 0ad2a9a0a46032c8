"""Maps of the attention that plausibility needs: `python -m figures.cut_attention` reads the table, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dit_lens import plots, results
from dit_lens.measures.cut_attention import change, significance
from dit_lens.measures.nulls import LEVEL
from figures.output import caption, main, save
from figures.places import reach_of


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, all heads of a block, one map per model; below, head by head in the first model. Returns the file."""
    plots.use_style()
    models = [str(model) for model in result.model.values]
    blocks = int(result.readout_block) + 1
    figure = plt.figure(figsize=(2.2 + 1.6 * max(len(models), 3), 3.9))
    above, below = np.asarray(figure.subfigures(2, 1))
    cells = above.subplots(1, len(models), sharey=True, squeeze=False)[0]
    reach = reach_of(change(result, "whole").mean("scene", skipna=False))
    for cell, model in zip(cells, models, strict=True):
        image = _map(cell, result.sel(model=model), "whole", reach)
        cell.set_title(model)
    cells[0].set_ylabel("all heads", labelpad=2)
    above.colorbar(image, ax=cells, label="change of the\nlabel effect [SD]", shrink=0.9)
    cells = below.subplots(1, blocks, sharey=True, squeeze=False)[0]
    first = result.isel(model=0)
    p, mean = significance(first, "effect"), change(first, "effect").mean("scene", skipna=False)
    reach = reach_of(mean)
    for block, cell in enumerate(cells):
        image = _heat(cell, mean.sel(block=block), p.sel(block=block), "head", reach)
        cell.set_title(f"{models[0]}, block {block}" if block == 0 else f"block {block}")
    cells[0].set_ylabel("one head", labelpad=2)
    below.colorbar(image, ax=cells, label="change of the\nlabel effect [SD]", shrink=0.9)
    config = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['scene']} test scenes; below 0: possible and impossible clips come closer;"
        f" framed: p < {LEVEL:g} of the\nlargest |t| of a map, signs of whole scenes flipped; probe of block"
        f" {blocks - 1}, {config['path']}, σ = {float(result.sigma):.2f}"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "cut_attention", path)


def _map(axes: Axes, result: xr.Dataset, name: str, reach: float) -> AxesImage:
    return _heat(axes, change(result, name).mean("scene", skipna=False), significance(result, name), "block", reach)


def _heat(axes: Axes, mean: xr.DataArray, p: xr.DataArray, across: str, reach: float) -> AxesImage:
    """Cuts, the first on top, by block or head, those beyond chance framed."""
    names = [str(name) for name in mean.cut.values][::-1]
    values, chance = (x.sel(cut=names).transpose("cut", across).values for x in (mean, p))
    image = plots.heat_map(axes, values, (-reach, reach), "RdBu_r")
    plots.outline(axes, chance < LEVEL)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xticks(range(mean.sizes[across]))
    axes.set_xlabel(across)
    return image


if __name__ == "__main__":
    main("cut_attention", draw)
