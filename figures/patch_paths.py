"""The circuit as a graph, its paths with intervals, shares left: `python -m figures.patch_paths` draws, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from dit_lens import plots, results
from dit_lens.measures.labels import halves, mean_interval, ratio_interval
from dit_lens.measures.patch_paths import (
    CIRCUIT,
    FOUND,
    READOUT,
    REST,
    drawn,
    edges_of,
    flat,
    parts_of,
    screened,
    shares,
)
from dit_lens.measures.patching import label_effect_of_pairs
from figures.output import caption, main, save

RAISES, LOWERS = "#b2182b", "#2166ac"
WIDEST = 5.0
Place = tuple[float, float]


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Left the graph, right its paths in every model above the shares left by the circuit. Returns the file.

    Below these, where paths were screened, what gradients estimate against what patching finds.
    """
    plots.use_style()
    below_paths = [4, 6] if "estimate" in result else [4]
    figure = plt.figure(figsize=(7.4, 2.2 * len(below_paths) + 2.4))
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1.35, 1]))
    edges, (_, report) = edges_of(result), halves(result)
    effects = flat(label_effect_of_pairs(report))
    _graph(left.subplots(), result, edges, effects.isel(model=0).mean("scene", skipna=False))
    panels = right.subplots(1 + len(below_paths), 1, height_ratios=[max(4, len(edges)), *below_paths])
    _paths(panels[0], effects, edges)
    _shares_left(panels[1], result)
    if "estimate" in result:
        _screen(panels[2], result)
    size, config = report.sizes["scene"], results.facts(result)["config"]
    note = (
        f"circuit of {len(edges)} paths ranked on {result.sizes['scene'] - size} test scenes, shown on the other"
        f" {size}, 95% CI\nprobe after block {int(result.readout)}, {config['path']}, σ = {float(result.sigma):.2f};"
        f" {result.sizes['circuit'] - 1} random circuits"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "patch_paths", path)


# The graph.


def _graph(axes: Axes, result: xr.Dataset, edges: Sequence[tuple[str, str]], mean: xr.DataArray) -> None:
    """Blocks from left to right, one row per head and one for the MLPs; a path is as wide as its effect."""
    places = _places([str(sender) for sender in result.sender.values])
    mine = {*parts_of(edges), READOUT}
    reach = max(abs(float(mean.sel(path=edge))) for edge in edges)
    for sender, receiver in reversed(edges):  # the largest on top
        effect = float(mean.sel(path=(sender, receiver)))
        _arrow(axes, places, (sender, receiver), effect, WIDEST * abs(effect) / reach)
    for name, (x, y) in places.items():
        shape = "s" if name.startswith("mlp") else "D" if name == READOUT else "o"
        face, edge = ("w", "k") if name in mine else ("0.97", "0.8")
        axes.plot(x, y, shape, markersize=14, markerfacecolor=face, markeredgecolor=edge, zorder=3)
        label = {READOUT: "logit"}.get(name, name.replace("mlp ", "M"))
        axes.text(x, y, label, ha="center", va="center", fontsize=5.5, color="k" if name in mine else "0.65", zorder=4)
    last = max(x for x, _ in places.values())
    lowest = min(y for _, y in places.values())
    axes.set_aspect("equal")  # so that the middle of a bent arrow is where `_arrow` puts its letter
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(lowest - 1, 0.7)
    blocks = range(1 + max(int(re.findall(r"\d+", name)[0]) for name in places if name != READOUT))
    axes.set_xticks([float(block) + 0.2 for block in blocks], [f"block {block}" for block in blocks])
    rows = {
        y: "MLP" if name.startswith("mlp") else f"head {name.split('.')[1]}"
        for name, (x, y) in places.items()
        if x < 0.5
    }
    axes.set_yticks(list(rows), list(rows.values()))
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{result.model.values[0]}: direct paths, label effect on the logit")
    _legend(axes, reach)


def _places(names: Sequence[str]) -> dict[str, Place]:
    """Where each part is drawn: heads of a block below each other, its MLP after and below them."""
    heads = [tuple(map(int, name.split("."))) for name in names if "." in name]
    depth = max(head for _, head in heads) + 1
    places = {f"{block}.{head}": (float(block), -float(head)) for block, head in heads}
    mlps = [int(name.removeprefix("mlp ")) for name in names if name.startswith("mlp")]
    places |= {f"mlp {block}": (block + 0.4, -float(depth)) for block in mlps}
    return places | {READOUT: (max(x for x, _ in places.values()) + 0.8, -(depth - 1) / 2)}


def _arrow(axes: Axes, places: Mapping[str, Place], edge: tuple[str, str], effect: float, width: float) -> None:
    """A bent arrow; at its head the letter of the head's input (q, k, v)."""
    sender, receiver = edge
    name, _, entry = receiver.rpartition(".") if re.search(r"\.[qkv]$", receiver) else (receiver, "", "")
    start, end = places[sender], places[name]
    bend = {"q": 0.22, "k": 0.1, "v": -0.16}.get(entry, 0.12 if start[1] != end[1] else 0.35)  # around those between
    colour = RAISES if effect > 0 else LOWERS
    arrow = FancyArrowPatch(
        start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=4 + 1.5 * width,
        linewidth=max(0.4, width), color=colour, alpha=0.75, shrinkA=7, shrinkB=8, zorder=2,
    )  # fmt: skip
    axes.add_patch(arrow)
    if entry:
        # Of the curve's three points the middle one lies beside the chord, to the right of its direction for rad > 0.
        (x0, y0), (x1, y1) = start, end
        middle = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
        t = 0.6
        x, y = ((1 - t) ** 2 * a + 2 * t * (1 - t) * m + t**2 * b for a, m, b in zip(start, middle, end, strict=True))
        axes.text(
            x, y, entry, fontsize=6, ha="center", va="center", color=colour, zorder=5,
            bbox={"boxstyle": "circle,pad=0.1", "facecolor": "w", "edgecolor": "none", "alpha": 0.9},
        )  # fmt: skip


def _legend(axes: Axes, reach: float) -> None:
    handles = [
        Line2D([], [], color=RAISES, linewidth=2.5, label="raises the logit"),
        Line2D([], [], color=LOWERS, linewidth=2.5, label="lowers it"),
        Line2D([], [], color="0.5", linewidth=WIDEST, label=f"{reach:.2g} probe SD"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3)


# The panels beside it.


def _paths(axes: Axes, effects: xr.DataArray, edges: Sequence[tuple[str, str]]) -> None:
    """Effects of the circuit's paths with intervals, in every model."""
    series = list[plots.Series]()
    for model in map(str, effects.model.values):
        cells = xr.concat([effects.sel(model=model, path=edge, drop=True) for edge in edges], "row")
        series.append(plots.Series(model, *mean_interval(cells)))
    plots.grouped_intervals(axes, [f"{sender} → {receiver}" for sender, receiver in edges], series)
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("label effect [probe SD]")
    axes.legend(frameon=False, fontsize=6, loc="lower right", handletextpad=0.2)


def _shares_left(axes: Axes, result: xr.Dataset) -> None:
    """Shares of the logit's label effect left by the circuit alone, and without it; random circuits in grey."""
    value, intact = shares(result)
    rows = {REST: "circuit alone", CIRCUIT: "all but the circuit"}
    for y, resampled in zip((1, 0), rows, strict=True):
        middle, low, high = ratio_interval(value.sel(circuit=FOUND, resampled=resampled, drop=True), intact)
        _, random = drawn(value.sel(resampled=resampled), intact)
        spread = np.linspace(-0.18, 0.18, len(random))
        axes.plot(random, y + spread, ".", color="0.65", markersize=3, label="random circuits" if y else None)
        axes.errorbar(
            middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color="k", markersize=4, linewidth=1,
            label="found" if y else None,
        )  # fmt: skip
    for x in (0, 1):
        axes.axvline(x, color="0.6", linewidth=0.8, linestyle="--")
    axes.set_yticks((1, 0), list(rows.values()), fontsize=6)
    axes.set_ylim(-0.5, 1.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the logit's label effect that is left")
    axes.legend(frameon=False, fontsize=6, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=2, handletextpad=0.2)


def _screen(axes: Axes, result: xr.Dataset) -> None:
    """Paths that were patched because gradients rank them first, and at random."""
    estimate, effect, agree = screened(result)
    axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--")
    for chosen, colour, label in ((result.sampled, "0.6", "at random"), (result.verified, "k", "ranked first")):
        axes.plot(
            estimate.values[chosen.values], effect.values[chosen.values], "o", color=colour, markersize=2.5, label=label
        )
    axes.set_xlabel("estimate by gradients [probe SD]")
    axes.set_ylabel("effect [probe SD]")
    agreed = ", ".join(f"{float(agree.sel(among=name)):.2f} ({name})" for name in agree["among"].values)
    title = f"screen of {int(estimate.notnull().sum())} paths, ranking scenes;\nrank agreement {agreed}"
    axes.set_title(title, fontsize=6)
    axes.legend(frameon=False, fontsize=6, loc="upper left", handletextpad=0.2)


if __name__ == "__main__":
    main("patch_paths", draw)
