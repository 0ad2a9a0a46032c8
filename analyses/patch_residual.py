"""Where in the stream does plausibility lie: in which latent frames, behind which block?

Method: the tokens of one latent frame that enter a block are taken from another clip of the quadruplet, frame by frame.
Pairs, route, probe, controls and the split of effects by label and content are those of `patch_heads`.
In a pair that shares a half, what enters block 0 is the same on that half (spliced noise): an effect of its frames in
later blocks arrived by attention across the splice. On the differing half a patch early on merely restores the input.

Output: figures/data/patch_residual.nc with effects (model, quadruplet, pair, step, block, frame, readout).
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analyses import pairs_table
from analyses.command import main
from analyses.frozen_probe import interval
from analyses.pairs import Exchange, Metrics, Options, label_odd, measure, of_probe
from dit_lens.clips import Half
from dit_lens.lens import DiTLens
from dit_lens.patching import frames_of, patch_residual

FEWEST = 3  # quadruplets in which an object is hidden in a frame, for an interval to say something


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        frames = lens.model.grid(exchange.clean[steps[0]]).frames
        found = patch_residual(lens, exchange.clean, exchange.corrupted, steps, metrics, frames_of(frames))
        return found.rename(region="frame")

    return measure(config, patch)


def by_sharing(result: xr.Dataset) -> dict[str, xr.DataArray]:
    """Label-odd effects (quadruplet, ...) of each frame over the pairs that share it, and over the others.

    Beside it those of all pairs where an object is hidden in some clip of the quadruplet, NaN elsewhere.
    """
    odd: dict[Half, xr.DataArray] = {half: label_odd(result, half) for half in ("first", "second")}
    early = xr.DataArray(np.arange(result.sizes["frame"]) < int(result.given), dims="frame")
    found = {
        "frame shared": xr.where(early, odd["first"], odd["second"]),
        "frame differs": xr.where(early, odd["second"], odd["first"]),
    }
    return found if "hidden" not in result else found | {"object hidden": label_odd(result).where(result.hidden)}


def table(result: xr.Dataset) -> str:
    """The table of all patches, and block by block the frame with the largest effect, shared or not."""
    lines = [
        pairs_table.table(result),
        "",
        f"mean over {result.sizes['quadruplet']} test quadruplets, largest frame by block",
    ]
    for label, odd in by_sharing(of_probe(result)).items():
        for model in result.model.values:
            here = odd.sel(model=model).isel(step=0).transpose("quadruplet", "block", "frame").values
            known = np.isfinite(here).sum(0)
            mean = np.nan_to_num(here).sum(0) / np.where(known >= FEWEST, known, np.nan)
            told = []
            for block in np.flatnonzero(np.isfinite(mean).any(1)):
                frame = int(np.nanargmax(np.abs(mean[block])))
                cell = here[np.isfinite(here[:, block, frame]), block, frame]
                told.append(f"block {block} frame {frame} {interval(cell, np.ones_like(cell))} (n = {len(cell)})")
            lines.append(f"  {label:14}{model!s:18}" + "   ".join(told))
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.patch_residual import draw

    main(Config, run, table, draw, "patch_residual", __doc__)
