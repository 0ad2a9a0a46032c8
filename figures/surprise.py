"""Surprise by property and by noise level, for each model: `python -m figures.surprise`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots
from dit_lens.measures.selection import ALL, crossed, properties
from dit_lens.measures.surprise import condition_of, scores
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """One or two conditions: properties as rows, models by colour (mean over noise levels); right, by noise level."""
    plots.use_style()
    pooled, levels = scores(result.error.mean("sigma")), scores(result.error).sel(property=ALL)
    matched = set(properties(result.isel(scene=~crossed(result)))) if crossed(result).any() else set()
    names = [f"{p}*" if p in matched else str(p) for p in pooled.property.values]
    conditions = list(dict.fromkeys((str(result.condition.values[0]), condition_of(result))))
    rows, widths = ("ABC;ABD", [1, 1, 0.75]) if len(conditions) > 1 else ("AC", [2, 0.75])
    figure, panels = plt.subplot_mosaic(rows, figsize=(7.2, max(3.6, 1.8 + 0.27 * len(names))), width_ratios=widths)
    for condition, wide, small in zip(conditions, "AB", "CD", strict=False):
        _properties(panels[wide], pooled.sel(condition=condition), names if wide == "A" else [""] * len(names))
        _levels(panels[small], levels.sel(condition=condition))
        for letter in (wide, small):
            panels[letter].set_title(condition.replace(", ", ",\n"))
    figure.legend(*panels["A"].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    note = f"n = {result.sizes['scene']} test scenes, 95% CI over them; left and middle: mean over noise levels"
    note += "; scales differ"
    note += f'; * matched, not crossed, and not in "{ALL}"' if matched else ""
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "surprise", path)


def _properties(axes: Axes, values: xr.Dataset, names: list[str]) -> None:
    """Intervals of every property, the models of a property below each other; all on top, set apart by a line."""
    series = []
    for model in values.model.values:
        of_model = values.sel(model=model)
        series.append(plots.Series(str(model), of_model.surprise.values, of_model.low.values, of_model.high.values))
    plots.grouped_intervals(axes, names, series)
    axes.axhline(len(names) - 1.5, color="0.8", linewidth=0.6)
    axes.set_xlabel("surprise (% of the error\non possible clips)")
    axes.margins(x=0.08)


def _levels(axes: Axes, values: xr.Dataset) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    for i, model in enumerate(values.model.values):
        of_model, colour = values.sel(model=model), COLOURS[i % len(COLOURS)]
        axes.fill_between(of_model.sigma, of_model.low, of_model.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            of_model.sigma,
            of_model.surprise,
            MARKERS[i % len(MARKERS)] + "-",
            color=colour,
            markersize=2.6,
            linewidth=1,
        )
    axes.set_xlabel("noise level σ")
    axes.set_xticks(values.sigma.values, [f"{s:.3g}" for s in values.sigma.values])
    axes.set_ylabel(f"surprise (%), {ALL}")


if __name__ == "__main__":
    main("surprise", draw)
