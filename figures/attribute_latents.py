"""Integrated gradients over the noised latent, on frames and by latent frame: `python -m figures.attribute_latents`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from dit_lens import plots, results
from dit_lens.measures.attribute_latents import profiles
from figures.attributed_frames import draw_pair, draw_profiles, frames_drawn
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Side by side pairs with one map per baseline; below, label effect by latent frame and model."""
    plots.use_style()
    pairs, baselines = result.sizes["shown"], [str(name) for name in result.baseline.values]
    figure = plt.figure(figsize=(max(7.2, 3.9 * pairs), 0.54 * (2 + len(baselines)) + 3.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[0.54 * (2 + len(baselines)) + 0.6, 2.6]))
    for index, part in enumerate(np.atleast_1d(above.subfigures(1, pairs))):
        pair = result.isel(shown=index)
        frames = frames_drawn(result.sizes["frame"])
        draw_pair(part.subplots(2 + len(baselines), len(frames), squeeze=False), pair, frames)
        part.suptitle(str(pair.shown.values), fontsize=8)
    panels = np.atleast_1d(below.subplots(1, len(baselines), sharey=True))
    for axes, baseline in zip(panels, baselines, strict=True):
        draw_profiles(axes, profiles(result.sel(baseline=baseline)), result.splice.values, "latent frame")
        axes.set_title(f"baseline: {baseline}")
    panels[0].set_ylabel("label effect\n[probe SD]")
    panels[-1].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    below.supxlabel(caption(result, _note(result)), fontsize=6, color="0.35")
    return save(figure, "attribute_latents", path)


def _note(result: xr.Dataset) -> str:
    config = results.facts(result)["config"]
    return (
        f"n = {result.sizes['scene']} test scenes below, 95% CI; above, the pairs separated best, each on its own"
        " scale, over the last frame of each latent one;\nhatched: the latents agree (0 by construction); how clips"
        f" got to the latent ({config['path']}) is held fixed; {result.model.values[0]}, probe of block"
        f" {int(result.readout_block)},\nstep {int(result.step)} (σ = {float(result.sigma):.2f});"
        f" largest delta {float(result.delta.max()):.1g}"
    )


if __name__ == "__main__":
    main("attribute_latents", draw)
