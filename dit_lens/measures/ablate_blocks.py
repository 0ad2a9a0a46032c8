"""Measures of `analyses.ablate_blocks`: the blocks that plausibility depends on, before the readout or at it."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.ablation import CONTROL, NONE, loss_interval, points, scores_of, value
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves, label_effect, mean_interval, ratio_interval
from dit_lens.measures.nulls import LEVEL, sign_flips
from dit_lens.stats import best_of

NOISE = "noise"
AT_ONCE = ("half given", "at the readout")  # readings of one step alone


def change(result: xr.Dataset) -> xr.DataArray:
    """Label effect of the probe's logit in its SDs: by replacement its change, at "none" that of the whole model."""
    return _change(label_effect(result.logit))


def _change(values: xr.DataArray) -> xr.DataArray:
    """Values at "none", and the change from them under every other replacement."""
    intact = values.sel(replacement=NONE)
    return xr.concat([values.sel(replacement=[NONE]), values.drop_sel(replacement=NONE) - intact], "replacement")


def surprise(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Numerator and denominator, by scene, of the surprise (at "none") and of its change, in per cent.

    The denominator is the whole model's error on the possible clips, so that a block without which all errors grow does
    not surprise less for that.
    """
    changed = _change(-label_effect(result.error))
    roles = [role for role in ("A", "B") if role in result.role.values]
    possible = result.error.sel(role=roles, replacement=NONE).mean("role")
    return 100 * changed, possible.broadcast_like(changed)


def kinds_of(result: xr.Dataset) -> tuple[list[str], list[str]]:
    """All replacements, and those that take a block away (neither noise nor a random write) if there are any."""
    kinds = [str(kind) for kind in result.replacement.values if kind != NONE]
    return kinds, [kind for kind in kinds if kind not in (NOISE, CONTROL)] or kinds


def most_needed(result: xr.Dataset, model: str, reading: str) -> tuple[int, xr.Dataset]:
    """The block ranked first on half of the scenes, all its writes replaced, and the other half at this block."""
    ranking, report = (half.sel(model=model, reading=reading).isel(write=0) for half in halves(result))
    mean = change(ranking).sel(replacement=kinds_of(result)[1]).mean(["replacement", "scene"], skipna=False).values
    block = best_of(-mean)[0]
    return block, report.sel(block=block)


def verdict(result: xr.Dataset) -> str:
    """The block that is needed most at the first reading, compared with a random write and the control models."""
    model, *controls = map(str, result.model.values)
    reading, kind = str(result.reading.values[0]), kinds_of(result)[1][0]
    block, at = most_needed(result, model, reading)
    changed = change(at)
    cell = mean_interval(changed.sel(replacement=kind))
    flips = sign_flips(change(result).sel(model=model, reading=reading).drop_sel(replacement=NONE))
    p = flips.p.isel(write=0).sel(replacement=kind, block=block)
    needed = "needs" if float(cell[2]) < 0 else "needs no single block; ranked first is"
    control = ""
    if CONTROL in result.replacement.values and kind != CONTROL:
        pushed = text.signed_mean(changed.sel(replacement=CONTROL))
        control = f", and by {pushed} with a random write of the same length"
    in_controls = {other_model: _in_control(result, other_model, reading, kind) for other_model in controls}
    return (
        f"In the reading {reading!r}, {model} {needed} block {block}: without it ({kind}; ranked first on half of the"
        f" scenes) the {text.LABEL_EFFECT} of the probe's logit changes by {text.interval(*cell, signed=True)} from"
        f" {text.signed_mean(changed.sel(replacement=NONE))} probe SD on the other {at.sizes['scene']} scenes"
        f" ({text.p_value(p)} over all scenes, corrected for the choice among all cells){control}."
        f" {text.in_controls(in_controls)}"
    )


def _in_control(result: xr.Dataset, model: str, reading: str, kind: str) -> str:
    block, at = most_needed(result, model, reading)
    return f"{text.signed_mean(change(at).sel(replacement=kind))} without block {block}"


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model and reading the block needed most, on held-out scenes; in full also maps with stars, and surprise."""
    lines = [
        f"n = {result.sizes['scene']} test scenes; change of the label effect in probe SDs; * beyond the largest of all"
        " cells under swapped labels (5%)"
    ]
    kinds, _ = kinds_of(result)
    if not full:
        rows: list[tuple[str, ...]] = [("model", "reading", "needed most", *kinds)]
        for model, reading in product(map(str, result.model.values), map(str, result.reading.values)):
            block, at = most_needed(result, model, reading)
            cells = (mean_interval(change(at).sel(replacement=kind)) for kind in kinds)
            rows.append((model, reading, f"block {block}", *(text.interval(*c, signed=True, digits=2) for c in cells)))
        held_out = halves(result)[1].sizes["scene"]
        title = (
            f"change of the label effect in probe SDs without a block, [95% interval over {held_out} held-out scenes]"
        )
        return "\n".join([title, *aligned(rows)])
    changed = change(result)
    for model in map(str, result.model.values):
        of_model = result.sel(model=model)
        lines += ["", f"{model}", *_intact_lines(of_model)]
        for reading in map(str, result.reading.values):
            lines += ["", *_map(changed.sel(model=model, reading=reading), f"  {reading}, label effect")]
            lines += _top(result, model, reading)
        lines += ["", *_surprise(of_model)] if "error" in result else []
    return "\n".join(lines)


def _intact_lines(result: xr.Dataset) -> list[str]:
    """Scores and label effect of the intact model, by reading."""
    lines = []
    intact = result.sel(replacement=NONE).isel(write=0, block=0)
    effect, scores = label_effect(intact.logit), scores_of(result)
    for reading in (name for name in AT_ONCE if name in result.reading.values):
        score_values = value(intact.sel(reading=reading))
        listing = " · ".join(f"{score} {float(score_values.sel(score=score)):.3f}" for score in scores)
        interval = text.signed_mean(effect.sel(reading=reading), 2)
        block = int(result.readout.sel(reading=reading))
        lines.append(f"  whole, {reading}, states after block {block}: {listing}; label effect {interval}")
    return lines


def _map(changed: xr.DataArray, title: str) -> list[str]:
    """A row for each replacement and write, a column for each block."""
    effects = changed.drop_sel(replacement=NONE)
    flips, mean = sign_flips(effects), effects.mean("scene", skipna=False)
    lines = [f"{title:<36}" + "".join(f"{f'block {block}':>9}" for block in effects.block.values)]
    for kind, write in product(effects.replacement.values, effects.write.values):
        at = {"replacement": kind, "write": write}
        cells = zip(mean.sel(at).values, flips.p.sel(at).values, strict=True)
        marked = ("-" if np.isnan(m) else f"{m:+.2f}{'*' if p < LEVEL else ' '}" for m, p in cells)
        lines.append(f"    {f'{kind}, {write}':<32}" + "".join(f"{cell:>9}" for cell in marked))
    return lines


def _top(result: xr.Dataset, model: str, reading: str) -> list[str]:
    """The block ranked first on half of the scenes, all its writes replaced, on the other half."""
    block, at = most_needed(result, model, reading)
    kinds, changed = kinds_of(result)[0], change(at)
    intervals = (mean_interval(changed.sel(replacement=kind)) for kind in kinds)
    changes = [f"{kind} {text.interval(*i, signed=True, digits=2)}" for kind, i in zip(kinds, intervals, strict=True)]
    lines = [
        f"    most needed on half the scenes: block {block}; on the other {at.sizes['scene']}: {', '.join(changes)}"
    ]
    for score in scores_of(result):
        costs = {kind: loss_interval(at.sel(score=score, replacement=[NONE, kind])) for kind in kinds}
        losses = [f"{kind} {points(cost)}" for kind, cost in costs.items() if np.isfinite(cost[0])]
        lines += [f"      {score}, points lost: {', '.join(losses)}"] if losses else []
    return lines


def _surprise(result: xr.Dataset) -> list[str]:
    """Surprise of the intact model, and its change with all writes of a block replaced."""
    changed, error = (part.isel(write=0).transpose("scene", "replacement", "block") for part in surprise(result))
    estimate, low, high = ratio_interval(changed, error)

    def cell(*at: int) -> str:
        return text.interval(estimate[at], low[at], high[at], signed=True, digits=2)

    lines = [
        f"  surprise of the whole model from the break on, frames before it given: {cell(0, 0)} %; its change by block"
    ]
    for i, kind in list(enumerate(changed.replacement.values))[1:]:
        cells = (cell(i, block) for block in range(estimate.shape[1]))
        lines.append(f"    {kind:<14}" + "".join(f"{entry:>25}" for entry in cells))
    return lines
