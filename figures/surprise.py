"""Surprise by property and by noise level, for each model: `python -m figures.surprise`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses.surprise import ALL, CONDITIONS, scores
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/surprise.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "0.45", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
MARKERS = "osD^vP"


def draw(result: xr.Dataset) -> Path:
    """Two conditions, properties as rows and models by colour (mean over noise levels); at the right by noise level."""
    plots.use_style()
    pooled, levels = scores(result.error.mean("sigma")), scores(result.error).sel(property=ALL)
    matched = {str(p) for p in result.property.values[~result.crossed.values.astype(bool)]}
    names = [f"{p}*" if p in matched else str(p) for p in pooled.property.values]
    figure, panels = plt.subplot_mosaic("ABC;ABD", figsize=(7.2, 5.0), width_ratios=[1, 1, 0.75])
    for condition, wide, small in zip((CONDITIONS[0], CONDITIONS[-1]), "AB", "CD", strict=True):
        _properties(panels[wide], pooled.sel(condition=condition), names if wide == "A" else [""] * len(names))
        _levels(panels[small], levels.sel(condition=condition))
        panels[wide].set_title(condition)
        panels[small].set_title(condition.replace(", ", ",\n"))
    figure.legend(*panels["A"].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets, 95% CI over them; left and middle: mean over noise levels"
    )
    note += "; scales differ"
    note += f'; * matched, not crossed, and not in "{ALL}"' if matched else ""
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "surprise")


def _properties(axes: Axes, values: xr.Dataset, names: list[str]) -> None:
    """Intervals of every property, the models of a property below each other; all on top, set apart by a line."""
    rows, models = np.arange(len(names))[::-1], values.sizes["model"]
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    axes.axhline(rows[0] - 0.5, color="0.8", linewidth=0.6)
    for i, model in enumerate(values.model.values):
        here = values.sel(model=model)
        axes.errorbar(
            here.surprise,
            rows + 0.75 / max(4, models) * ((models - 1) / 2 - i),
            xerr=np.abs(np.stack([here.surprise - here.low, here.high - here.surprise])),
            fmt=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            markersize=2.6,
            linewidth=0.9,
            label=str(model),
        )
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("surprise (% of the error\non possible clips)")
    axes.margins(x=0.08)


def _levels(axes: Axes, values: xr.Dataset) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    for i, model in enumerate(values.model.values):
        here, colour = values.sel(model=model), COLOURS[i % len(COLOURS)]
        axes.fill_between(here.sigma, here.low, here.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(here.sigma, here.surprise, MARKERS[i % len(MARKERS)] + "-", color=colour, markersize=2.6, linewidth=1)
    axes.set_xlabel("noise level σ")
    axes.set_xticks(values.sigma.values, [f"{s:g}" for s in values.sigma.values])
    axes.set_ylabel(f"surprise (%), {ALL}")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
