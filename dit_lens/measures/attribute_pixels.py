"""Measures of `analyses.attribute_pixels`: the frames of a clip that the probe's logit depends on."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import attributed_frames
from dit_lens.measures.attributed_frames import heading, lines_of, of_logit, short_table


def verdict(result: xr.Dataset) -> str:
    """How much of the label effect is attributed from the splice on."""
    return attributed_frames.verdict(result, "the pixels")


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model and baseline: label effects in all, before the splice and from there on; in full with the deltas."""
    lines = [f"{result.sizes['scene']} test scenes; label effects in probe SDs, [95% interval over scenes]"]
    if not full:
        return "\n".join([*lines, *short_table(result)])
    for model in result.model.values:
        of_model = result.sel(model=model)
        effect = of_logit(of_model.logit, of_model.probe_spread)
        lines += ["", f"{heading(of_model)}; label effect of the logit {effect}", *lines_of(of_model)]
    return "\n".join(lines)
