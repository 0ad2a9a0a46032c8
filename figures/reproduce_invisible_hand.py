"""Published accuracies beside what is measured here: `python -m figures.reproduce_invisible_hand`."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Left, each data set and reader: published, by protocol, nested; right, probes of other data; below, not run."""
    plots.use_style()
    rows, transfers = result.sizes["row"], result.sizes.get("transfer", 0)
    absent = [str(line).split(": ")[0] for line in result.not_run.values] if "not_run" in result else []
    figure = plt.figure(figsize=(7.2, 2.0 + 0.17 * max(rows, transfers)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    _rows(left, result)
    _transfers(right, result) if transfers else right.axis("off")
    most = results.facts(result)["config"]["test"]
    note = f"at most {most} scenes of each data set; " if most else ""
    note += "bars: 95% CI over groups;"
    note += " protocols: mean over seeds, two of them at the best cell of the clips reported"
    absent_note = f"not run, for lack of data or weights (see the table): {', '.join(absent)}"
    note += "\n" + fill(absent_note, 150) if absent else ""
    figure.supxlabel(caption(result, note), fontsize=5, color="0.35")
    return save(figure, "reproduce_invisible_hand", path)


def _rows(axes: Axes, result: xr.Dataset) -> None:
    at = np.arange(result.sizes["row"])[::-1]
    names = [f"{data} × {reader}" for data, reader in zip(result.data.values, result.reader.values, strict=True)]
    low = result.published_low.fillna(result.published_high).values
    axes.hlines(at, low - 0.004, result.published_high.values + 0.004, color="0.75", linewidth=6, label="published")
    plots.intervals(axes, names, result.accuracy.values, result.low.values, result.high.values, 0.5)
    for i, name in enumerate(result.protocol.values):
        values = result.reported.sel(protocol=name).mean("split_seed").values
        axes.plot(values, at, MARKERS[i], color=COLOURS[i], markersize=3, label=str(name), linestyle="none")
    axes.plot([], [], "o-", color="k", markersize=3, label="nested")
    axes.legend(fontsize=6, frameon=False, loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=3)
    _plain(axes, "accuracy per clip")


def _transfers(axes: Axes, result: xr.Dataset) -> None:
    ends = zip(result.transfer_reader.values, result.train.values, result.test.values, strict=True)
    names = [f"{reader}: {train} → {test}" for reader, train, test in ends]
    accuracy, low, high = (result[f"transfer_{name}"].values for name in ("accuracy", "low", "high"))
    plots.intervals(axes, names, accuracy, low, high, 0.5)
    axes.set_title("probe of one\ndata set on another", loc="right")
    _plain(axes, "accuracy per clip")


def _plain(axes: Axes, measure: str) -> None:
    axes.set_xlabel(measure)
    axes.tick_params(axis="y", length=0, labelsize=6)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


if __name__ == "__main__":
    main("reproduce_invisible_hand", draw)
