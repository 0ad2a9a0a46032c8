"""Which part of a head carries plausibility: its queries, keys, values or pattern?

What: label effect (possible minus impossible clips) of each part of each head: patch_attention-*.nc with effects
(model, scene, pair, step, part, block, head, readout).
Why: `patch_heads` names heads; this says whether a head matters by where it attends (queries, keys, pattern) or by what
it moves (values).
How: one part of one head is taken from another clip of the scene, the other parts stay; z is all of them together.
Pairs, path and probe are those of `patch_heads`.
Controls: those of `patch_heads`.
Cost: about five minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.command import answer, asked
from dit_lens.studies import PatchStudy, Size


@dataclass(frozen=True)
class Config(PatchStudy):
    """Options of the analysis."""

    parts: tuple[str, ...] = ("q", "k", "v", "pattern", "z")
    """Parts of a head to patch, by the short names of their hook points."""

    def places(self, size: Size) -> int:
        """Every part of every head."""
        return size.blocks * size.heads * len(self.parts)


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens import patching
from dit_lens.lens import DiTLens
from dit_lens.studies.exchanges import Exchange, Metrics, measure


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `exchanges.measure`."""

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        return patching.patch_attention(lens, exchange.clean, exchange.corrupted, steps, metrics, parts=config.parts)

    return measure(config, patch)


if CONFIG is not None:
    answer(CONFIG, run)
