"""Integrated gradients on frames before and behind the splice, and by frame: `python -m figures.attribute_pixels`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from analyses.lines import by_frame
from dit_lens import plots, results
from figures.attributed_frames import draw_pair, draw_profiles
from figures.output import caption, save

TABLE = Path("figures/data/attribute_pixels.nc")
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
        draw_pair(part.subplots(2 + result.sizes["baseline"], len(frames), squeeze=False), here, frames)
        part.suptitle(str(here.shown.values), fontsize=8)
    panels = np.atleast_1d(below.subplots(1, result.sizes["baseline"], sharey=True))
    for axes, baseline in zip(panels, result.baseline.values, strict=True):
        here = by_frame(result.sel(baseline=baseline))
        draw_profiles(axes, {str(m): here.sel(model=m) for m in result.model.values}, result.splice.values, every=4)
        axes.set_xlabel("frame (red: the splice)")
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


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
