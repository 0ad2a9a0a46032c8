"""Axes-level plots: each takes results and an Axes, and draws no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

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
    """House style for figures."""
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
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
