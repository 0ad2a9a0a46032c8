"""Measures of `analyses.patch_residual`: the latent frames that carry plausibility, by block."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import patching_report, text
from dit_lens.measures.labels import rows
from dit_lens.measures.patching import label_effect_of_pairs, of_probe

FEWEST = 3  # groups of scenes in which an object is hidden in a frame, for an interval to say something


def by_sharing(result: xr.Dataset) -> dict[str, xr.DataArray]:
    """Label effects (scene, ...) of each frame over the pairs that share it, and over those that differ in it.

    Which pairs share a frame follows from the scene's own splice (`given`, latent frames before it); where that is
    unknown, all pairs may differ everywhere. If the result has the frames in which an object is `hidden`, also the
    effects of all pairs there, NaN elsewhere.
    """
    first, second = (label_effect_of_pairs(result, half) for half in ("first", "second"))
    frames = xr.DataArray(np.arange(result.sizes["frame"]), dims="frame")
    early, has_splice = frames < result.given, result.given.notnull()
    effects = {
        "frame shared": xr.where(early, first, second).where(has_splice),
        "frame differs": xr.where(early, second, first).where(has_splice, label_effect_of_pairs(result)),
    }
    hidden = {"object hidden": label_effect_of_pairs(result).where(result.hidden)} if "hidden" in result else {}
    return effects | hidden


def verdict(result: xr.Dataset) -> str:
    """The frame and block with the largest label effect."""
    return patching_report.verdict(result, "place", " (a latent frame entering a block)")


def table(result: xr.Dataset, full: bool = False) -> str:
    """The table of all patches; in full also, block by block, the frame with the largest effect, shared or not."""
    lines = [patching_report.table(result, full)]
    if not full:
        return lines[0]
    lines += ["", f"mean over {result.sizes['scene']} test scenes, largest frame by block"]
    for label, effect in by_sharing(of_probe(result)).items():
        for model in result.model.values:
            of_model = effect.sel(model=model).isel(step=0)
            lines.append(f"  {label:14}{model!s:18}" + "   ".join(_largest_frames(of_model)))
    return "\n".join(lines)


def _largest_frames(effect: xr.DataArray) -> list[str]:
    """For each block the frame with the largest mean over the scenes that have it, with n."""
    values = rows(effect.transpose("scene", "block", "frame"))
    counts = np.isfinite(values).sum(0)
    mean = np.nan_to_num(values).sum(0) / np.where(counts >= FEWEST, counts, np.nan)
    entries = list[str]()
    for block in np.flatnonzero(np.isfinite(mean).any(1)):
        frame = int(np.nanargmax(np.abs(mean[block])))
        cell = effect.isel(block=block, frame=frame).dropna("scene")
        interval = text.signed_mean(cell)
        entries.append(f"block {block} frame {frame} {interval} (n = {counts[block, frame]})")
    return entries
