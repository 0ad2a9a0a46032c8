"""Label effects of attributions by frame, before the splice of each scene and from there on.

Results have `by_frame` (model, baseline, scene, frame), label effects of attributions, and each scene's own `splice`:
the frame at which its second half begins, NaN where unknown.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import label_effect, mean_interval

SHOWN = "AC"  # the pair whose maps are drawn: possible, impossible
HEADINGS = ("baseline", "all frames", "before the break", "from the break on")


def by_frame(result: xr.Dataset) -> xr.DataArray:
    """Label effect of the attribution of each frame, in probe SDs."""
    return result.by_frame / result.probe_spread


def parts(here: xr.Dataset) -> dict[str, xr.DataArray]:
    """Label effects (scene, ...) summed over all frames, over those before each scene's splice, and over the others.

    The last two are NaN where the splice is unknown.
    """
    frames = by_frame(here)
    splice, number = here.splice, xr.DataArray(np.arange(frames.sizes["frame"]), dims="frame")
    has_splice = splice.notnull()
    return {
        "all frames": frames.sum("frame", skipna=False),
        "before the break": frames.where(number < splice, 0.0).sum("frame", skipna=False).where(has_splice),
        "from the break on": frames.where(number >= splice, 0.0).sum("frame", skipna=False).where(has_splice),
    }


def of_logit(logit: xr.DataArray, spread: xr.DataArray) -> str:
    """Label effect of logits (scene, role) in probe SDs, with its interval."""
    return text.signed_mean(label_effect(logit) / spread)


def integral_of(here: xr.Dataset, name: str) -> str:
    """One line of a table: the label effect in all, before the splice and from there on, and the largest delta."""
    cells = "   ".join(text.signed_mean(part) for part in parts(here).values())
    return f"  {name:16s}  {cells}   largest delta {float(here.delta.max()):.1g}"


def verdict(result: xr.Dataset, what: str) -> str:
    """How much of the label effect is attributed from the break on, and to how much it adds up in the controls.

    Args:
        result: along the probe.
        what: the input that is attributed, such as "the pixels".
    """
    model, *controls = map(str, result.model.values)
    of_model = result.sel(model=model).isel(baseline=0)
    intervals = [text.signed_mean(part) for part in parts(of_model).values()]
    size, split = result.sizes["scene"], ""
    if bool(result.splice.notnull().any()):
        split = f", of which {intervals[2]} from the break on and {intervals[1]} before"
    in_controls = {control: _in_control(result.sel(model=control).isel(baseline=0)) for control in controls}
    return (
        f"Integrated gradients over {what}, from the {of_model.baseline.item()} baseline: the {text.LABEL_EFFECT} of"
        f" the logit of {model}'s probe adds up to {intervals[0]} probe SD (n = {size} test scenes){split}."
        f" {text.in_controls(in_controls)}"
    )


def _in_control(result: xr.Dataset) -> str:
    return text.signed_mean(parts(result)["all frames"])


def short_table(result: xr.Dataset) -> list[str]:
    """Label effects by model and baseline, along the probe."""
    rows: list[tuple[str, ...]] = [("model", *HEADINGS)]
    for model in map(str, result.model.values):
        for baseline in map(str, result.baseline.values):
            cells = (mean_interval(part) for part in parts(result.sel(model=model, baseline=baseline)).values())
            rows.append((model, baseline, *(text.interval(*cell, signed=True) for cell in cells)))
    return aligned(rows)


def heading(here: xr.Dataset) -> str:
    """Noise level and readout block of one model, and the accuracy of its probe."""
    accuracy = float(here.train_accuracy.sel(depth=int(here.readout_block)))
    return (
        f"{here.model.item()}, sigma {float(here.sigma):.2f}, probe after block {int(here.readout_block)}:"
        f" {accuracy:.3f} out of fold on training scenes"
    )


def lines_of(here: xr.Dataset) -> list[str]:
    """The baselines of one model, under their headings."""
    names = map(str, here.baseline.values)
    return [
        "  baseline          all frames                 before the break           from the break on",
        *(integral_of(here.sel(baseline=name), name) for name in names),
    ]
