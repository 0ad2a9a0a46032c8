"""Dose-response of steering: how often the possible outcome is seen, how much nearer it comes, and the damage."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from dit_lens.measures.columns import aligned
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.know_and_show import shown
from dit_lens.measures.labels import mean_interval
from dit_lens.measures.selection import counted
from dit_lens.measures.text import interval
from dit_lens.stats import DIFFERENCE, SHARE

FITTED, ERASED = ("probe", "difference of means"), "erased"
MEASURES = ("shown", "nearer", "damage")
END = xr.Variable("end", ["middle", "low", "high"])


def as_far_as(name: str) -> str:
    """Name of the random directions with steps of the same length as those along a given direction."""
    return f"random, as {name}"


def responses(result: xr.Dataset) -> xr.Dataset:
    """Responses of each scene (model, kind, dose, scene): `shown`, `nearer` and `damage`; random directions averaged.

    `shown` is the share of its continuations in which the tracker sees the possible outcome (left out where there was
    no tracker); `nearer` how much the margin of the latent has grown from the unsteered one's. The last dose, infinite,
    is the direction erased.
    """
    values = result["values"]
    if "erased" in result:
        values = xr.concat([values, result.erased.expand_dims(dose=[np.inf])], "dose")
    latent = values.sel(measure="latent", drop=True)
    parts = {"shown": shown(values.sel(measure="tracker", drop=True))} if "tracker" in result.measure.values else {}
    parts |= {"nearer": latent - latent.sel(dose=0.0, drop=True), "damage": values.sel(measure="damage", drop=True)}
    kinds = [re.sub(r" \d+$", "", str(name)) for name in result.direction.values]
    by_direction = xr.Dataset(parts).mean("pair").assign_coords(direction=kinds)
    return by_direction.groupby("direction").mean().rename(direction="kind")


def scores(result: xr.Dataset, change: bool = False) -> xr.Dataset:
    """Means of `responses` (end, model, kind, dose) with their 95% intervals; end is "middle", "low" or "high".

    Args:
        change: of the share shown, from the unsteered continuation's.
    """
    values_by_scene = responses(result)
    if change and "shown" in values_by_scene:
        values_by_scene["shown"] = values_by_scene.shown - values_by_scene.shown.sel(dose=0.0, drop=True)
    bounds = {"shown": DIFFERENCE if change else SHARE}
    ends: dict[str, xr.DataArray] = {}
    for name in values_by_scene.data_vars:
        values = values_by_scene[name].transpose("scene", "model", "kind", "dose")
        cell = values.isel(scene=0, drop=True)
        ends[str(name)] = xr.concat(
            [cell.copy(data=part) for part in mean_interval(values, bounds.get(str(name)))], END
        )
    return xr.Dataset(ends)


def estimate(ends: xr.DataArray, name: str) -> Estimate:
    """A value with its interval, of (end)."""
    return Estimate(name, *(float(ends.sel(end=end)) for end in END.values))


def verdict(result: xr.Dataset) -> str:
    """Effect of the largest dose along the probe's direction, compared with random directions and control models."""
    measured = scores(result, change=True)
    measure = "shown" if "shown" in measured else "nearer"
    model, *other_models = (str(name) for name in result.model.values)
    kind = next(name for name in FITTED if name in measured.kind.values)
    dose = float(result.dose.max())
    at_dose = measured[measure].sel(dose=dose)
    effect = estimate(at_dose.sel(model=model, kind=kind), model)
    random = as_far_as(kind)
    controls = [estimate(at_dose.sel(model=name, kind=kind), name) for name in other_models]
    if random in measured.kind.values:
        controls.insert(0, estimate(at_dose.sel(model=model, kind=random), "random directions of equal size"))
    damage = estimate(measured.damage.sel(dose=dose, model=model, kind=kind), "")
    outcome = (
        "share of continuations in which the tracker sees the possible outcome"
        if measure == "shown"
        else "margin of the latent toward the possible outcome"
    )
    return (
        f"Steering by {dose:g} standard deviations along the direction of the {kind} (after block"
        f" {_cell(result, 'block')}) changes the {outcome} by {effect.number(True, 2)} in {model} (n ="
        f" {counted(result)}), with a damage of {damage.number(digits=2)} of the latent's norm. "
        + conclusion(effect, controls, signed=True, digits=2)
    )


def _cell(result: xr.Dataset, name: str) -> str:
    return str(int(np.ravel(result[name].values)[0])) if name in result else "?"


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model the changes by the largest dose of each direction; in full every dose, and the direction erased."""
    level, change = scores(result), scores(result, change=True)
    lines = [
        f"{result.sizes['scene']} test scenes, first halves continued; change from unsteered, 95% intervals over scenes"
    ]
    doses = [float(dose) for dose in level.dose.values if dose != 0]
    doses = doses if full else [dose for dose in doses if dose == float(result.dose.max())]
    heads = {"shown": "possible, by tracker", "nearer": "margin of the latent", "damage": "damage"}
    for model in (str(name) for name in result.model.values):
        rows = [["direction", "dose", *(heads[str(name)] for name in change.data_vars)]]
        for kind in level.kind.values:
            for dose in doses:
                row = change.sel(model=model, kind=kind, dose=dose)
                cells = [estimate(row[name], "").number(name != "damage", 2) for name in change.data_vars]
                rows.append([str(kind), f"{dose:+g}" if np.isfinite(dose) else ERASED, *cells])
        lines += ["", _head(result, level, model), *aligned(rows)]
    return "\n".join(lines if full else [*lines, "(--full: every dose, and the direction erased)"])


def _head(result: xr.Dataset, level: xr.Dataset, model: str) -> str:
    """The cell of a model, its probe, and the values without steering."""
    of_model = result.sel(model=model)
    parts = [
        f"{model}, block {int(of_model.block)}, step {int(of_model.step)}:"
        f" probe {float(of_model.accuracy):.3f} out of fold"
    ]
    if "shown" in level:
        ends = estimate(level.shown.sel(model=model, dose=0.0).isel(kind=0), "")
        parts.append(f"unsteered, possible in {interval(*ends[1:], digits=2)} of clips")
    unsteered_damage = float(of_model["values"].sel(measure="damage", dose=0.0).max())
    return "; ".join([*parts, f"dose 0 changes the latent by {unsteered_damage:g}"])
