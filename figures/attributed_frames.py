"""Frames of a pair of clips with attributions over them, and label-odd attribution frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analyses.lines import SHOWN
from dit_lens import stats

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: safe for the colour-blind
BEHIND = "#b2182b"


def draw_pair(panels: np.ndarray, here: xr.Dataset, frames: Sequence[int]) -> None:
    """Rows: the possible clip, the impossible one, and a map to a baseline over the possible clip in grey.

    Where the paired clips agree its map is hatched, 0 by construction.
    """
    possible, impossible = here.pixels.values
    maps = here.heat.transpose("baseline", "frame", "row", "column")
    reach = float(np.abs(maps.isel(frame=list(frames))).max())
    for column, frame in enumerate(frames):
        panels[0, column].imshow(possible[frame])
        panels[1, column].imshow(impossible[frame])
        panels[0, column].set_title(f"{frame}", fontsize=6, color="k" if frame < int(here.cut) else BEHIND)
        for row, values in enumerate(maps.values, start=2):
            hatched = str(maps.baseline.values[row - 2]) == "paired clip" and bool(here.shown_agree[frame])
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
    """Attribution in colour, the more opaque the larger, over the frame in pale grey; one value may cover pixels."""
    rows, columns = frame.shape[:2]
    whole = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    axes.imshow(0.55 + 0.45 * frame.mean(-1) / 255, vmin=0, vmax=1, cmap="gray")
    opaque = np.clip(np.abs(values) / limits[1] * 2, 0, 1)
    image = axes.imshow(
        values, vmin=limits[0], vmax=limits[1], cmap="RdBu_r", alpha=opaque, extent=whole, interpolation="nearest"
    )
    if hatched:
        size = {"width": columns, "height": rows}
        axes.add_patch(Rectangle((-0.5, -0.5), **size, facecolor="0.93", edgecolor="0.75", hatch="///", lw=0))
    return image


def draw_profiles(axes: Axes, profiles: Mapping[str, xr.DataArray], splices: np.ndarray, every: int = 1) -> None:
    """Profiles (quadruplet, frame) with intervals, in colour; those of random directions in grey.

    Args:
        splices: of the quadruplets; a red line where all are cut at one frame.
        every: so many frames have one tick.
    """
    colours = iter(COLOURS * len(profiles))
    for name, profile in profiles.items():
        seen = profile.transpose("quadruplet", "frame").values
        middle, low, high = stats.bootstrap_ratio(seen, np.ones_like(seen))
        frames, colour = np.arange(len(middle)), "0.6" if "random " in name else next(colours)
        axes.fill_between(frames, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(frames, middle, "o-", color=colour, markersize=2, linewidth=1, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    if len(np.unique(splices)) == 1:
        axes.axvline(splices[0] - 0.5, color=BEHIND, linewidth=0.8)
    axes.set_xticks(range(0, len(middle), every))
