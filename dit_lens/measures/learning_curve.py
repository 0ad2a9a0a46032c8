"""Measures of probes over the number of training scenes, by model and readout."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import mean_interval
from dit_lens.measures.probe_blocks import READOUTS, correct
from dit_lens.measures.selection import counted
from dit_lens.stats import DIFFERENCE

CHANCE = 0.5


def scores(result: xr.Dataset) -> xr.Dataset:
    """Every measure of `stats.Separation` by model, readout and size; each group of test scenes counts once.

    The draws of a size are further scenes of the same groups, so that all is averaged over draws. d' is that of the
    averaged effects.
    """
    places = {dim: result[dim].values for dim in ("model", "readout", "size")}
    shape = tuple(len(values) for values in places.values())
    rows = [_measured(result.logit.sel(dict(zip(places, place, strict=True)))) for place in product(*places.values())]
    values = {key: (tuple(places), np.array([row[key] for row in rows]).reshape(shape)) for key in rows[0]}
    return xr.Dataset(values, places)


def _measured(logit: xr.DataArray) -> dict[str, float | str]:
    """Every measure of the logits (draw, scene, role)."""
    if "group" not in logit.coords:
        logit = logit.assign_coords(group=("scene", np.arange(logit.sizes["scene"])))
    draws: list[xr.DataArray] = [logit.isel(draw=i, drop=True) for i in range(logit.sizes["draw"])]
    return side_by_side.numbers(side_by_side.of_table(xr.concat(draws, "scene")))


def gain(result: xr.Dataset, model: str, readout: str) -> Estimate | None:
    """How much accuracy the last step in size adds, paired by test scene; None of a single size."""
    if result.sizes["size"] < 2:
        return None
    right = correct(result.logit.sel(model=model, readout=readout)).mean("draw", skipna=False).sortby("size")
    change = right.isel(size=-1, drop=True) - right.isel(size=-2, drop=True)
    return Estimate(model, *(float(x) for x in mean_interval(change, DIFFERENCE)))


def estimate(measured: xr.Dataset, model: str, readout: str) -> Estimate:
    """Accuracy at the largest size."""
    row = measured.sel(model=model, readout=readout).sortby("size").isel(size=-1)
    return Estimate(model, float(row.accuracy), float(row.low), float(row.high))


def verdict(result: xr.Dataset) -> str:
    """By readout: the accuracy that all training scenes give, whether more would add to it, and the control models."""
    measured, (lead, *controls) = scores(result), [str(model) for model in result.model.values]
    return " ".join(_sentence(result, measured, lead, controls, str(readout)) for readout in result.readout.values)


def _sentence(result: xr.Dataset, measured: xr.Dataset, lead: str, controls: list[str], readout: str) -> str:
    accuracy, added = estimate(measured, lead, readout), gain(result, lead, readout)
    *earlier, largest = (int(size) for size in sorted(result["size"].values))
    text = (
        f"A linear probe on {READOUTS[readout]} of {lead}, fitted on {largest} training scenes, separates possible from"
        f" impossible clips with an accuracy of {accuracy.number()} per clip (n = {counted(result)})"
    )
    if added is not None:
        grows = "it is still growing" if added.low > 0 else "no growth is measurable"
        text += f"; from {earlier[-1]} scenes on it gains {added.number(signed=True)}: {grows}"
    return f"{text}. {conclusion(accuracy, [estimate(measured, name, readout) for name in controls], CHANCE)}"


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per model and number of training scenes, by readout; of control models the largest number, unless full."""
    measured, (lead, *controls) = scores(result), [str(model) for model in result.model.values]
    sizes = sorted(int(size) for size in result["size"].values)
    lines = [
        f"probes on {counted(result)}, averaged over {result.sizes['draw']} draws of training scenes; cell and penalty"
        " chosen inside each draw (95% intervals over test scenes)",
        side_by_side.LEGEND,
    ]
    for readout in result.readout.values:
        rows = [[f"{READOUTS[str(readout)]}", "scenes", *side_by_side.HEADS]]
        for model in (lead, *controls):
            for size in sizes if full or model == lead else sizes[-1:]:
                row = measured.sel(model=model, readout=readout, size=size)
                rows.append([model, f"{size}", *side_by_side.cells(row)])
        lines += ["", *aligned(rows)]
    lines += side_by_side.notes(measured)
    return "\n".join(lines if full or not controls else [*lines, "(--full: controls at every number of scenes)"])
