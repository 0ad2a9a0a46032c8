"""Which attention heads carry plausibility from one clip to another?

What: label effect (possible minus impossible clips) of each head, apart from that of content: patch_heads-*.nc with
effects (model, scene, pair, step, region, block, head, readout).
Why: a probe shows that plausibility can be decoded, not which components put it there. Patching is the causal test.
How: the z of one head is put from one clip of a scene into another (possible into impossible, and back), at all tokens
and at those of shared frames; effects are on a frozen probe's logit and on the velocity.
Controls: readouts of half the training scenes, class means, content and random directions; a clip with itself; A with
B; control models; the largest effect under flipped signs; heads ranked on half of the scenes, reported on the other.
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
