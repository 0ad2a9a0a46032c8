"""Frames of a pair of clips with attributions over them, and label effects frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from dit_lens.measures.attributed_frames import SHOWN
from dit_lens.measures.labels import mean_interval
from dit_lens.plots import COLOURS

AFTER = "#b2182b"  # the splice
FRAMES = 9  # drawn of a clip, evenly


def frames_drawn(count: int) -> list[int]:
    """Indices of the frames to draw of a clip of `count` frames."""
    return np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int).tolist()


def draw_pair(panels: np.ndarray, here: xr.Dataset, frames: Sequence[int]) -> None:
    """Rows: the possible clip, the impossible one, and one map per baseline over the possible clip in grey.

    Where the paired clips agree its map is hatched, 0 by construction.
    """
    possible, impossible = here.pixels.values
    maps = here.heat.transpose("baseline", "frame", "row", "column")
    reach = float(np.abs(maps.isel(frame=list(frames))).max())
    for column, frame in enumerate(frames):
        panels[0, column].imshow(possible[frame])
        panels[1, column].imshow(impossible[frame])
        panels[0, column].set_title(f"{frame}", fontsize=6, color=AFTER if frame >= float(here.cut) else "k")
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
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    axes.imshow(0.55 + 0.45 * frame.mean(-1) / 255, vmin=0, vmax=1, cmap="gray")
    opaque = np.clip(np.abs(values) / limits[1] * 2, 0, 1)
    image = axes.imshow(
        values, vmin=limits[0], vmax=limits[1], cmap="RdBu_r", alpha=opaque, extent=extent, interpolation="nearest"
    )
    if hatched:
        size = {"width": columns, "height": rows}
        axes.add_patch(Rectangle((-0.5, -0.5), **size, facecolor="0.93", edgecolor="0.75", hatch="///", lw=0))
    return image


def draw_profiles(axes: Axes, profiles: Mapping[str, xr.DataArray], splices: np.ndarray, label: str) -> None:
    """Profiles (scene, frame) with intervals, in colour; those of random directions in grey.

    Args:
        splices: of the scenes; a red line where all are cut at one frame.
        label: what a frame is called.
    """
    colours = iter(COLOURS * len(profiles))
    for name, profile in profiles.items():
        middle, low, high = mean_interval(profile.transpose("scene", "frame"))
        frames, colour = np.arange(len(middle)), "0.6" if "random " in name else next(colours)
        axes.fill_between(frames, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(frames, middle, "o-", color=colour, markersize=2, linewidth=1, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    same_splice = len(np.unique(splices)) == 1 and bool(np.isfinite(splices[0]))
    if same_splice:
        axes.axvline(splices[0] - 0.5, color=AFTER, linewidth=0.8)
    axes.set_xlabel(f"{label} (red: the break)" if same_splice else label)
    axes.set_xticks(range(0, len(middle), max(1, len(middle) // 4)))
