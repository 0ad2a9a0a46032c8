"""Block x noise level maps of decodability, and the chosen cells: `python -m figures.probe_blocks`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analyses.probe_blocks import chosen
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/probe_blocks.nc")


def draw(result: xr.Dataset) -> Path:
    """A map for each source that has blocks, the input row under it where there is one, and all chosen cells."""
    plots.use_style()
    mapped = [s for s in result.source.values if np.isfinite(result.train_accuracy.sel(source=s)).all()]
    figure, axes = plt.subplots(
        1, len(mapped) + 1, figsize=(1.75 * len(mapped) + 2.6, 2.9), width_ratios=[1] * len(mapped) + [1.1]
    )
    top = max(0.6, float(result.test_accuracy.max()))
    images = [_map(cell, result, str(s), (1 - top, top)) for cell, s in zip(axes[:-1], mapped, strict=True)]
    axes[0].set_ylabel("block (x_σ: the latent fed)")
    figure.colorbar(
        images[0], ax=axes[:-1], label="accuracy per clip, test scenes", location="bottom", shrink=0.5, aspect=40
    )
    scores = chosen(result)
    plots.intervals(
        axes[-1], list(scores.source.values), scores.accuracy.values, scores.low.values, scores.high.values, 0.5
    )
    axes[-1].set_xlabel("accuracy at the cell chosen\non training scenes (95% CI)")
    note = f"n = {result.sizes['quadruplet']} test quadruplets; framed: the cell chosen on training scenes"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "probe_blocks")


def _map(axes: Axes, result: xr.Dataset, source: str, limits: tuple[float, float]) -> AxesImage:
    here = result.sel(source=source)
    values = here.test_accuracy.transpose("block", "step").values
    labels = [str(b) for b in result.block.values]
    fed = f"{source}, input x_σ"
    if fed in result.source.values:
        values = np.vstack([result.test_accuracy.sel(source=fed, block=0).values, values])
        labels = ["x_σ", *labels]
    image = plots.heat_map(axes, values, limits, "RdBu_r")
    framed = np.zeros_like(values, dtype=bool)
    column = list(result.step.values).index(int(here.chosen_step))
    framed[len(labels) - result.sizes["block"] + int(here.chosen_block), column] = True
    plots.outline(axes, framed)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(
        range(result.sizes["step"]), [f"{s:.2f}"[1:] if s < 1 else "1" for s in result.sigma.values], rotation=90
    )
    axes.set_xlabel("noise level σ")
    axes.set_title(source.replace(", ", "\n"))
    return image


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
