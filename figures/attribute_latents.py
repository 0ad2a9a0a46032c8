"""Integrated gradients over the noised latent, on frames and by latent frame: `python -m figures.attribute_latents`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from analyses.lines import by_frame
from dit_lens import plots, results
from figures.attributed_frames import draw_pair, draw_profiles
from figures.output import caption, save

TABLE = Path("figures/data/attribute_latents.nc")


def draw(result: xr.Dataset) -> Path:
    """Side by side pairs with a map to a baseline; below, label-odd attribution by latent frame and model."""
    plots.use_style()
    pairs, baselines = result.sizes["shown"], [str(name) for name in result.baseline.values]
    figure = plt.figure(figsize=(max(7.2, 3.9 * pairs), 0.54 * (2 + len(baselines)) + 3.2))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[0.54 * (2 + len(baselines)) + 0.6, 2.6]))
    for index, part in enumerate(np.atleast_1d(above.subfigures(1, pairs))):
        here = result.isel(shown=index)
        frames = range(result.sizes["frame"])
        draw_pair(part.subplots(2 + len(baselines), len(frames), squeeze=False), here, frames)
        part.suptitle(str(here.shown.values), fontsize=8)
    panels = np.atleast_1d(below.subplots(1, len(baselines), sharey=True))
    for axes, baseline in zip(panels, baselines, strict=True):
        draw_profiles(axes, profiles(result.sel(baseline=baseline)), result.splice.values)
        axes.set_xlabel("latent frame (red: the splice)")
        axes.set_title(f"baseline: {baseline}")
    panels[0].set_ylabel("label-odd attribution\n[probe SD]")
    panels[-1].legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    below.supxlabel(caption(result, _note(result)), fontsize=6, color="0.35")
    return save(figure, "attribute_latents")


def profiles(here: xr.Dataset) -> dict[str, xr.DataArray]:
    """Of one baseline (quadruplet, frame) by name: the probe in all models, random directions in the first."""
    told = by_frame(here)
    models, (_, *random) = [str(model) for model in told.model.values], told.direction.values
    named = {model: told.sel(model=model, direction="probe") for model in models}
    return named | {f"{models[0]}, {name}": told.sel(model=models[0], direction=name) for name in random}


def _note(result: xr.Dataset) -> str:
    made = results.facts(result)["config"]
    return (
        f"n = {result.sizes['quadruplet']} test quadruplets below, 95% CI; above, the pairs told best, each on its own"
        " scale, over the last frame of each latent one;\nhatched: the latents agree (0 by construction); how clips"
        f" got to the latent ({made['path']}) is held fixed; {result.model.values[0]}, probe of block"
        f" {int(result.readout_block)}'s output,\nstep {made['step']} (σ = {float(result.sigma):.2f}); largest delta"
        f" {float(result.delta.max()):.1g}"
    )


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
