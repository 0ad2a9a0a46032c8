"""Integrated gradients by head, first order beside: `python -m figures.attribute_heads` reads the table and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.attribute_heads import ESTIMATES, agreement
from dit_lens.measures.labels import halves, mean_interval
from dit_lens.measures.patching import content_of_pairs, label_effect_of_pairs, top_places
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save
from figures.places import reach_of

SHORT: dict[str, str] = dict(zip(ESTIMATES, ("int. gradients", "gradient × diff.", "int. gr. from noise"), strict=True))


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Rows of maps: label effect by all estimates, content; one column per model; below, the top heads."""
    plots.use_style()
    models = [str(model) for model in result.model.values]
    figure = plt.figure(figsize=(max(6.4, 1.9 * len(models) + 1.6), 8.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.7, 1.1]))
    chosen = top_places(result.sel(estimate=ESTIMATES[0]), models[0], int(result.step.item()))
    panels = above.subplots(1 + len(ESTIMATES), len(models), squeeze=False, sharex=True, sharey=True)
    effect = label_effect_of_pairs(result).mean("scene", skipna=False).squeeze("step", drop=True)
    for row, estimate in enumerate(ESTIMATES):
        label = f"{SHORT[estimate]},\nlabel effect [SD]"
        _maps(panels[row], effect.sel(estimate=estimate), label, "RdBu_r")
    content = content_of_pairs(result.sel(estimate=ESTIMATES[0])).mean("scene", skipna=False).squeeze("step", drop=True)
    _maps(panels[-1], content, f"{SHORT[ESTIMATES[0]]},\ncontent, rms [SD]", "viridis")
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
    config, pairs = results.facts(result)["config"], int((result.sign != 0).sum())
    note = (
        f"n = {result.sizes['scene']} test scenes, {pairs} exchanges of a possible and an impossible clip in each;"
        f" framed: top heads,\nranked on half of them, below on the other {halves(result)[1].sizes['scene']}, 95% CI;"
        f" probe after block {int(result.readout_block)}, {config['path']}, step {int(result.step.item())} (σ ="
        f" {float(result.sigma):.2f}); largest delta {float(result.delta.sel(estimate=ESTIMATES[0]).max()):.1g}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_heads", path)


def _maps(panels: np.ndarray, values: xr.DataArray, label: str, colours: str) -> None:
    """One map per model, all on one scale."""
    reach = reach_of(values)
    limits = (-reach, reach) if colours == "RdBu_r" else (0.0, reach)
    for axes, model in zip(panels, values.model.values, strict=True):
        image = plots.heat_map(axes, values.sel(model=model).transpose("block", "head").values, limits, colours)
    panels[0].set_ylabel("block")
    panels[0].figure.colorbar(image, ax=panels, label=label, shrink=0.9)


def _intervals(axes: Axes, report: xr.Dataset, chosen: Sequence[tuple[int, ...]]) -> None:
    """The chosen heads: every model in its colour, one marker per estimate."""
    effect = label_effect_of_pairs(report).squeeze("step", drop=True)
    blocks, heads = (xr.DataArray(list(places), dims="row") for places in zip(*chosen, strict=True))
    series = list[plots.Series]()
    for i, model in enumerate(map(str, effect.model.values)):
        for estimate, marker in zip(ESTIMATES, MARKERS, strict=False):
            cells = effect.sel(model=model, estimate=estimate).isel(block=blocks, head=heads)
            style = COLOURS[i % len(COLOURS)], marker
            series.append(plots.Series(f"{model}, {SHORT[estimate]}", *mean_interval(cells), *style))
    plots.grouped_intervals(axes, [f"block {block}, head {head}" for block, head in chosen], series)
    axes.set_xlabel("label effect [probe SD]")
    axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    main("attribute_heads", draw)
