"""Knowing, likelihood and showing by property, model by model: `python -m figures.know_and_show`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.know_and_show import LEAD, lead_measures, scores
from dit_lens.measures.selection import ALL, crossed, properties
from dit_lens.plots import COLOURS
from figures.output import caption, main, save

LABELS = (
    "knowing: its states, by a probe",
    "likelihood: its velocity error",
    "showing: its own continuation, by a tracker",
)


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """One panel per model; in each row a property and three intervals; grey bars are the tracker's ceiling."""
    plots.use_style()
    measured = scores(result)
    models, rows = [str(m) for m in measured.model.values], measured.sizes["property"]
    figure, panels = plt.subplots(1, len(models), figsize=(7.2, 1.3 + 0.34 * rows), sharey=True, squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        _panel(axes, measured.sel(model=model), lead_measures(result))
        axes.set_title(plots.label(model, 24))
    _names(panels[0, 0], result, measured)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    panels[0, len(models) // 2].set_xlabel("share of scenes whose possible clips win")
    note = (
        f"95% CI over scenes (number of them in brackets), of no width where all agree;\ncontinuations by"
        f" {results.facts(result)['config']['sampling']} Euler steps"
    )
    if not crossed(result).all():
        note += f'; * matched, not crossed, and not in "{ALL}"'
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "know_and_show", path)


def _panel(axes: Axes, values: xr.Dataset, leads: list[str]) -> None:
    """The intervals of every property below each other; all on top, set apart by a line."""
    rows = np.arange(values.sizes["property"])[::-1]
    axes.axhline(rows[0] - 0.5, color="0.8", linewidth=0.6)
    if "ceiling" in values:
        label = "ceiling of showing: the tracker on true clips"
        axes.vlines(values.ceiling, rows - 0.42, rows - 0.08, color="0.7", linewidth=3, zorder=0, label=label)
    series = []
    for measure, label, colour in zip(LEAD, LABELS, (COLOURS[0], COLOURS[5], COLOURS[2]), strict=True):
        if measure in leads:
            of_measure = values.sel(measure=measure)
            series.append(
                plots.Series(label, of_measure.share.values, of_measure.low.values, of_measure.high.values, colour)
            )
    plots.grouped_intervals(axes, [""] * len(rows), series, chance=0.5)
    axes.set_xlim(-0.04, 1.06)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "½", "", "1"])


def _names(axes: Axes, result: xr.Dataset, measured: xr.Dataset) -> None:
    matched = set(properties(result.isel(scene=~crossed(result))))
    names = [
        f"{p}{'*' if p in matched else ''} ({int(n)})"
        for p, n in zip(measured.property.values, measured.n.values, strict=True)
    ]
    axes.set_yticks(np.arange(len(names))[::-1], names)
    axes.set_ylim(-0.6, len(names) - 0.4)


if __name__ == "__main__":
    main("know_and_show", draw)
