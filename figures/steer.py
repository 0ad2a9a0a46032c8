"""Dose-response of steering, model by model: `python -m figures.steer`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots, results
from dit_lens.measures.steer import ERASED, FITTED, as_far_as, scores
from figures.output import caption, main, save

LOOKS = {name: (colour, "o-") for name, colour in zip(FITTED, plots.COLOURS, strict=False)}
LOOKS |= {as_far_as(name): (colour, "s:") for name, colour in zip(FITTED, plots.COLOURS, strict=False)}
TITLES = {
    "shown": "share of clips in which the tracker\nsees the possible outcome: change",
    "nearer": "closer to the possible outcome:\nchange in margin of the latent",
    "damage": "damage: |steered - unsteered|\n/ |unsteered|, latent",
}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A row per model, a column per measure; right of the largest dose, the direction erased."""
    plots.use_style()
    level = scores(result)
    measured, models = scores(result, change=True), [str(m) for m in result.model.values]
    titles = {name: title for name, title in TITLES.items() if name in measured}
    figure, panels = plt.subplots(
        len(models), len(titles), figsize=(7.2, 0.9 + 1.75 * len(models)), sharex=True, sharey="col", squeeze=False
    )
    for row, model in zip(panels, models, strict=True):
        for axes, measure in zip(row, titles, strict=True):
            _panel(axes, measured[measure].sel(model=model))
        unsteered = level.sel(model=model, dose=0.0, end="middle")
        share = f"\n(share unsteered: {float(unsteered.shown[0]):.2f})" if "shown" in level else ""
        row[0].set_ylabel(f"{model}{share}")
    for axes, title in zip(panels[0], titles.values(), strict=True):
        axes.set_title(title)
    for axes in panels[-1]:
        axes.set_xlabel("dose (SD of the projection)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    config = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['scene']} test scenes (A and B), 95% CI over them; {config['sampling']} Euler"
        f" steps, steered after block {int(result.block[0])}; dotted: mean of {config['randoms']} random"
        " directions,\nmoved as far as the probe's or the means'; dashed: unsteered"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "steer", path)


def _panel(axes: Axes, ends: xr.DataArray) -> None:
    """A curve with its band for each kind of direction."""
    doses = ends.dose.values[np.isfinite(ends.dose.values)]
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    reach, pitch = doses.max() - doses.min(), len(LOOKS)
    beyond = doses.max() + 0.26 * reach
    looks = {kind: look for kind, look in LOOKS.items() if kind in ends.kind.values}
    for i, (kind, (colour, marker)) in enumerate(looks.items()):
        of_kind = ends.sel(kind=kind)
        middle, low, high = (of_kind.sel(end=end, dose=doses).values for end in ("middle", "low", "high"))
        axes.fill_between(doses, low, high, color=colour, alpha=0.15 if "-" in marker else 0.07, linewidth=0)
        axes.plot(doses, middle, marker, color=colour, markersize=2.8, linewidth=1, label=kind)
        if np.inf not in ends.dose.values:
            continue
        middle, low, high = (float(of_kind.sel(end=end, dose=np.inf)) for end in ("middle", "low", "high"))
        at = beyond + 0.04 * reach * (i - (pitch - 1) / 2)
        axes.vlines(at, low, high, color=colour, linewidth=1)
        axes.plot(at, middle, marker[0], color=colour, markerfacecolor="w", markersize=3.2)
    axes.axvline(doses.max() + 0.12 * reach, color="0.85", linewidth=0.6)
    ticks = [float(dose) for dose in doses if abs(dose) in (0, *doses[-2:])]
    axes.set_xticks([*ticks, beyond], [f"{dose:g}" for dose in ticks] + [ERASED])


if __name__ == "__main__":
    main("steer", draw)
