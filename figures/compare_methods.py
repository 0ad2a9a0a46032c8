"""Ablation against patching against direct attribution against IG: `python -m figures.compare_methods`, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from dit_lens import plots, results
from dit_lens.measures.compare_methods import DIRECT, METHODS, PATCHING, maps, parted, rank_agreement, series
from dit_lens.measures.labels import halves, mean_interval
from dit_lens.measures.patching import PLAUSIBILITY
from dit_lens.plots import COLOURS
from figures.output import caption, main, save

SHORT = ("patch", "resample", "mean", "direct", "1st order", "IG")


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, every head by patching and by each other method; below, agreement, controls and where methods differ."""
    plots.use_style()
    figure = plt.figure(figsize=(8.6, 5.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.45]))
    _scatters(above, result)
    matrix, controls, parts = below.subplots(1, 3, width_ratios=[1.15, 1, 1.1])
    _matrix(matrix, result)
    _controls(controls, result)
    _parts(parts, result)
    config = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['scene']} test scenes; {config['path']}, σ ="
        f" {float(result.sigma):.2f}, probe after block {int(result.readout_block)}; bars: 95% CI;"
        f"\nright: heads chosen on half the scenes, shown on the other {halves(result)[1].sizes['scene']}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "compare_methods", path)


def _scatters(figure: SubFigure, result: xr.Dataset) -> None:
    """One panel per method other than patching; heads of the model by block, those of its controls grey."""
    panels = figure.subplots(1, len(METHODS) - 1, sharex=True, sharey=True)
    blocks = np.repeat(result.block.values, result.sizes["head"])
    means = [(label, maps(result, model, readout).mean(1)) for label, model, readout in series(result)]
    estimate, _, _ = rank_agreement(maps(result, *series(result)[0][1:]))
    for m, axes in enumerate(panels, start=1):
        axes.axline((0, 0), slope=1, color="0.8", linewidth=0.6, zorder=0)
        for marker, (_, mean) in zip("x+12", means[1:], strict=False):
            axes.scatter(mean[0], mean[m], s=9, marker=marker, color="0.65", linewidths=0.6)
        dots = axes.scatter(means[0][1][0], means[0][1][m], s=13, c=blocks, cmap="viridis", zorder=2)
        axes.set_title(f"{METHODS[m]}\nρ = {estimate[m, 0]:.2f}")
        axes.set_xlabel("patching [SD]")
    panels[0].set_ylabel("share of the label effect\n[probe SD], by head")
    figure.colorbar(dots, ax=panels, label="block", ticks=list(result.block.values), shrink=0.9)


def _matrix(axes: Axes, result: xr.Dataset) -> None:
    """Agreement of each pair of methods; on the diagonal, of each with itself."""
    estimate, _, _ = rank_agreement(maps(result, *series(result)[0][1:]))
    plots.heat_map(axes, estimate[::-1], (-1.0, 1.0), "RdBu_r", ".2f")
    axes.set_xticks(range(len(SHORT)), SHORT, rotation=45, ha="right")
    axes.set_yticks(range(len(SHORT)), SHORT[::-1])
    plots.outline(axes, np.eye(len(SHORT), dtype=bool)[::-1])
    axes.set_title("Spearman's ρ over heads\n(framed: of two halves of the scenes)", fontsize=7)


def _controls(axes: Axes, result: xr.Dataset) -> None:
    """Agreement with patching in the model, its controls and along a random direction; first of patching's halves."""

    def with_patching(model: str, readout: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        estimate, low, high = rank_agreement(maps(result, model, readout))
        return estimate[:, 0], low[:, 0], high[:, 0]

    intervals = [plots.Series(label, *with_patching(model, readout)) for label, model, readout in series(result)]
    plots.grouped_intervals(axes, ["patch,\ntwo halves", *SHORT[1:]], intervals)
    axes.axhline(len(METHODS) - 1.5, color="0.8", linewidth=0.6)
    axes.set_ylim(-0.6, len(METHODS) + 0.2 + 0.4 * len(intervals))
    axes.set_xlabel("ρ with patching")
    axes.legend(frameon=False, fontsize=6, loc="upper left")


def _parts(axes: Axes, result: xr.Dataset) -> None:
    """Where patching and the head's own write differ: both, and their difference, with intervals."""
    model, (_, report) = str(result.model.values[0]), halves(result)
    effect = report.contrast.sel(model=model, readout=PLAUSIBILITY)
    chosen = parted(result, model)
    blocks, heads = (xr.DataArray(list(places), dims="row") for places in zip(*chosen, strict=True))
    by_method = {name: effect.sel(estimate=name, drop=True).isel(block=blocks, head=heads) for name in METHODS}
    parts = {
        "patching": by_method[PATCHING],
        "direct": by_method[DIRECT],
        "indirect": by_method[PATCHING] - by_method[DIRECT],
    }
    styles = zip(("k", COLOURS[2], COLOURS[1]), "oD^", strict=True)
    intervals = [plots.Series(name, *mean_interval(x), *s) for (name, x), s in zip(parts.items(), styles, strict=True)]
    plots.grouped_intervals(axes, [f"{block}.{head}" for block, head in chosen], intervals)
    axes.set_ylabel("block.head")
    axes.set_xlabel("share of the label effect [probe SD]")
    axes.set_title("largest indirect effects", fontsize=7)
    axes.legend(frameon=False, fontsize=6, loc="lower right")


if __name__ == "__main__":
    main("compare_methods", draw)
