"""R² of physical state by block: `python -m figures.probe_state`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses.probe_state import FED
from analyses.probe_state_scores import SIGHTS, VARIABLES, scores
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/probe_state.nc")
COLOURS = ("#0072b2", "#d55e00", "0.45", "#009e73", "#cc79a7")  # Okabe and Ito's: safe for the colour-blind
MARKERS = "osD^v"
FLAT = {"latent": ":", "pixels": "-."}
FLOOR = -0.2


def draw(result: xr.Dataset) -> Path:
    """A column per variable; for each route a row of views with the object in sight and one with it hidden."""
    plots.use_style()
    measured = scores(result)
    rows = [(str(route), sight) for route in result.route.values for sight in SIGHTS[:2]]
    figure, panels = plt.subplots(
        len(rows), len(VARIABLES), figsize=(7.2, 1.1 + 1.25 * len(rows)), sharex=True, sharey=True, squeeze=False
    )
    for (route, sight), line in zip(rows, panels, strict=True):
        for variable, axes in zip(VARIABLES, line, strict=True):
            here = measured.sel(route=route, variable=variable)
            _panel(axes, here.sel(sight=sight), list(result.place.values))
            if sight != SIGHTS[0]:
                _carried(axes, here.sel(sight=SIGHTS[2]).isel(source=0))
        line[0].set_ylabel(f"{route},\n{sight}\nR²")
    for variable, column in zip(VARIABLES.values(), panels.T, strict=True):
        column[0].set_title(variable.replace(" (", "\n("))
        column[-1].set_xlabel("block")
    figure.legend(*_legend(panels), loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel(_caption(result), fontsize=6, color="0.35")
    return save(figure, "probe_state")


def _caption(result: xr.Dataset) -> str:
    sigma, quadruplets = results.facts(result)["sigma"], result.sizes["quadruplet"]
    note = f"{quadruplets} test quadruplets (n of a panel: those that show it), 95% CI over them; σ = {sigma:.2f}"
    return caption(result, f"{note}; R² against the mean of the latent frame, cut at {FLOOR:g}")


def _panel(axes: Axes, here: xr.Dataset, places: list[str]) -> None:
    axes.axhline(0, color="0.8", linewidth=0.8)
    models = [str(source) for source in here.source.values if str(source) not in FLAT]
    for i, source in enumerate(models):
        _curve(axes, here.sel(source=source), i, source)
    for source, style in FLAT.items():
        value = max(float(here.score.sel(source=source, place=FED)), FLOOR)
        axes.axhline(value, color="k", linewidth=0.8, linestyle=style, label=source)
    axes.set_xticks(range(len(places)), ["x$_σ$" if place == FED else place for place in places])
    axes.set_ylim(FLOOR - 0.03, 1.02)
    axes.set_xlim(-0.4, len(places) - 0.6)
    shown = f"n = {int(here.n)}" if int(here.n) else "too few scenes"
    axes.text(0.97, 0.96, shown, transform=axes.transAxes, ha="right", va="top", fontsize=6)
    axes.tick_params(labelsize=7)


def _curve(axes: Axes, row: xr.Dataset, i: int, name: str) -> None:
    x, bounds = np.arange(row.sizes["place"]), (np.maximum(row[key], FLOOR) for key in ("score", "low", "high"))
    score, low, high = bounds
    axes.fill_between(x[1:], low[1:], high[1:], color=COLOURS[i], alpha=0.12 if i else 0.25, linewidth=0)
    axes.errorbar(x[:1], score[:1], [score[:1] - low[:1], high[:1] - score[:1]], color=COLOURS[i], linewidth=0.8)
    axes.plot(x[:1], score[:1], MARKERS[i], color=COLOURS[i], markersize=2.5)
    axes.plot(x[1:], score[1:], MARKERS[i] + "-", color=COLOURS[i], markersize=2.5, linewidth=1, label=name)


def _carried(axes: Axes, row: xr.Dataset) -> None:
    """The model's hidden views, read by the probe of the seen."""
    score = np.maximum(row.score.values, FLOOR)
    label = f"{row.source.item()}, by the probe of the seen"
    axes.plot(
        np.arange(1, len(score)), score[1:], "o--", color=COLOURS[0], mfc="w", markersize=3, linewidth=0.8, label=label
    )


def _legend(panels: np.ndarray) -> tuple[list, list]:
    found = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return list(found.values()), list(found)


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
