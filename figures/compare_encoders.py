"""Encoders and controls side by side, on physics and on what is not physics: `python -m figures.compare_encoders`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes

from analyses.compare_encoders import RECOLOURED, recolour_scores, surprise_scores
from analyses.probe_blocks import chosen
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/compare_encoders.nc")


def draw(result: xr.Dataset) -> Path:
    """Above, accuracy of each source on physics and on two other labels; below, surprise, and what was not run."""
    plots.use_style()
    scores, tints, surprises = chosen(result), recolour_scores(result), surprise_scores(result)
    heights = [result.sizes["source"], 1 + result.sizes["scorer"]]
    figure = plt.figure(figsize=(7.2, 1.9 + 0.16 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.5, 1, 1], height_ratios=heights)
    physics, below = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    _intervals(physics, scores, "source", "accuracy")
    physics.set_title("physics")
    for column, what in enumerate(RECOLOURED, start=1):
        axes = figure.add_subplot(grid[0, column])
        _intervals(axes, tints[what].to_dataset("measure"), "source", "accuracy")
        axes.set_yticklabels([])
        axes.set_xlim(min(0.4, float(tints[what].min())) - 0.04, 1.04)
        axes.set_title(f"not physics: {what}")
        axes.set_xlabel("accuracy per clip")
    physics.set_xlabel("accuracy per clip (95% CI)")
    _intervals(below, surprises, "scorer", "pairwise")
    below.set_title("surprise, fitted to nothing")
    below.set_xlabel("impossible clip more surprising (95% CI)")
    _not_run(figure.add_subplot(grid[1, 1:]), [str(line).split(": ")[0] for line in result.not_run.values])
    note = f"n = {result.sizes['quadruplet']} test quadruplets ({result.sizes['tinted']} tinted,"
    note += f" {int(result.crossed.sum())} for surprise); layer chosen on training scenes"
    note += "\ntint: was the clip filmed in warmer light? tint change: does the light change at the splice?"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "compare_encoders")


def _intervals(axes: Axes, scores: xr.Dataset, row: str, measure: str) -> None:
    names = [str(name) for name in scores[row].values]
    plots.intervals(axes, names, scores[measure].values, scores.low.values, scores.high.values, 0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _not_run(axes: Axes, names: list[str]) -> None:
    """What the figure does not show, for want of weights or of a loader."""
    axes.axis("off")
    lines = ["not run, for want of weights or a loader:", *names]
    axes.text(0.06, 1, "\n".join(lines), va="top", fontsize=7, color="0.35", linespacing=1.4, transform=axes.transAxes)


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
