"""Block x head maps of patching effects beside their controls: `python -m figures.patch_heads` draws, no model."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from dit_lens import plots, results
from dit_lens.measures.labels import halves, mean_interval
from dit_lens.measures.nulls import LEVEL
from dit_lens.measures.patching import (
    CONTENT,
    HALF,
    MEANS,
    PLAUSIBILITY,
    RANDOM,
    Place,
    against_flips,
    agreement,
    label_effect_of_pairs,
    moved,
    named,
    of_probe,
    place_dims,
    top_places,
)
from dit_lens.plots import COLOURS, MARKERS
from figures.output import caption, main, save
from figures.places import columns_of, draw_map, reach_of

WHERE = {"shared": "shared half", "differs": "differing half", "all": "all tokens"}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, maps by region and step; below, nulls of all heads, two probes, and the top heads. Returns the file."""
    plots.use_style()
    rows = list(product(result.step.values, result.region.values))
    figure = plt.figure(figsize=(8.6, 1.55 * len(rows) + 4.0))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1.55 * len(rows) + 0.5, 3.5]))
    _maps(above, result, rows)
    step, region = rows[0]
    headline = result.sel(region=region, drop=True)
    nulls, probes, top = below.subplots(1, 3, width_ratios=[1.5, 1, 1.25])
    _nulls(nulls, headline, int(step))
    _probes(probes, headline, int(step))
    _top(top, headline, top_places(of_probe(headline), str(result.model.values[0]), int(step)), int(step))
    config = results.facts(result)["config"]
    blocks = ", ".join(map(str, np.unique(result.readout_block)))
    exchanges, held_out = int((result.sign != 0).sum()), halves(result)[1].sizes["scene"]
    note = (
        f"n = {result.sizes['scene']} test scenes, {exchanges} exchanges of a possible and an impossible clip in each;"
        f" {config['path']}, probe after block {blocks};\nhatched: later blocks. Framed, filled: p < {LEVEL:g} of the"
        f" largest |t| of all blocks, heads and steps, signs of whole scenes flipped."
        f"\nBelow: {WHERE[region]}, step {step}; right: ranked on half the scenes, shown on the other"
        f" {held_out}, 95% CI"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "patch_heads", path)


def _maps(figure: SubFigure, result: xr.Dataset, rows: list[tuple[int, str]]) -> None:
    """A row for each step and region, a column for each model and a random direction, on one scale to a row."""
    series = columns_of(result)
    panels = figure.subplots(len(rows), len(series), squeeze=False, sharex=True, sharey=True)
    for cells, (step, region) in zip(panels, rows, strict=True):
        effect = label_effect_of_pairs(result.sel(region=region, drop=True))
        p, mean = against_flips(effect).p.sel(step=step), effect.sel(step=step).mean("scene", skipna=False)
        reach = max(reach_of(mean.sel(model=model, readout=readout)) for _, model, readout in series)
        for axes, (_, model, readout) in zip(cells, series, strict=True):
            at = {"model": model, "readout": readout}
            image = draw_map(axes, mean.sel(at), p.sel(at), reach)
        sigma = float(result.sigma.sel(step=step))
        cells[0].set_ylabel(f"{WHERE[region]}\nstep {step}, σ = {sigma:.2f}\nblock")
        figure.colorbar(image, ax=cells, label="label effect\n[probe SD]", shrink=0.95)
    for axes, (title, _, _) in zip(panels[0], series, strict=True):
        axes.set_title(title)
    for axes in panels[-1]:
        axes.set_xlabel("head")


def _nulls(axes: Axes, result: xr.Dataset, step: int) -> None:
    """The t of every head by model and kind of readout, with the threshold that the largest of all must pass."""
    flips, models = against_flips(label_effect_of_pairs(result)), [str(model) for model in result.model.values]
    kinds = [kind for kind in (MEANS, RANDOM, *CONTENT) if kind in flips.kind.values]
    series = [(model, model, PLAUSIBILITY) for model in models] + [(kind, models[0], kind) for kind in kinds]
    for place, (_, model, kind) in enumerate(series):
        at = {"model": model, "readout": flips.kind.values == kind}
        t, p = (flips[name].sel(step=step, model=model).isel(readout=at["readout"]).values.ravel() for name in "tp")
        t, p = t[np.isfinite(t)], p[np.isfinite(t)]
        across = place + np.linspace(-0.28, 0.28, len(t))
        colour = COLOURS[0] if place == 0 else "0.45"
        axes.scatter(across, t, s=9, facecolors=np.where(p < LEVEL, colour, "w").tolist(), edgecolors=colour, lw=0.6)
        limit = float(flips.threshold.sel(model=model, of=kind))
        axes.hlines([-limit, limit], place - 0.38, place + 0.38, color="k", linewidth=0.9)
    axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    axes.set_xticks(range(len(series)), [label for label, _, _ in series], rotation=40, ha="right", fontsize=6.5)
    axes.set_ylabel("t of the label effect, by head")
    axes.set_title("bars: corrected threshold", fontsize=7)


def _probes(axes: Axes, result: xr.Dataset, step: int) -> None:
    """Every head by a probe of one half of the training scenes and by one of the other, where these were fitted."""
    if HALF not in result.kind.values:
        axes.set_axis_off()
        return
    effect = label_effect_of_pairs(result).sel(step=step).mean("scene", skipna=False)
    first, second = (effect.sel(readout=f"{HALF} {i}") for i in (0, 1))
    for i, model in enumerate(map(str, result.model.values)):
        rho = agreement(result.sel(model=model, step=step), f"{HALF} 0", f"{HALF} 1")
        pairs = first.sel(model=model).values.ravel(), second.sel(model=model).values.ravel()
        axes.scatter(*pairs, s=10, color=COLOURS[i % len(COLOURS)], label=f"{model}, ρ = {rho:.2f}", zorder=3 - 0.1 * i)
    axes.axline((0, 0), slope=1, color="0.8", linewidth=0.6, zorder=0)
    axes.set_xlabel("probe of half the scenes [SD]")
    axes.set_ylabel("probe of the other half [SD]")
    axes.legend(frameon=False, fontsize=6, loc="best", handletextpad=0.1)


def _top(axes: Axes, result: xr.Dataset, chosen: list[Place], step: int) -> None:
    """The top heads: label effect, and how far patches of them move plausibility and content; all heads below."""
    model, (_, report) = str(result.model.values[0]), halves(result)
    report = report.sel(model=model, step=step)
    dims, rows = place_dims(report), np.arange(len(chosen), -1, -1)
    middle, low, high = mean_interval(label_effect_of_pairs(of_probe(report)).transpose("scene", *dims))
    rms = moved(report).transpose("kind", *dims)
    kinds = [kind for kind in (PLAUSIBILITY, *CONTENT) if kind in rms.kind.values]
    for row, at in zip(rows, chosen, strict=False):
        error = [[abs(middle[at] - low[at])], [abs(high[at] - middle[at])]]
        label = "label effect" if row == rows[0] else None
        axes.errorbar(abs(middle[at]), row + 0.25, xerr=error, fmt="o", color="k", markersize=3.5, lw=1, label=label)
    for i, kind in enumerate(kinds):
        of_kind = rms.sel(kind=kind).values
        values = [float(of_kind[at]) for at in chosen] + [float(np.nanmedian(of_kind))]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.scatter(
            values, rows - 0.1, s=14, marker=marker, facecolors="none", edgecolors=colour, label=f"rms, {kind}"
        )
    names = [named(report, at) for at in chosen]
    axes.set_yticks(rows, [*names, "median head"])
    axes.set_ylim(-0.6, len(chosen) + 0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("size of the effect [SD of what is read]")
    axes.legend(frameon=False, fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


if __name__ == "__main__":
    main("patch_heads", draw)
