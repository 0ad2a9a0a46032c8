"""Axes-level plots: each draws results into one Axes of matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

# The colours of Okabe and Ito, safe for colour-blind readers; the main series first, grey for controls.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "0.45", "#cc79a7", "#e69f00")
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


def use_style() -> None:
    """Sets the style of the package's figures in matplotlib."""
    mpl.rcParams.update(STYLE)


def heat_map(
    axes: Axes,
    values: Float[np.ndarray, "rows columns"],
    limits: tuple[float, float],
    colours: str,
    number: str = "",
) -> AxesImage:
    """A matrix with row 0 at the bottom; NaN cells are hatched grey; `number` formats a number into each cell."""
    image = axes.imshow(values, origin="lower", aspect="auto", vmin=limits[0], vmax=limits[1], cmap=colours)
    for row, column in np.argwhere(~np.isfinite(values)):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.93", edgecolor="0.75", hatch="///", lw=0)
        )
    if number:
        middle, reach = sum(limits) / 2, (limits[1] - limits[0]) / 2
        diverging = colours in ("RdBu_r", "PuOr_r", "coolwarm")
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            dark = abs(value - middle) > 0.6 * reach if diverging else value < middle
            axes.text(
                column, row, format(value, number), ha="center", va="center", fontsize=6, color="w" if dark else "k"
            )
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return image


def label(name: str, width: int = 44) -> str:
    """A name for a figure: the last part of a path; if it is still too long, its start and end."""
    short = re.sub(r"[^\s,:]*/(?=[^/\s])", "", name)
    if len(short) <= width:
        return short
    half = (width - 1) // 2
    return f"{short[:half]}…{short[-half:]}"


def outline(axes: Axes, cells: Bool[np.ndarray, "rows columns"]) -> None:
    """A black frame around the chosen cells of a heat map."""
    for row, column in np.argwhere(cells):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="k", linewidth=1.2))


def intervals(
    axes: Axes,
    names: Sequence[str],
    estimate: Float[np.ndarray, " n"],
    low: Float[np.ndarray, " n"],
    high: Float[np.ndarray, " n"],
    chance: float,
) -> None:
    """Estimates with their intervals, one row each, first on top, and a line at chance."""
    rows = np.arange(len(names))[::-1]
    axes.axvline(chance, color="0.6", linewidth=0.8, linestyle="--")
    errors = np.abs(np.stack([estimate - low, high - estimate]))
    axes.errorbar(estimate, rows, xerr=errors, fmt="o", color="k", markersize=3, linewidth=1)
    axes.set_yticks(rows, [label(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)


class Series(NamedTuple):
    """Estimates with their intervals, one for each row of a plot; NaN where there is none.

    Attributes:
        colour, marker: by default they follow from its position among the series.
    """

    label: str
    estimate: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    colour: str = ""
    marker: str = ""


def grouped_intervals(axes: Axes, names: Sequence[str], series: Sequence[Series], chance: float = 0.0) -> None:
    """Several series of estimates with their intervals, one row for each name, first on top, and a line at chance.

    Series that share a label have one entry in the legend, which is for the caller to draw.
    """
    rows = np.arange(len(names))[::-1]
    axes.axvline(chance, color="0.6", linewidth=0.8, linestyle="--")
    for i, estimates in enumerate(series):
        labelled = axes.get_legend_handles_labels()[1]
        axes.errorbar(
            estimates.estimate,
            rows + 0.75 / max(4, len(series)) * ((len(series) - 1) / 2 - i),
            xerr=np.abs(np.stack([estimates.estimate - estimates.low, estimates.high - estimates.estimate])),
            fmt=estimates.marker or MARKERS[i % len(MARKERS)],
            color=estimates.colour or COLOURS[i % len(COLOURS)],
            markersize=3,
            linewidth=1,
            label=None if label(estimates.label) in labelled else label(estimates.label),
        )
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(names) - 0.4)
