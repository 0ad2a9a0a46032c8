"""Measures over the number of training scenes: `python -m figures.learning_curve`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots
from dit_lens.measures.learning_curve import scores
from dit_lens.measures.probe_blocks import READOUTS
from dit_lens.measures.selection import counted
from figures.output import caption, main, save

PANELS = {
    "accuracy": ("accuracy per clip", ("low", "high"), 0.5),
    "pairwise": ("pairs in order", ("pairwise_low", "pairwise_high"), 0.5),
    "label_share": ("label's share of variance", ("label_share_low", "label_share_high"), None),
}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A row of panels per readout, a panel per measure, a line per model over the number of training scenes."""
    plots.use_style()
    measured = scores(result).sortby("size")
    readouts = [str(readout) for readout in result.readout.values]
    shape, size = (len(readouts), len(PANELS)), (7.2, 0.6 + 1.9 * len(readouts))
    figure, panels = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for row, readout in zip(panels, readouts, strict=True):
        for axes, (name, (title, ends, chance)) in zip(row, PANELS.items(), strict=True):
            _lines(axes, measured.sel(readout=readout), name, ends)
            if chance is not None:
                axes.axhline(chance, color="0.6", linewidth=0.8, linestyle="--")
            axes.set_title(title)
        row[0].set_ylabel(READOUTS[readout].replace(" adds", "\nadds"))
    sizes = measured["size"].values
    for axes in panels[-1]:
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training scenes")
    panels[0, 0].legend(fontsize=6)
    note = f"n = {counted(result)}, {result.sizes['draw']} draws, 95% CI over test scenes"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "learning_curve", path)


def _lines(axes: Axes, measured: xr.Dataset, name: str, ends: tuple[str, str]) -> None:
    for i, model in enumerate(measured.model.values):
        row = measured.sel(model=model)
        value, low, high = (row[key].values for key in (name, *ends))
        shift = 1 + 0.03 * i  # on the logarithmic axis, so that intervals do not cover each other
        axes.errorbar(
            row["size"].values * shift, value, yerr=np.abs([value - low, high - value]), fmt="o-", markersize=3,
            linewidth=1, color=plots.COLOURS[i % len(plots.COLOURS)], label=plots.label(str(model)),
        )  # fmt: skip
    axes.set_xscale("log", base=2)


if __name__ == "__main__":
    main("learning_curve", draw)
