"""Encoders and controls side by side, on physics and on what is not physics: `python -m figures.compare_encoders`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots
from dit_lens.measures.compare_encoders import recolour_scores, surprise_scores
from dit_lens.measures.probe_blocks import chosen
from dit_lens.measures.selection import pooled
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, accuracy of each source on physics and on two other labels; below, surprise, and what was not run."""
    plots.use_style()
    scores, tints = chosen(result), recolour_scores(result)
    heights = [result.sizes["source"], 1 + result.sizes.get("scorer", 0)]
    figure = plt.figure(figsize=(7.2, 1.9 + 0.16 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.5, 1, 1], height_ratios=heights)
    physics, below = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    _intervals(physics, scores, "source", "accuracy")
    physics.set_title("physics")
    for column, label in enumerate((str(name) for name in tints.data_vars), start=1):
        axes = figure.add_subplot(grid[0, column])
        _intervals(axes, tints[label].to_dataset("measure"), "source", "accuracy")
        axes.set_yticklabels([])
        axes.set_xlim(min(0.4, float(tints[label].min())) - 0.04, 1.04)
        axes.set_title(f"not physics: {label}")
        axes.set_xlabel("accuracy per clip")
    physics.set_xlabel("accuracy per clip (95% CI)")
    if "surprise" in result:
        _intervals(below, surprise_scores(result), "scorer", "pairwise")
        below.set_title("surprise (nothing is fitted)")
        below.set_xlabel("impossible clip more surprising (95% CI)")
    else:
        below.axis("off")
    absent = [str(line).split(": ")[0] for line in result.not_run.values] if "not_run" in result else []
    _not_run(figure.add_subplot(grid[1, 1:]), absent)
    note = f"n = {result.sizes['scene']} test scenes ({result.sizes.get('tinted', 0)} tinted,"
    note += f" {int(pooled(result).sum())} for surprise); layer chosen on training scenes"
    note += "\ntint: is the clip tinted warmer? tint change: does the tint change at the break?"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "compare_encoders", path)


def _intervals(axes: Axes, scores: xr.Dataset, row: str, measure: str) -> None:
    names = [str(name) for name in scores[row].values]
    plots.intervals(axes, names, scores[measure].values, scores.low.values, scores.high.values, 0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _not_run(axes: Axes, names: list[str]) -> None:
    """The rows missing from the figure, for lack of weights or of a loader."""
    axes.axis("off")
    lines = ["not run (no weights, or no loader):", *names]
    axes.text(0.06, 1, "\n".join(lines), va="top", fontsize=7, color="0.35", linespacing=1.4, transform=axes.transAxes)


if __name__ == "__main__":
    main("compare_encoders", draw)
