"""Integrated gradients on frames before and after the splice, and by frame: `python -m figures.attribute_pixels`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from dit_lens import plots, results
from dit_lens.measures.attributed_frames import by_frame
from figures.attributed_frames import draw_pair, draw_profiles, frames_drawn
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """For each pair its frames and the maps of both baselines; below, label effect by frame and model."""
    plots.use_style()
    pairs = result.sizes["shown"]
    figure = plt.figure(figsize=(7.2, 2.75 * pairs + 2.4))
    *above, below = np.asarray(figure.subfigures(pairs + 1, 1, height_ratios=[2.75] * pairs + [2.2]))
    for part, index in zip(above, range(pairs), strict=True):
        pair = result.isel(shown=index)
        frames = frames_drawn(result.sizes["frame"])
        draw_pair(part.subplots(2 + result.sizes["baseline"], len(frames), squeeze=False), pair, frames)
        part.suptitle(str(pair.shown.values), fontsize=8)
    panels = np.atleast_1d(below.subplots(1, result.sizes["baseline"], sharey=True))
    for axes, baseline in zip(panels, result.baseline.values, strict=True):
        effect = by_frame(result.sel(baseline=baseline))
        draw_profiles(axes, {str(m): effect.sel(model=m) for m in result.model.values}, result.splice.values, "frame")
        axes.set_title(f"baseline: {baseline}")
    panels[0].set_ylabel("label effect\n[probe SD]")
    panels[-1].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    config = results.facts(result)["config"]
    note = (
        f"n = {result.sizes['scene']} test scenes below, 95% CI; above, the pairs separated best, each on its own"
        f" scale; hatched: the clips\nare equal (0 by construction); red: from the break on; {result.model.values[0]},"
        f" probe after block {int(result.readout_block)}, {config['path']}, step {int(result.step)} (σ ="
        f" {float(result.sigma):.2f}); largest delta {float(result.delta.max()):.1g}"
    )
    below.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "attribute_pixels", path)


if __name__ == "__main__":
    main("attribute_pixels", draw)
