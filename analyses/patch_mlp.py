"""Which layers bring plausibility, at which latent frames: attention or MLP?

Method: what a layer adds to the stream at the tokens of one latent frame is taken from another clip of the quadruplet.
Pairs, route, probe, controls and the split of effects by label and content are those of `patch_heads`.

Output: figures/data/patch_mlp.nc with effects (model, quadruplet, pair, step, write, block, frame, readout).
Cost: about four minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from analyses.command import main
from analyses.pairs import Exchange, Metrics, Options, measure
from analyses.pairs_table import table
from dit_lens.lens import DiTLens
from dit_lens.patching import frames_of, patch_writes


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    writes: tuple[str, ...] = ("attn_out", "mlp_out")
    """What a block adds to the stream."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        frames = lens.model.grid(exchange.clean[steps[0]]).frames
        found = patch_writes(lens, exchange.clean, exchange.corrupted, steps, metrics, config.writes, frames_of(frames))
        return found.rename(region="frame")

    return measure(config, patch)


if __name__ == "__main__":
    from figures.patch_mlp import draw

    main(Config, run, table, draw, "patch_mlp", __doc__)
