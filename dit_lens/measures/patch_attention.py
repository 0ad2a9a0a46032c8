"""Measures of `analyses.patch_attention`: the parts of heads that carry plausibility."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import patching_report
from dit_lens.measures.patching_report import table as table


def verdict(result: xr.Dataset) -> str:
    """The head part with the largest label effect."""
    return patching_report.verdict(result, "head part", f" ({', '.join(map(str, result.part.values))})")
