"""Integrated gradients on frames before and behind the splice, and by frame: `python -m figures.attribute_pixels`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analyses.attribute_pixels import SHOWN, by_frame
from dit_lens import plots, results, stats
from figures.output import caption, save

TABLE = Path("figures/data/attribute_pixels.nc")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
FRAMES = 9  # drawn of a clip, evenly


def draw(result: xr.Dataset) -> Path:
    """For each pair its frames and the maps of both baselines; below, label-odd attribution by frame and model."""
    plots.use_style()
    pairs = result.sizes["shown"]
    figure = plt.figure(figsize=(7.2, 2.75 * pairs + 2.4))
    *above, below = np.asarray(figure.subfigures(pairs + 1, 1, height_ratios=[2.75] * pairs + [2.2]))
    for part, index in zip(above, range(pairs), strict=True):
        here = result.isel(shown=index)
        frames = np.linspace(0, result.sizes["frame"] - 1, FRAMES).round().astype(int).tolist()
        _pair(part.subplots(2 + result.sizes["baseline"], len(frames), squeeze=False), here, frames)
        part.suptitle(str(here.shown.values), fontsize=8)
    panels = np.atleast_1d(below.subplots(1, result.sizes["baseline"], sharey=True))
    for axes, baseline in zip(panels, result.baseline.values, strict=True):
        _by_frame(axes, result.sel(baseline=baseline))
        axes.set_title(f"baseline: {baseline}")
    panels[0].set_ylabel("label-odd attribution\n[probe SD]")
    panels[-1].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    made = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['quadruplet']} test quadruplets below, 95% CI; above, the pairs told best, each on its own"
        " scale; hatched: the clips\nagree (0 by construction); red: from the splice on;"
        f" {result.model.values[0]}, probe of block {int(result.readout_block)}'s output, {made['path']}, step"
        f" {made['step']} (σ = {float(result.sigma):.2f}); largest delta {float(result.delta.max()):.1g}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_pixels")


def _pair(panels: np.ndarray, here: xr.Dataset, frames: list[int]) -> None:
    """Rows: the possible clip, the impossible one, and a map to a baseline over the possible clip in grey."""
    possible, impossible = here.pixels.values
    same = (possible == impossible).all((1, 2, 3))
    maps = here.heat.transpose("baseline", "frame", "row", "column")
    reach = float(np.abs(maps.isel(frame=frames)).max())
    for column, frame in enumerate(frames):
        panels[0, column].imshow(possible[frame])
        panels[1, column].imshow(impossible[frame])
        panels[0, column].set_title(f"{frame}", fontsize=6, color="k" if frame < int(here.cut) else "#b2182b")
        for row, values in enumerate(maps.values, start=2):
            hatched = row == 2 and bool(same[frame])
            image = _overlay(panels[row, column], possible[frame], values[frame], (-reach, reach), hatched)
    names = [f"possible ({SHOWN[0]})", f"impossible ({SHOWN[1]})", *(f"from\n{name}" for name in maps.baseline.values)]
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=6, rotation=0, ha="right", va="center")
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0, 0].figure.colorbar(image, ax=panels[2:], label="logit", shrink=0.9, aspect=12)


def _overlay(
    axes: Axes, frame: np.ndarray, values: np.ndarray, limits: tuple[float, float], hatched: bool
) -> AxesImage:
    """Attribution in colour, the more opaque the larger, over the frame in pale grey."""
    axes.imshow(0.55 + 0.45 * frame.mean(-1) / 255, vmin=0, vmax=1, cmap="gray")
    opaque = np.clip(np.abs(values) / limits[1] * 2, 0, 1)
    image = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap="RdBu_r", alpha=opaque)
    if hatched:
        rows, columns = values.shape
        size = {"width": columns, "height": rows}
        axes.add_patch(Rectangle((-0.5, -0.5), **size, facecolor="0.93", edgecolor="0.75", hatch="///", lw=0))
    return image


def _by_frame(axes: Axes, here: xr.Dataset) -> None:
    """Every model's profile over frames, with its interval."""
    for i, model in enumerate(here.model.values):
        seen = by_frame(here.sel(model=model)).transpose("quadruplet", "frame").values
        middle, low, high = stats.bootstrap_ratio(seen, np.ones_like(seen))
        frames, colour = np.arange(len(middle)), COLOURS[i % len(COLOURS)]
        axes.fill_between(frames, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(frames, middle, "o-", color=colour, markersize=2, linewidth=1, label=str(model))
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    splices = np.unique(here.splice)
    if len(splices) == 1:
        axes.axvline(splices[0] - 0.5, color="#b2182b", linewidth=0.8)
    axes.set_xticks(range(0, here.sizes["frame"], 4))
    axes.set_xlabel("frame (red: the splice)")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
