"""Who writes plausibility: maps of blocks and components, and the largest: `python -m figures.attribute_writes`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses.attribute_writes import components, top
from analyses.frozen_probe import halves
from analyses.roles import contrast
from dit_lens import plots, results, stats
from figures.output import caption, save

TABLE = Path("figures/data/attribute_writes.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
MARKERS = "osD^v"
SHORT = {"attn": "self-attention", "cross_attn": "cross-\nattention", "mlp": "MLP"}


def draw(result: xr.Dataset) -> Path:
    """Above, the contrast of every component, a map to a model; below, the largest with intervals."""
    plots.use_style()
    models = [str(model) for model in result.model.values]
    figure = plt.figure(figsize=(max(5.2, 2.1 * len(models) + 0.9), 4.8))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.1]))
    whole, chosen = components(result), top(result, models[0])
    mean = contrast(whole.attribution, whole.probe_spread).sel(direction="probe").mean("quadruplet")
    panels = above.subplots(1, len(models), squeeze=False, sharey=True)[0]
    reach = float(np.abs(mean).max())
    for axes, model in zip(panels, models, strict=True):
        image = _map(axes, mean.sel(model=model), reach)
        axes.set_title(model)
        if model == models[0]:
            axes.set_ylabel("block")
            frames = [[(int(b), str(c)) in chosen for c in mean.component.values] for b in mean.block.values]
            plots.outline(axes, np.array(frames))
    above.colorbar(image, ax=panels, label="contrast (A + B − C − D) / 2\n[probe SD]", shrink=0.9)
    _largest(below.subplots(), halves(result)[1], chosen)
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets above; framed: ranked on half of them, below on the other"
        f" {halves(result)[1].sizes['quadruplet']}, 95% CI\nprobe of block {int(result.readout_block)}'s output,"
        f" {results.facts(result)['config']['path']}, step {results.facts(result)['config']['step']}"
        f" (σ = {float(result.sigma):.2f})"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_writes")


def _map(axes: Axes, mean: xr.DataArray, reach: float):
    """Blocks by components; layers set apart by white lines, heads numbered."""
    image = plots.heat_map(axes, mean.transpose("block", "component").values, (-reach, reach), "RdBu_r")
    layers = [str(layer) for layer in mean.layer.values]
    axes.set_xticks(range(len(layers)), [str(head) if head >= 0 else "" for head in mean["head"].values], fontsize=6)
    axes.set_yticks(range(mean.sizes["block"]), [str(block) for block in mean.block.values])
    for layer in dict.fromkeys(layers):
        places = [i for i, own in enumerate(layers) if own == layer]
        axes.axvline(places[-1] + 0.5, color="0.4", linewidth=0.8)
        axes.annotate(
            SHORT.get(layer, layer), (np.mean(places), 0), (0, -13), ("data", "axes fraction"), "offset points",
            ha="center", va="top", fontsize=6,
        )  # fmt: skip
    return image


def _largest(axes: Axes, report: xr.Dataset, chosen: list[tuple[int, str]]) -> None:
    """The whole logit and the chosen components: intervals of every model, and of random directions in the first."""
    spread = report.probe_spread
    logit, parts = contrast(report.readout, spread), contrast(report.attribution, spread)
    rows = [("the probe's logit", logit)]
    rows += [(_name(block, name), parts.sel(block=block, component=name)) for block, name in chosen]
    series = [(str(model), str(model), "probe") for model in report.model.values]
    series += [(f"{series[0][0]}, random directions", series[0][0], d) for d in report.direction.values[1:]]
    height = np.arange(len(rows))[::-1]
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    axes.axhline(height[0] - 0.5, color="0.8", linewidth=0.6)
    for i, (label, model, direction) in enumerate(series):
        seen = np.stack([part.sel(model=model, direction=direction).values for _, part in rows], axis=1)
        middle, low, high = stats.bootstrap_ratio(seen, np.ones_like(seen))
        random = direction != "probe"
        axes.errorbar(
            middle,
            height + 0.75 / max(4, len(series)) * ((len(series) - 1) / 2 - i),
            xerr=np.abs(np.stack([middle - low, high - middle])),
            fmt="x" if random else MARKERS[i % len(MARKERS)],
            color="0.6" if random else COLOURS[i % len(COLOURS)],
            markersize=2.6,
            linewidth=0.6 if random else 1,
            label=label if label not in axes.get_legend_handles_labels()[1] else None,
        )
    axes.set_yticks(height, [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("contrast (A + B − C − D) / 2 [probe SD]")
    axes.legend(frameon=False, fontsize=6, loc="best")


def _name(block: int, component: str) -> str:
    layer, _, head = component.rpartition(".")
    short = SHORT.get(layer or head, layer or head).replace("\n", "")
    return f"block {block}, {short}" + (f" head {head}" if layer else "")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
