"""Measures of `analyses.patch_mlp`: the layers that carry plausibility, by latent frame."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import patching_report
from dit_lens.measures.patching_report import table as table


def verdict(result: xr.Dataset) -> str:
    """The write (layer, block and frame) with the largest label effect."""
    return patching_report.verdict(
        result, "place", f" ({', '.join(map(str, result.write.values))}, by block and frame)"
    )
