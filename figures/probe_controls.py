"""A model's states and every control, on physics and on other labels: `python -m figures.probe_controls`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots
from dit_lens.measures.probe_controls import PHYSICS, scores
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Left, accuracy and AUROC of every reader on physics; right, accuracy on each other label; what was not run."""
    plots.use_style()
    measured = scores(result)
    physics = measured.isel(row=np.flatnonzero(measured.asked == PHYSICS))
    other_labels = measured.isel(row=np.flatnonzero(measured.asked != PHYSICS))
    rows = max(physics.sizes["row"], other_labels.sizes["row"] + 1)
    figure = plt.figure(figsize=(7.2, 1.5 + 0.17 * rows), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    names = [str(name) for name in physics.source.values]
    plots.intervals(left, names, physics.accuracy.values, physics.low.values, physics.high.values, 0.5)
    _plain(left, "physics", "accuracy per clip\n(95% CI)")
    plots.intervals(
        middle, [""] * len(names), physics.auroc.values, physics.auroc_low.values, physics.auroc_high.values, 0.5
    )
    _plain(middle, "physics", "AUROC\n(95% CI)")
    row_names = [
        f"{label}: {source}"
        for label, source in zip(other_labels.asked.values, other_labels.source.values, strict=True)
    ]
    order = np.argsort(
        [list(dict.fromkeys(other_labels.asked.values)).index(label) for label in other_labels.asked.values],
        kind="stable",
    )
    plots.intervals(
        right,
        [row_names[i] for i in order],
        other_labels.accuracy.values[order],
        other_labels.low.values[order],
        other_labels.high.values[order],
        0.5,
    )
    right.plot(other_labels.chance.values[order], np.arange(len(order))[::-1], "|", color="0.6", markersize=5)
    _plain(right, "not physics", "accuracy per clip\n(95% CI)")
    figure.supxlabel(caption(result, _note(result)), fontsize=6, color="0.35")
    return save(figure, "probe_controls", path)


def _note(result: xr.Dataset) -> str:
    note = f"n = {result.sizes['scene']} test scenes; cell chosen on training scenes; right: grey strokes are"
    note += " the share of the commoner label"
    absent = [str(line) for line in result.not_run.values] if "not_run" in result else []
    return note + (f"\nnot run: {'; '.join(absent)}" if absent else "")


def _plain(axes: Axes, title: str, measure: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(measure)
    axes.tick_params(axis="y", length=0, labelsize=6)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


if __name__ == "__main__":
    main("probe_controls", draw)
