"""Components that write plausibility: maps by block, and the largest: `python -m figures.attribute_writes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.attribute_writes import effects, top
from dit_lens.measures.labels import halves, label_effect, mean_interval
from figures.output import caption, main, save
from figures.places import reach_of

SAME: Any = {"coords": "minimal", "compat": "override"}  # rows that differ in what they are of
SHORT = {"attn": "self-attention", "cross_attn": "cross-\nattention", "mlp": "MLP"}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, the label effect of every component, one map per model; below, the largest with intervals."""
    plots.use_style()
    models = [str(model) for model in result.model.values]
    figure = plt.figure(figsize=(max(5.2, 2.1 * len(models) + 0.9), 4.8))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.1]))
    chosen, mean = top(result, models[0]), effects(result).sel(direction="probe").mean("scene", skipna=False)
    panels = above.subplots(1, len(models), squeeze=False, sharey=True)[0]
    reach = reach_of(mean)
    for axes, model in zip(panels, models, strict=True):
        image = _map(axes, mean.sel(model=model), reach)
        axes.set_title(model)
        if model == models[0]:
            axes.set_ylabel("block")
            frames = [[(int(b), str(c)) in chosen for c in mean.component.values] for b in mean.block.values]
            plots.outline(axes, np.array(frames))
    above.colorbar(image, ax=panels, label="label effect\n[probe SD]", shrink=0.9)
    _largest(below.subplots(), halves(result)[1], chosen)
    note = (
        f"n = {result.sizes['scene']} test scenes above; framed: ranked on half of them, below on the other"
        f" {halves(result)[1].sizes['scene']}, 95% CI\nprobe after block {int(result.readout_block)},"
        f" {results.facts(result)['config']['path']}, step {int(result.step)} (σ = {float(result.sigma):.2f})"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_writes", path)


def _map(axes: Axes, mean: xr.DataArray, reach: float):
    """Blocks by components; layers set apart by white lines, heads numbered."""
    image = plots.heat_map(axes, mean.transpose("block", "component").values, (-reach, reach), "RdBu_r")
    layers = [str(layer) for layer in mean.layer.values]
    axes.set_xticks(range(len(layers)), [str(head) if head >= 0 else "" for head in mean["head"].values], fontsize=6)
    axes.set_yticks(range(mean.sizes["block"]), [str(block) for block in mean.block.values])
    for layer in dict.fromkeys(layers):
        places = [i for i, other_layer in enumerate(layers) if other_layer == layer]
        axes.axvline(places[-1] + 0.5, color="0.4", linewidth=0.8)
        axes.annotate(
            SHORT.get(layer, layer), (np.mean(places), 0), (0, -13), ("data", "axes fraction"), "offset points",
            ha="center", va="top", fontsize=6,
        )  # fmt: skip
    return image


def _largest(axes: Axes, report: xr.Dataset, chosen: list[tuple[int, str]]) -> None:
    """The whole logit and the chosen components: intervals of every model, and of random directions in the first."""
    logit, parts = label_effect(report.readout) / report.probe_spread, effects(report)
    rows = [("the probe's logit", logit)]
    rows += [(_name(block, name), parts.sel(block=block, component=name)) for block, name in chosen]
    series = [(str(model), str(model), "probe") for model in report.model.values]
    series += [(f"{series[0][0]}, random directions", series[0][0], d) for d in report.direction.values[1:]]
    plotted = list[plots.Series]()
    for label, model, direction in series:
        cells = xr.concat([part.sel(model=model, direction=direction, drop=True) for _, part in rows], "row", **SAME)
        grey = ("0.6", "x") if direction != "probe" else ("", "")
        plotted.append(plots.Series(label, *mean_interval(cells), *grey))
    plots.grouped_intervals(axes, [name for name, _ in rows], plotted)
    axes.axhline(len(rows) - 1.5, color="0.8", linewidth=0.6)
    axes.set_xlabel("label effect [probe SD]")
    axes.legend(frameon=False, fontsize=6, loc="best")


def _name(block: int, component: str) -> str:
    layer, _, head = component.rpartition(".")
    short = SHORT.get(layer or head, layer or head).replace("\n", "")
    return f"block {block}, {short}" + (f" head {head}" if layer else "")


if __name__ == "__main__":
    main("attribute_writes", draw)
