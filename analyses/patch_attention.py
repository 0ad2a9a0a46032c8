"""Through which part of a head does plausibility come: its queries, keys, values or pattern?

Method: one part of one head is taken from another clip of the quadruplet, the others stay. z is all of them together.
Pairs, route, probe, controls and the split of effects by label and content are those of `patch_heads`.

Output: figures/data/patch_attention.nc with effects (model, quadruplet, pair, step, part, block, head, readout).
Cost: about five minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from analyses.command import main
from analyses.pairs import Exchange, Metrics, Options, measure
from analyses.pairs_table import table
from dit_lens.lens import DiTLens
from dit_lens.patching import patch_attention


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    parts: tuple[str, ...] = ("q", "k", "v", "pattern", "z")
    """Short names of attention hook points."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        return patch_attention(lens, exchange.clean, exchange.corrupted, steps, metrics, config.parts)

    return measure(config, patch)


if __name__ == "__main__":
    from figures.patch_attention import draw

    main(Config, run, table, draw, "patch_attention", __doc__)
