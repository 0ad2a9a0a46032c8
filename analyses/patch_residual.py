"""Where in the stream does plausibility lie: in which latent frames, behind which block?

Method: the tokens of one latent frame that enter a block are taken from another clip of the quadruplet, frame by frame.
Pairs, route, probe, controls and the split of effects by label and content are those of `patch_heads`.
In a pair that shares a half, what enters block 0 is the same on that half (spliced noise): an effect of its frames in
later blocks arrived by attention across the splice. On the differing half a patch early on merely restores the input.

Output: figures/data/patch_residual.nc with effects (model, quadruplet, pair, step, block, frame).
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from analyses.command import main
from analyses.pairs import Evaluations, Options, measure, table
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.patching import frames_of, patch_residual


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`."""

    def patch(
        lens: DiTLens, clean: Evaluations, corrupted: Evaluations, steps: Sequence[int], metrics: Mapping[str, Metric]
    ) -> xr.Dataset:
        frames = lens.model.grid(clean[steps[0]]).frames
        found = patch_residual(lens, clean, corrupted, steps, metrics, frames_of(frames))
        return found.rename(region="frame")

    return measure(config, patch)


if __name__ == "__main__":
    from figures.patch_residual import draw

    main(Config, run, table, draw, "patch_residual", __doc__)
