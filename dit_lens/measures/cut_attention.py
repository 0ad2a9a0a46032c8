"""Measures of `analyses.cut_attention`: the attention that carries plausibility."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves, label_effect, largest
from dit_lens.measures.nulls import LEVEL, passing, sign_flips
from dit_lens.stats import order_of

TOP = 3
TEXT = "video → text"  # the same for every clip: cutting it cannot remove a label


def change(result: xr.Dataset, name: str) -> xr.DataArray:
    """Change of the label effect (scene, ..., block) by a map, `whole` or `effect`, in probe SDs, up to the readout."""
    return (label_effect(result[name]) / result.probe_spread).sel(block=slice(0, int(result.readout_block)))


def significance(result: xr.Dataset, name: str) -> xr.DataArray:
    """The chance that the largest |t| of all cells of a model's map is as large under flipped signs."""
    return sign_flips(change(result, name)).p


def ranked(result: xr.Dataset) -> list[tuple[str, int]]:
    """All (cut, block), by how much of its label effect they cost a model on the ranking half, most first."""
    mean = change(halves(result)[0], "whole").mean("scene", skipna=False).stack(cell=["cut", "block"])
    return [(str(name), int(block)) for name, block in mean.cell.values[order_of(-mean.values)]]


def top(result: xr.Dataset) -> list[tuple[str, int]]:
    """The (cut, block) that cost a model most of its label effect on the ranking half."""
    return ranked(result)[:TOP]


def verdict(result: xr.Dataset) -> str:
    """Which cut costs most of the label effect, compared with the cut of text and the control models."""
    model, *controls = map(str, result.model.values)
    of_model, report = result.sel(model=model), halves(result)[1].sel(model=model)
    (name, block), p = next(at for at in ranked(of_model) if at[0] != TEXT), significance(of_model, "whole")
    cell, total = change(report, "whole").sel(cut=name, block=block), label_effect(report.logit) / report.probe_spread
    beyond, count = _beyond(of_model)
    control = f"; the control, {TEXT}, changes it by up to {_most(of_model):.3f}" if TEXT in of_model.cut.values else ""
    in_controls = {other_model: _in_control(result.sel(model=other_model)) for other_model in controls}
    return (
        f"{beyond or 'None'} of the {count} cuts of attention (by block) {'lower' if beyond > 1 else 'lowers'}"
        f" {model}'s {text.LABEL_EFFECT} beyond the corrected threshold (n = {result.sizes['scene']} test scenes);"
        f" {name!r} in block {block}, ranked first on half of them, changes it by {text.signed_mean(cell)}"
        f" of {text.signed_mean(total)} probe SD on the other {report.sizes['scene']}"
        f" ({text.p_value(p.sel(cut=name, block=block))} over all scenes, corrected for the choice){control}."
        f" {text.in_controls(in_controls)}"
    )


def _most(result: xr.Dataset) -> float:
    return largest(change(result, "whole").sel(cut=TEXT))


def _in_control(result: xr.Dataset) -> str:
    (beyond, count), mean = _beyond(result), change(result, "whole").mean("scene", skipna=False)
    return f"{beyond} of {count} pass, largest fall {max(0.0, -float(mean.min())):.3f}"


def _beyond(result: xr.Dataset) -> tuple[int, int]:
    """How many cuts lower a model's label effect beyond the corrected threshold, of how many; without that of text."""
    p = significance(result, "whole")
    lowers = (p < LEVEL) & (change(result, "whole").mean("scene", skipna=False) < 0)
    some = np.flatnonzero(lowers.cut.values != TEXT)
    return int(lowers.isel(cut=some).sum()), int(p.isel(cut=some).notnull().sum())


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model its label effect and the cuts that cost it most on held-out scenes; in full also by each head."""
    _, report = halves(result)
    ranked, held_out = result.sizes["scene"] - report.sizes["scene"], report.sizes["scene"]
    lines = [
        f"cuts ranked on {ranked} test scenes, reported on {held_out}; change of the label effect in probe SDs"
        " [95% interval over scenes]"
    ]
    if not full:
        rows = [("model", "cut", "change", "p corrected")]
        for i, model in enumerate(map(str, result.model.values)):
            rows += _short(result.sel(model=model), report.sel(model=model), 1 if i else TOP)
        return "\n".join([*lines, *aligned(rows)])
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model))]
    return "\n".join(lines)


def _short(result: xr.Dataset, report: xr.Dataset, count: int) -> list[tuple[str, ...]]:
    p, total = significance(result, "whole"), label_effect(report.logit) / report.probe_spread
    model, changes = str(result.model.item()), change(report, "whole")
    rows: list[tuple[str, ...]] = [(model, "the whole label effect", text.signed_mean(total))]
    for name, block in top(result)[:count]:
        at = {"cut": name, "block": block}
        interval = text.signed_mean(changes.sel(at))
        rows.append((model, f"{name}, block {block}", interval, f"{float(p.sel(at)):.4f}"))
    return rows


def _lines(result: xr.Dataset, report: xr.Dataset) -> list[str]:
    accuracy = float(result.train_accuracy.sel(depth=int(result.readout_block)))
    p, by_head = significance(result, "whole"), change(report, "effect").mean("scene", skipna=False)
    total = label_effect(report.logit) / report.probe_spread
    lines = [
        f"{result.model.item()}, sigma {float(result.sigma):.2f}, probe after block {int(result.readout_block)}:"
        f" {accuracy:.3f} out of fold; label effect {text.signed_mean(total)}",
        f"  {'cut':<28}block  {'all heads':<26}p (largest of all)   by head",
    ]
    for name, block in top(result):
        cell = change(report, "whole").sel(cut=name, block=block)
        heads = "  ".join(f"{float(x):+.2f}" for x in by_head.sel(cut=name, block=block))
        interval = text.signed_mean(cell)
        lines.append(f"  {name:<28}{block:<7}{interval:<26}{float(p.sel(cut=name, block=block)):.4f}{heads:>36}")
    beyond, count = passing(significance(result, "effect"))
    control = f"without text at most {_most(result):.3f}; " if TEXT in result.cut.values else ""
    return [*lines, f"  {control}by head {beyond} of {count} cells beyond the threshold"]
