"""Integrated gradients by head, first order beside: `python -m figures.attribute_heads` reads the table and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses.attribute_heads import ESTIMATES, agreement
from analyses.frozen_probe import halves
from analyses.pairs import content, label_odd, top_places
from dit_lens import plots, results, stats
from figures.output import caption, save

TABLE = Path("figures/data/attribute_heads.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
MARKERS = "osD"  # by estimate
SHORT: dict[str, str] = dict(zip(ESTIMATES, ("int. gradients", "gradient × diff.", "int. gr. from noise"), strict=True))


def draw(result: xr.Dataset) -> Path:
    """Rows of maps: label-odd by all estimates, content; a column to a model; below, the top heads with intervals."""
    plots.use_style()
    models = [str(model) for model in result.model.values]
    figure = plt.figure(figsize=(max(6.4, 1.9 * len(models) + 1.6), 8.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.7, 1.1]))
    chosen = top_places(result.sel(estimate=ESTIMATES[0]), models[0], int(result.step.item()))
    panels = above.subplots(1 + len(ESTIMATES), len(models), squeeze=False, sharex=True, sharey=True)
    odd = label_odd(result).mean("quadruplet").squeeze("step", drop=True)
    for row, estimate in enumerate(ESTIMATES):
        label = f"{SHORT[estimate]},\nlabel-odd [SD]"
        _maps(panels[row], odd.sel(estimate=estimate), label, "RdBu_r")
    rest = content(result.sel(estimate=ESTIMATES[0])).mean("quadruplet").squeeze("step", drop=True)
    _maps(panels[-1], rest, f"{SHORT[ESTIMATES[0]]},\ncontent, rms [SD]", "viridis")
    for column, model in enumerate(models):
        panels[0, column].set_title(model)
        for row, estimate in enumerate(ESTIMATES[1:], start=1):
            agreed = agreement(result, model, estimate)
            panels[row, column].set_title(f"rank agreement {agreed:.2f}", fontsize=6)
        panels[-1, column].set_xlabel("head")
    frames = np.zeros((result.sizes["block"], result.sizes["head"]), dtype=bool)
    for head in chosen:
        frames[head] = True
    plots.outline(panels[0, 0], frames)
    _intervals(below.subplots(), halves(result)[1], chosen)
    made = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets, 8 possible/impossible pairs each; framed: top heads,"
        f" ranked on half of them,\nbelow on the other {halves(result)[1].sizes['quadruplet']}, 95% CI; probe of block"
        f" {int(result.readout_block)}'s output, {made['path']}, step {made['step']} (σ = {float(result.sigma):.2f});"
        f" largest delta {float(result.delta.sel(estimate=ESTIMATES[0]).max()):.1g}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_heads")


def _maps(panels: np.ndarray, values: xr.DataArray, label: str, colours: str) -> None:
    """One map to a model, all on one scale."""
    reach = float(np.abs(values).max())
    limits = (-reach, reach) if colours == "RdBu_r" else (0.0, reach)
    for axes, model in zip(panels, values.model.values, strict=True):
        image = plots.heat_map(axes, values.sel(model=model).transpose("block", "head").values, limits, colours)
    panels[0].set_ylabel("block")
    panels[0].figure.colorbar(image, ax=panels, label=label, shrink=0.9)


def _intervals(axes: Axes, report: xr.Dataset, chosen: Sequence[tuple[int, ...]]) -> None:
    """The chosen heads: every model in its colour, a marker to an estimate."""
    odd = label_odd(report).squeeze("step", drop=True)
    rows = np.arange(len(chosen))[::-1]
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    series = [(i, str(model), estimate) for i, model in enumerate(odd.model.values) for estimate in ESTIMATES]
    for place, (i, model, estimate) in enumerate(series):
        seen = np.stack([odd.sel(model=model, estimate=estimate)[:, block, head] for block, head in chosen], axis=1)
        middle, low, high = stats.bootstrap_ratio(seen, np.ones_like(seen))
        axes.errorbar(
            middle,
            rows + 0.75 / len(series) * ((len(series) - 1) / 2 - place),
            xerr=np.abs(np.stack([middle - low, high - middle])),
            fmt=MARKERS[ESTIMATES.index(estimate)],
            color=COLOURS[i % len(COLOURS)],
            markersize=3,
            linewidth=0.9,
            label=f"{model}, {SHORT[estimate]}",
        )
    axes.set_yticks(rows, [f"block {block}, head {head}" for block, head in chosen])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.set_xlabel("label-odd attribution [probe SD]")
    axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
