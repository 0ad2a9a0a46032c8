"""Dose-response of steering, model by model: `python -m figures.steer`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses.steer import ERASED, FITTED, as_far_as, scores
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/steer.nc")
COLOURS = dict(zip(FITTED, ("#0072b2", "#d55e00"), strict=True))  # Okabe and Ito's: safe for the colour-blind
LOOKS = {name: (colour, "o-") for name, colour in COLOURS.items()}
LOOKS |= {as_far_as(name): (colour, "s:") for name, colour in COLOURS.items()}
TITLES = {
    "shown": "share of clips in which the tracker\nsees the possible outcome: change",
    "nearer": "nearer to the possible outcome:\nchange in margin of the latent",
    "damage": "damage: |steered - unsteered|\n/ |unsteered|, latent",
}


def draw(result: xr.Dataset) -> Path:
    """A row per model, a column per measure; behind the largest dose, the direction erased."""
    plots.use_style()
    level = scores(result).shown
    measured, models = scores(result, change=True), [str(m) for m in result.model.values]
    figure, panels = plt.subplots(
        len(models), 3, figsize=(7.2, 0.9 + 1.75 * len(models)), sharex=True, sharey="col", squeeze=False
    )
    for row, model in zip(panels, models, strict=True):
        for axes, measure in zip(row, TITLES, strict=True):
            _panel(axes, measured[measure].sel(model=model))
        unsteered = float(level.sel(model=model, dose=0.0, end="middle")[0])
        row[0].set_ylabel(f"{model}\n(share unsteered: {unsteered:.2f})")
    for axes, title in zip(panels[0], TITLES.values(), strict=True):
        axes.set_title(title)
    for axes in panels[-1]:
        axes.set_xlabel("dose (SD of the projection)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    made = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets (A and B), 95% CI over them; {made['sampling']} Euler"
        f" steps, steered behind block {int(result.block[0])}; dotted: mean of {made['randoms']} random"
        " directions,\nmoved as far as the probe's or the means'; dashed: unsteered"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "steer")


def _panel(axes: Axes, ends: xr.DataArray) -> None:
    """A curve with its band for each kind of direction."""
    doses = ends.dose.values[np.isfinite(ends.dose.values)]
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    reach, pitch = doses.max() - doses.min(), len(LOOKS)
    behind = doses.max() + 0.26 * reach
    for i, (kind, (colour, marker)) in enumerate(LOOKS.items()):
        here = ends.sel(kind=kind)
        middle, low, high = (here.sel(end=end, dose=doses).values for end in ("middle", "low", "high"))
        axes.fill_between(doses, low, high, color=colour, alpha=0.15 if "-" in marker else 0.07, linewidth=0)
        axes.plot(doses, middle, marker, color=colour, markersize=2.8, linewidth=1, label=kind)
        middle, low, high = (float(here.sel(end=end, dose=np.inf)) for end in ("middle", "low", "high"))
        at = behind + 0.04 * reach * (i - (pitch - 1) / 2)
        axes.vlines(at, low, high, color=colour, linewidth=1)
        axes.plot(at, middle, marker[0], color=colour, markerfacecolor="w", markersize=3.2)
    axes.axvline(doses.max() + 0.12 * reach, color="0.85", linewidth=0.6)
    ticks = [float(dose) for dose in doses if abs(dose) in (0, *doses[-2:])]
    axes.set_xticks([*ticks, behind], [f"{dose:g}" for dose in ticks] + [ERASED])


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
