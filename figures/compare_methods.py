"""Ablation against patching against direct attribution against IG: `python -m figures.compare_methods`, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from analyses.compare_methods_table import DIRECT, METHODS, PATCHING, maps, parted, rank_agreement, series
from analyses.frozen_probe import halves
from analyses.readouts import PLAUSIBILITY
from dit_lens import plots, results, stats
from figures.output import caption, save

TABLE = Path("figures/data/compare_methods.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
SHORT = ("patch", "resample", "mean", "direct", "1st order", "IG")


def draw(result: xr.Dataset) -> Path:
    """Above, every head by patching and by each other method; below, agreement, controls and where methods part."""
    plots.use_style()
    figure = plt.figure(figsize=(8.6, 5.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.45]))
    _scatters(above, result)
    matrix, controls, parts = below.subplots(1, 3, width_ratios=[1.15, 1, 1.1])
    _matrix(matrix, result)
    _controls(controls, result)
    _parts(parts, result)
    made = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets; {made['path']}, step {made['step']} (σ ="
        f" {float(result.sigma):.2f}), probe of block {int(result.readout_block)}'s output; bars: 95% CI;"
        f"\nright: heads chosen on half the quadruplets, shown on the other {halves(result)[1].sizes['quadruplet']}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "compare_methods")


def _scatters(figure: SubFigure, result: xr.Dataset) -> None:
    """A panel to each method beside patching; heads of the model by block, those of its controls grey."""
    panels = figure.subplots(1, len(METHODS) - 1, sharex=True, sharey=True)
    blocks = np.repeat(result.block.values, result.sizes["head"])
    told = [(label, maps(result, model, readout).mean(1)) for label, model, readout in series(result)]
    estimate, _, _ = rank_agreement(maps(result, *series(result)[0][1:]))
    for m, axes in enumerate(panels, start=1):
        axes.axline((0, 0), slope=1, color="0.8", linewidth=0.6, zorder=0)
        for marker, (_, mean) in zip("x+12", told[1:], strict=False):
            axes.scatter(mean[0], mean[m], s=9, marker=marker, color="0.65", linewidths=0.6)
        dots = axes.scatter(told[0][1][0], told[0][1][m], s=13, c=blocks, cmap="viridis", zorder=2)
        axes.set_title(f"{METHODS[m]}\nρ = {estimate[m, 0]:.2f}")
        axes.set_xlabel("patching [SD]")
    panels[0].set_ylabel("share of the contrast\n[probe SD], by head")
    figure.colorbar(dots, ax=panels, label="block", ticks=list(result.block.values), shrink=0.9)


def _matrix(axes: Axes, result: xr.Dataset) -> None:
    """Agreement of each two methods; on the diagonal of each with itself."""
    estimate, _, _ = rank_agreement(maps(result, *series(result)[0][1:]))
    plots.heat_map(axes, estimate[::-1], (-1.0, 1.0), "RdBu_r", ".2f")
    axes.set_xticks(range(len(SHORT)), SHORT, rotation=45, ha="right")
    axes.set_yticks(range(len(SHORT)), SHORT[::-1])
    plots.outline(axes, np.eye(len(SHORT), dtype=bool)[::-1])
    axes.set_title("Spearman's ρ over heads\n(framed: of two halves of the quadruplets)", fontsize=7)


def _controls(axes: Axes, result: xr.Dataset) -> None:
    """Agreement with patching in the model, its controls and along a random direction; first of patching's halves."""
    rows = np.arange(len(METHODS))[::-1]
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    for i, (label, model, readout) in enumerate(series(result)):
        estimate, low, high = (part[:, 0] for part in rank_agreement(maps(result, model, readout)))
        axes.errorbar(
            estimate,
            rows + 0.2 * (1 - i),
            xerr=np.abs(np.stack([estimate - low, high - estimate])),
            fmt="osD^v"[i % 5],
            color=COLOURS[i % len(COLOURS)],
            markersize=3,
            linewidth=1,
            label=label,
        )
    axes.set_yticks(rows, ["patch,\ntwo halves", *SHORT[1:]])
    axes.axhline(rows[0] - 0.5, color="0.8", linewidth=0.6)
    axes.set_ylim(-0.6, len(rows) + 0.2 + 0.4 * len(series(result)))
    axes.set_xlabel("ρ with patching")
    axes.legend(frameon=False, fontsize=6, loc="upper left")


def _parts(axes: Axes, result: xr.Dataset) -> None:
    """Where patching and the head's own write part: both, and their difference, with intervals."""
    model, (_, report) = str(result.model.values[0]), halves(result)
    told = report.contrast.sel(model=model, readout=PLAUSIBILITY)
    chosen = parted(result, model)
    here = {name: np.stack([told.sel(way=name, block=b, head=h).values for b, h in chosen], 1) for name in METHODS}
    rows = np.arange(len(chosen))[::-1]
    shown = {"patching": here[PATCHING], "direct": here[DIRECT], "indirect": here[PATCHING] - here[DIRECT]}
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    for i, (label, values) in enumerate(shown.items()):
        middle, low, high = stats.bootstrap_ratio(values, np.ones_like(values))
        axes.errorbar(
            middle,
            rows + 0.22 * (1 - i),
            xerr=np.abs(np.stack([middle - low, high - middle])),
            fmt="oD^"[i],
            color=("k", COLOURS[2], COLOURS[1])[i],
            markersize=3,
            linewidth=1,
            label=label,
        )
    axes.set_yticks(rows, [f"{block}.{head}" for block, head in chosen])
    axes.set_ylabel("block.head")
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.set_xlabel("share of the contrast [probe SD]")
    axes.set_title("largest indirect effects", fontsize=7)
    axes.legend(frameon=False, fontsize=6, loc="lower right")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
