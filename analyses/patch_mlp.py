"""Which layers carry plausibility, at which latent frames: attention or MLP?

What: label effect (possible minus impossible clips) of each layer by frame: patch_mlp-*.nc with effects (model, scene,
pair, step, write, block, frame, readout).
Why: heads move information between frames, MLPs compute within a token. Patching both in one unit, by frame, compares
them.
How: what a layer adds to the stream at the tokens of one latent frame is taken from another clip of the scene. Pairs,
path and probe are those of `patch_heads`.
Controls: those of `patch_heads`.
Cost: about four minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.command import answer, asked
from dit_lens.studies import PatchStudy, Size


@dataclass(frozen=True)
class Config(PatchStudy):
    """Options of the analysis."""

    writes: tuple[str, ...] = ("attn_out", "mlp_out")
    """Which writes of a block to patch."""

    def places(self, size: Size) -> int:
        """Every write of every block, at some five latent frames."""
        return size.blocks * len(self.writes) * 5


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens.lens import DiTLens
from dit_lens.patching import frames_of, patch_writes
from dit_lens.studies.exchanges import Exchange, Metrics, measure


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `exchanges.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        frames = frames_of(lens.model.grid(exchange.clean[steps[0]]).frames)
        effects = patch_writes(
            lens, exchange.clean, exchange.corrupted, steps, metrics, writes=config.writes, regions=frames
        )
        return effects.rename(region="frame")

    return measure(config, patch)


if CONFIG is not None:
    answer(CONFIG, run)
