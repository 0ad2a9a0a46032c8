"""Which attention heads carry plausibility from one clip to another?

Why: a probe shows that plausibility can be decoded, not which components put it there. Patching is the causal test.

Method: the z of one head is taken from one clip of a scene and put into the forward of another (possible into
impossible, and back): at all tokens, and at the tokens of the frames that the two clips share. On the default path
these frames are kept clean and equal in both, bit for bit, so whatever a head writes there crossed the break, by this
head or an earlier one. Effects are measured on the logit of a linear probe for "possible" (on means by latent frame,
fitted on training scenes, after the block that those scenes choose, then frozen) and, for all tokens, on the velocity's
projection on v_clean - v_corrupted. Over the pairs of a scene, the label effect (possible minus impossible clips,
averaged over the pairs of a scene) is separated from the effect of content.

Controls, read in the same sweep: two probes fitted on one half of the training scenes each, and the difference of class
means (do the maps agree?); probes of content where the data have it (a head that moves these as much is not specific to
plausibility); random directions of the probe's length. A clip patched with itself; A with B, where everything differs
but the label; the same maps in control models. The largest effect over blocks, heads and steps is tested by flipping
the signs of whole scenes. Heads are ranked on half of the test scenes and reported on the other half.

Output: patch_heads-*.nc with effects (model, scene, pair, step, region, block, head, readout).

Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analyses.command import answer, asked
from dit_lens.studies import PatchStudy, Size


@dataclass(frozen=True)
class Config(PatchStudy):
    """Options of the analysis."""

    regions: tuple[Literal["all", "shared", "differs"], ...] = ("shared", "all")
    """Tokens to patch: all, those of frames that the pair shares, or those of frames in which it differs."""

    def places(self, size: Size) -> int:
        """Every head, in every region."""
        return size.blocks * size.heads * len(self.regions)


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens import patching
from dit_lens.lens import DiTLens
from dit_lens.studies.exchanges import Exchange, Metrics, measure


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `exchanges.measure`.

    Raises:
        ValueError: no regions, or what `measure` refuses.
    """
    if not config.regions:
        raise ValueError("got no --regions · expected one or more of all, shared, differs")

    def patch(lens: DiTLens, exchange: Exchange, steps: Sequence[int], metrics: Metrics) -> xr.Dataset:
        parts: list[xr.Dataset] = []
        for name in config.regions:
            measured = {key: metric for key, metric in metrics.items() if key == "logit" or name == "all"}
            region = {name: exchange.regions[name]}
            parts.append(
                patching.patch_heads(lens, exchange.clean, exchange.corrupted, steps, measured, regions=region)
            )
        return xr.concat(parts, "region", data_vars="all", join="outer", coords="minimal", compat="override")

    return measure(config, patch)


if CONFIG is not None:
    answer(CONFIG, run)
