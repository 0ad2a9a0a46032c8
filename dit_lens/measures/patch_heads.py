"""Measures of `analyses.patch_heads`: the attention heads that carry plausibility from one clip to another."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import patching_report

WHERE = {"shared": "the half that both clips share", "differs": "the half in which they differ", "all": "all tokens"}


def verdict(result: xr.Dataset) -> str:
    """The verdict on the first requested region of tokens."""
    region = str(result.region.values[0])
    return patching_report.verdict(
        result.isel(region=0, drop=True), "head", f", patched at {WHERE.get(region, region)},"
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """The table of all patches, region by region; of the first alone unless in full."""
    regions = result.region.values.tolist()
    parts = [
        f"z patched at tokens of region {region!r}\n{patching_report.table(result.sel(region=region), full)}"
        for region in (regions if full else regions[:1])
    ]
    return "\n\n".join(parts)
