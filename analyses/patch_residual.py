"""Where in the stream does plausibility lie: in which latent frames, after which block?

What: label effect (possible minus impossible clips) by block and frame: patch_residual-*.nc with effects (model, scene,
pair, step, block, frame, readout).
Why: it locates the information before any component is blamed, and shows in which block it crosses the break.
How: the tokens of one latent frame at the input of a block are taken from another clip of the scene. Where a pair is
equal at the input, an effect in later blocks arrived by attention across the break.
Controls: those of `patch_heads`.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.command import answer, asked
from dit_lens.studies import PatchStudy, Size


@dataclass(frozen=True)
class Config(PatchStudy):
    """Options of the analysis."""

    def places(self, size: Size) -> int:
        """Some five latent frames before every block."""
        return size.blocks * 5


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens import patching
from dit_lens.lens import DiTLens
from dit_lens.studies.exchanges import Exchange, Metrics, measure


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `exchanges.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        frames = patching.frames_of(lens.model.grid(exchange.clean[steps[0]]).frames)
        effects = patching.patch_residual(lens, exchange.clean, exchange.corrupted, steps, metrics, regions=frames)
        return effects.rename(region="frame")

    return measure(config, patch)


if CONFIG is not None:
    answer(CONFIG, run)
