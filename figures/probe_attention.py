"""Accuracy of probes on attention, by block and head, beside the states: `python -m figures.probe_attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dit_lens import plots, results
from dit_lens.measures.probe_attention import accuracies, chosen, kinds
from figures.output import caption, main, save

LEGIBLE = 60  # cells of a map that numbers are written into


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A map (block, head) for each source, all heads and states beside; below, the chosen cells with intervals."""
    plots.use_style()
    measured, scores, sources = accuracies(result), chosen(result), list(result.source.values)
    figure = plt.figure(figsize=(7.2, 4.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    maps = parts[0].subplots(1, len(sources), sharey=True, squeeze=False)[0]
    reach = max(0.1, float(np.abs(measured - 0.5).max()))
    for axes, source in zip(maps, sources, strict=True):
        image = _map(axes, measured.sel(source=source), scores.sel(source=source), (0.5 - reach, 0.5 + reach))
        axes.set_title(Path(str(source)).name)
    maps[0].set_ylabel("block")
    parts[0].colorbar(image, ax=maps, label="accuracy per clip, test scenes", fraction=0.04, aspect=18)
    _intervals(parts[1].subplots(1, 1), scores, list(kinds(result)))
    facts = results.facts(result)
    note = f"n = {result.sizes['scene']} test scenes, 95% CI; {facts['path']}, σ = {facts['sigma']:.2f}"
    note += "; framed: head, block and states chosen on training scenes"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "probe_attention", path)


def _map(axes: Axes, values: xr.DataArray, scores: xr.Dataset, limits: tuple[float, float]) -> AxesImage:
    image = plots.heat_map(axes, values.values, limits, "RdBu_r", ".2f" if values.size <= LEGIBLE else "")
    features, blocks = list(values.feature.values), list(values.block.values)
    framed = np.zeros(values.shape, bool)
    for kind in scores.kind.values:
        cell = scores.sel(kind=kind)
        framed[blocks.index(int(cell.cell_block)), features.index(cell.cell_feature.item())] = True
    plots.outline(axes, framed)
    heads = len(features) - 2
    for edge in (heads - 0.5, heads + 0.5):
        axes.axvline(edge, color="w", linewidth=2, zorder=0.5)
    ticks = range(0, heads, 1 + heads // 8)
    axes.set_xticks([*ticks, heads, heads + 1], [*(features[head] for head in ticks), "all\nheads", "states"])
    axes.set_xlabel("attention of head", x=0.5 * heads / len(features))
    ticks = range(0, len(blocks), 1 + len(blocks) // 10)
    axes.set_yticks(ticks, [str(blocks[row]) for row in ticks])
    return image


def _intervals(axes: Axes, scores: xr.Dataset, kinds: list[str]) -> None:
    names, rows = [], []
    for source in scores.source.values:
        for kind in kinds:
            names.append(f"{Path(str(source)).name}, {'attention, ' * (kind != 'states')}{kind}")
            rows.append([float(scores[key].sel(source=source, kind=kind)) for key in ("accuracy", "low", "high")])
    plots.intervals(axes, names, *np.array(rows).T, chance=0.5)
    axes.set_xlabel("accuracy per clip at the cell chosen on training scenes (95% CI)")


if __name__ == "__main__":
    main("probe_attention", draw)
