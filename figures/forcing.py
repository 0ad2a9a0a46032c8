"""Continuation by property, forgetting by context and hiding, drift by round: `python -m figures.forcing`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.forcing import CEILING, STATISTICS, by_hiding, by_property, drift_scores, scores
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save

LEVELS = ("#440154", "#31688e", "#35b779", "#e0a800", "#b4473c")  # from low context noise to high
ENDS = ("", "_low", "_high")
TITLES = {
    "place": "in place",
    "colour": "right colour, if found",
    "psnr": "PSNR (dB)",
    "scenery": "scenery: shift\n(grey levels)",
    "sharpness": "sharpness: mean\ngradient (grey levels)",
    "latents": "latents: root\nmean square",
    "objects": "objects of full\nsize per frame",
}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, continuations by property; in the middle, forgetting; below, drift."""
    plots.use_style()
    figure = plt.figure(figsize=(7.2, 7.6))
    above, middle, below = np.asarray(figure.subfigures(3, 1, height_ratios=[1.35, 1.0, 1.0]))
    panels = above.subplots(1, 3, sharey=True)
    for axes, measure in zip(panels, ("place", "colour", "psnr"), strict=True):
        _properties(axes, result.sums.isel(context=-1), measure)
    above.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    _forgetting(middle.subplots(1, 4), result.sums)
    if "drift" in result:
        panels = below.subplots(1, len(STATISTICS))
        _drift(panels, drift_scores(result.drift))
        below.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=8, frameon=False)
    note = (
        f"n = {result.sizes['scene']} test scenes (A and B) above, {result.sizes.get('rolled', 0)} clips A below;"
        f" 95% CI over them; {results.facts(result)['config']['sampler_steps']} Euler steps"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "forcing", path)


def _band(axes: Axes, x: np.ndarray, ends: tuple[np.ndarray, ...], i: int, label: str, of: tuple = COLOURS) -> None:
    middle, low, high = ends
    colour = of[i % len(of)]
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, middle, MARKERS[i % len(MARKERS)] + "-", color=colour, markersize=2.8, linewidth=1, label=label)


def _ends(values: xr.Dataset, measure: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle and interval; nothing is drawn where too few objects were found for an interval."""
    middle, low, high = (values[f"{measure}{end}"].values for end in ENDS)
    return np.where(np.isfinite(low), middle, np.nan), low, high


def _properties(axes: Axes, sums: xr.DataArray, measure: str) -> None:
    """Intervals of every property, the models of a property below each other; all on top, set apart by a line."""
    series, names = [], []
    for i, model in enumerate(str(m) for m in sums.model.values):
        values = by_property(sums.sel(model=model))
        names = [str(p) for p in values.property.values]
        series.append(plots.Series(model, *_ends(values, measure), colour=_colour(model, i)))
    plots.grouped_intervals(axes, names, series, chance=np.nan)
    axes.axhline(len(names) - 1.5, color="0.8", linewidth=0.6)
    axes.set_xlabel(TITLES[measure])
    if measure != "psnr":
        axes.set_xlim(-0.04, 1.04)


def _colour(model: str, i: int) -> str:
    return "k" if model == CEILING else COLOURS[i % len(COLOURS)]


def _forgetting(panels: np.ndarray, sums: xr.DataArray) -> None:
    """By latent frames given, models by colour; by frames hidden, the model in question."""
    for axes, measure in zip(panels, ("place", "colour", "psnr"), strict=False):
        for i, model in enumerate(sums.model.values[:-1]):
            _band(axes, sums.context.values, _ends(scores(sums.sel(model=model)), measure), i, plots.label(str(model)))
        axes.set_xticks(sums.context.values)
        axes.set_xlabel("latent frames given")
        axes.set_title(TITLES[measure])
        if measure != "psnr":
            axes.set_ylim(-0.04, 1.04)
    _hiding(panels[3], by_hiding(sums.isel(model=0, context=-1)))
    panels[3].set_title(f"{plots.label(str(sums.model.values[0]), 24)},\nfirst half given")


def _hiding(axes: Axes, hiding: dict[int, xr.Dataset]) -> None:
    spans = np.array(list(hiding))
    for i, measure in enumerate(("place", "colour")):
        ends = tuple(np.array([float(row[f"{measure}{end}"]) for row in hiding.values()]) for end in ENDS)
        _band(axes, spans, ends, i + 3, TITLES[measure])
    axes.set_ylim(-0.04, 1.5)  # room for the legend
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xticks(spans)
    axes.set_xlabel("frames hidden")
    axes.legend(frameon=False, fontsize=6, loc="upper center")


def _drift(panels: np.ndarray, measured: xr.DataArray) -> None:
    """Round by round, context noise by colour; the dashed line is the true clip."""
    for axes, statistic in zip(panels, STATISTICS, strict=True):
        of_statistic = measured.sel(statistic=statistic)
        axes.axhline(
            float(of_statistic.sel(end="middle").isel(level=0, round=0)), color="0.6", linewidth=0.8, linestyle="--"
        )
        for i, level in enumerate(of_statistic.level.values):
            ends = tuple(of_statistic.sel(level=level, end=end).values for end in ("middle", "low", "high"))
            _band(axes, of_statistic["round"].values, ends, i, f"context σ = {level:g}", LEVELS)
        axes.set_xlabel("windows generated")
        axes.set_xticks(of_statistic["round"].values[::2])
        axes.set_title(TITLES[statistic], fontsize=7)
        axes.set_ylim(0, None)


if __name__ == "__main__":
    main("forcing", draw)
