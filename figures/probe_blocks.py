"""Maps of decodability, the chosen cells, and properties apart: `python -m figures.probe_blocks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dit_lens import plots
from dit_lens.measures.probe_blocks import READOUTS, chosen, read_by
from dit_lens.measures.selection import properties as properties_of
from figures.output import caption, main, save

INVERSION = "inversion"


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, a map for each model (column) and path (row), the input row under it where there is one; below, scores."""
    plots.use_style()
    scores, rows = chosen(result), result.sizes["source"]
    states = (
        result.kind == "states"
        if "kind" in result.coords
        else np.isfinite(result.train_accuracy).all(("step", "block"))
    )
    mapped = [_place(str(s)) for s in result.source.values[states.values]]
    names, paths = (list(dict.fromkeys(part)) for part in zip(*mapped, strict=True))
    figure = plt.figure(figsize=(7.2, 1.4 + 1.15 * len(paths) + 0.18 * rows), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.5 + 1.15 * len(paths), 0.9 + 0.18 * rows])
    above, below = parts
    maps = above.subplots(len(paths), len(names), squeeze=False)
    top = max(0.6, float(result.test_accuracy.max()))
    for row, path_name in enumerate(paths):
        for column, name in enumerate(names):
            axes = maps[row, column]
            if (name, path_name) not in mapped:
                axes.axis("off")
                continue
            image = _map(axes, result, name if path_name == INVERSION else f"{name}, {path_name}", (1 - top, top))
            if not any((name, lower) in mapped for lower in paths[row + 1 :]):
                axes.set_xlabel("noise level σ")
        maps[row, 0].set_ylabel(f"{path_name}\nblock")
    for axes, name in zip(maps[0], names, strict=True):
        axes.set_title(Path(name).name)
    above.colorbar(
        image, ax=maps, label="test accuracy per clip" if len(paths) > 1 else "test accuracy", fraction=0.03, aspect=30
    )
    several = len(properties_of(result)) > 1
    intervals, *properties = below.subplots(1, 1 + several, squeeze=False, width_ratios=[1, 2.4][: 1 + several])[0]
    plots.intervals(
        intervals, list(scores.source.values), scores.accuracy.values, scores.low.values, scores.high.values, 0.5
    )
    intervals.set_xlabel("accuracy at the cell chosen\non training scenes (95% CI)")
    for axes in properties:
        _by_property(axes, result, scores)
    note = f"n = {result.sizes['scene']} test scenes; framed: the cell chosen on training scenes"
    if read_by(result) != "blocks":
        note = f"probes of {READOUTS[read_by(result)]}; {note}"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "probe_blocks", path)


def _place(source: str) -> tuple[str, str]:
    """Model and path of a source."""
    name, *path = source.split(", ")
    return name, path[0] if path else INVERSION


def _levels(result: xr.Dataset) -> list[str]:
    """Noise levels where the result has them, else steps."""
    if "sigma" not in result.coords:
        return [str(step) for step in result.step.values]
    return [f"{s:.2f}"[1:] if s < 1 else "1" for s in result.sigma.values]


def _by_property(axes: Axes, result: xr.Dataset, scores: xr.Dataset) -> None:
    """Accuracy of each source (row, as beside) on each property at the cell that its own training scenes choose."""
    properties, has_own_cells = properties_of(result), "own_by_property" in scores
    values = scores["own_by_property" if has_own_cells else "by_property"].transpose("source", "property").values
    plots.heat_map(axes, values[::-1], (0, 1), "RdBu_r", ".2f")
    axes.set_xticks(range(len(properties)), properties, rotation=45, ha="right")
    axes.set_yticks([])
    axes.set_title("by property, at the property's own cell" if has_own_cells else "by property")


def _map(axes: Axes, result: xr.Dataset, source: str, limits: tuple[float, float]) -> AxesImage:
    of_source = result.sel(source=source)
    values = of_source.test_accuracy.transpose("block", "step").values
    labels = [str(b) for b in result.block.values]
    fed = f"{source}, input x_σ"
    if fed in result.source.values:
        values = np.vstack([result.test_accuracy.sel(source=fed, block=0).values, values])
        labels = ["x_σ", *labels]
    image = plots.heat_map(axes, values, limits, "RdBu_r")
    framed = np.zeros_like(values, dtype=bool)
    column = list(result.step.values).index(int(of_source.chosen_step))
    framed[len(labels) - result.sizes["block"] + int(of_source.chosen_block), column] = True
    plots.outline(axes, framed)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(range(result.sizes["step"]), _levels(result), rotation=90)
    return image


if __name__ == "__main__":
    main("probe_blocks", draw)
