"""R² of physical state by block: `python -m figures.probe_state`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.probe_state import FED, SIGHTS, VARIABLES, scores
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save

FLAT = {"latent": ":", "pixels": "-."}
FLOOR = -0.2


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A column per variable; for each path a row of views with the object in sight and one with it hidden."""
    plots.use_style()
    measured = scores(result)
    rows = [(str(kind), sight) for kind in result.path.values for sight in SIGHTS[:2]]
    figure, panels = plt.subplots(
        len(rows), len(VARIABLES), figsize=(7.2, 1.1 + 1.25 * len(rows)), sharex=True, sharey=True, squeeze=False
    )
    for (kind, sight), line in zip(rows, panels, strict=True):
        for variable, axes in zip(VARIABLES, line, strict=True):
            of_variable = measured.sel(path=kind, variable=variable)
            _panel(axes, of_variable.sel(sight=sight), list(result.place.values))
            if sight != SIGHTS[0]:
                _carried(axes, of_variable.sel(sight=SIGHTS[2]).isel(source=0))
        line[0].set_ylabel(f"{kind},\n{sight}\nR²")
    for variable, column in zip(VARIABLES.values(), panels.T, strict=True):
        column[0].set_title(variable.replace(" (", "\n("))
        column[-1].set_xlabel("block")
    figure.legend(*_legend(panels), loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel(_caption(result), fontsize=6, color="0.35")
    return save(figure, "probe_state", path)


def _caption(result: xr.Dataset) -> str:
    sigma, count = results.facts(result)["sigma"], result.sizes["scene"]
    note = f"{count} test scenes (n of a panel: those that show it), 95% CI over them; σ = {sigma:.2f}"
    return caption(result, f"{note}; R² against the mean of the latent frame, cut at {FLOOR:g}")


def _panel(axes: Axes, values: xr.Dataset, places: list[str]) -> None:
    axes.axhline(0, color="0.8", linewidth=0.8)
    models = [str(source) for source in values.source.values if str(source) not in FLAT]
    for i, source in enumerate(models):
        _curve(axes, values.sel(source=source), i, source)
    for source, style in ((s, style) for s, style in FLAT.items() if s in values.source.values):
        value = max(float(values.score.sel(source=source, place=FED)), FLOOR)
        axes.axhline(value, color="k", linewidth=0.8, linestyle=style, label=source)
    ticks = range(0, len(places), 1 + len(places) // 8)
    axes.set_xticks(ticks, ["x$_σ$" if places[at] == FED else places[at] for at in ticks])
    axes.set_ylim(FLOOR - 0.03, 1.02)
    axes.set_xlim(-0.4, len(places) - 0.6)
    note = f"n = {int(values.n)}" if int(values.n) else "too few scenes"
    axes.text(0.97, 0.96, note, transform=axes.transAxes, ha="right", va="top", fontsize=6)
    axes.tick_params(labelsize=7)


def _curve(axes: Axes, row: xr.Dataset, i: int, name: str) -> None:
    x, bounds = np.arange(row.sizes["place"]), (np.maximum(row[key], FLOOR) for key in ("score", "low", "high"))
    score, low, high = bounds
    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    axes.fill_between(x[1:], low[1:], high[1:], color=colour, alpha=0.12 if i else 0.25, linewidth=0)
    axes.errorbar(x[:1], score[:1], [score[:1] - low[:1], high[:1] - score[:1]], color=colour, linewidth=0.8)
    axes.plot(x[:1], score[:1], marker, color=colour, markersize=2.5)
    axes.plot(
        x[1:],
        score[1:],
        marker + "-",
        color=colour,
        markersize=2.5,
        linewidth=1,
        label=name,
    )


def _carried(axes: Axes, row: xr.Dataset) -> None:
    """Views of the model with the object hidden, read by the probe fitted while it is in sight."""
    score = np.maximum(row.score.values, FLOOR)
    label = f"{row.source.item()}, by the probe of the seen"
    axes.plot(
        np.arange(1, len(score)), score[1:], "o--", color=COLOURS[0], mfc="w", markersize=3, linewidth=0.8, label=label
    )


def _legend(panels: np.ndarray) -> tuple[list, list]:
    entries = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    return list(entries.values()), list(entries)


if __name__ == "__main__":
    main("probe_state", draw)
