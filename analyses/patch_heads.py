"""Which attention heads carry plausibility from one clip to another?

Method: the first half of each clip is given clean, the second noised (noise spliced by half; `--path` takes the paper's
inversion instead). Every head's z of one clip of a quadruplet is put into the forward of another (possible into
impossible, and back), one head at a time: at all tokens, and at those of the half that the two clips share. There both
are fed the same, bit for bit, so what a head brings it or one before it fetched by attention across the splice.
Measured on the logit of a linear probe for "possible" (on means by latent frame, fitted on training scenes, at the
block those scenes choose, then frozen), and, for all tokens, on the velocity's projection on v_clean - v_corrupted
(which takes the run to its end). Over the eight pairs of a quadruplet, what follows the label (odd) is told from what
follows the content of either half.

Controls, read from the same sweep: two probes fitted on one half of the training scenes each, and the difference of
class means (do the maps agree?); probes of content (position, colour, background: a head that moves these as much is no
head of plausibility); random directions of the probe's length. A clip patched with itself; A with B, where all changes
but the label; the same maps on a twin that never saw lawful clips and on a random initialisation. The largest effect
over blocks, heads and steps is held against signs of whole quadruplets flipped. Heads are ranked on half the test
scenes and reported on the other.

Output: figures/data/patch_heads.nc with effects (model, quadruplet, pair, step, region, block, head, readout).
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from analyses import pairs_table
from analyses.command import main
from analyses.pairs import Exchange, Metrics, Options, measure
from dit_lens import patching
from dit_lens.lens import DiTLens


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    regions: tuple[Literal["all", "shared", "differs"], ...] = ("shared", "all")
    """At which tokens: all, those of the half that a pair shares, those of the half in which it differs."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`.

    Raises:
        ValueError: no regions, or what `pairs.measure` refuses.
    """
    if not config.regions:
        raise ValueError("got no regions · expected some of all, shared, differs")

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        told: list[xr.Dataset] = []
        for name in config.regions:
            asked = {key: metric for key, metric in metrics.items() if key == "logit" or name == "all"}
            where = {name: exchange.regions[name]}
            told.append(patching.patch_heads(lens, exchange.clean, exchange.corrupted, steps, asked, where))
        return xr.concat(told, "region", data_vars="all", join="outer", coords="minimal", compat="override")

    return measure(config, patch)


def table(result: xr.Dataset) -> str:
    """The table of all patches, region by region."""
    parts = [
        f"z patched at tokens of region {region!r}\n{pairs_table.table(result.sel(region=region))}"
        for region in result.region.values.tolist()
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    from figures.patch_heads import draw

    main(Config, run, table, draw, "patch_heads", __doc__)
