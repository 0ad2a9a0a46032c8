"""Measures over training steps: `python -m figures.follow_training`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from dit_lens import plots
from dit_lens.measures.follow_training import CHANCE, MEASURES
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A panel per measure over the training step, which is on a logarithmic axis with step 0 set apart at the left."""
    plots.use_style()
    steps = result.checkpoint.values
    places = np.log2(np.maximum(steps, steps[steps > 0].min() / 2))
    titles = {name: title for name, title in MEASURES.items() if name in result.measure.values}
    figure, panels = plt.subplots(1, len(titles), figsize=(7.2, 2.3))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        value, low, high = result.value.sel(measure=name).transpose("bound", "checkpoint").values
        if name in CHANCE:
            axes.axhline(CHANCE[name], color="0.6", linewidth=0.8, linestyle="--")
        axes.errorbar(
            places, value, yerr=np.abs([value - low, high - value]), fmt="o-", color="k", markersize=3, linewidth=1
        )
        axes.set_xticks(places, [f"{step}" for step in steps], rotation=90)
        axes.set_xlabel("training step")
        axes.set_title(title.replace(" (", "\n(").replace(", ", ",\n", 1))
    note = f"n = {int(result.scenes)} test scenes, 95% CI; step 0: random initialisation"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "follow_training", path)


if __name__ == "__main__":
    main("follow_training", draw)
