"""Measures of `analyses.map_attention`: what heads look at, how stable that is, and whether it says which heads matter.

Worked example of a class: scores diagonal 0.52, multi-diagonal 0.31, stripe 0.05 in the mean over scenes, margin 0.1.
The lead is 0.21; if its 95% interval over scenes lies above 0 the head is called diagonal. At 0.35 it would be mixed.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens import results
from dit_lens.measures import text
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.labels import by_group, label_effect, mean_interval
from dit_lens.measures.nulls import passing, sign_flips
from dit_lens.stats import selection_corrected_p

KINDS = ("diagonal", "multi_diagonal", "stripe")
MIXED = "mixed"
SHUFFLES = 999
SHOWN = 6  # numbers in the short table


def by_clip(result: xr.Dataset) -> xr.DataArray:
    """Numbers by (scene, role, block, head, number), without those that are NaN throughout."""
    values = result.plain
    return values.sel(number=values.notnull().any([dim for dim in values.dims if dim != "number"]))


def by_head(result: xr.Dataset) -> xr.DataArray:
    """Mean over clips (block, head, number) of one model."""
    return by_clip(result).mean(["scene", "role"])


def effect(result: xr.Dataset) -> xr.DataArray:
    """Change of the label effect (scene, block, head) when a head is zeroed, in probe SDs, up to the readout."""
    changes = label_effect(result.effect) / result.probe_spread
    return changes.sel(block=slice(0, int(result.readout_block)))


def classes(result: xr.Dataset) -> xr.DataArray:
    """The class (block, head) of every head of one model: the score that leads by the margin, else mixed."""
    scores = by_clip(result).sel(number=list(KINDS)).mean("role")
    order = np.argsort(-scores.mean("scene").transpose("block", "head", "number").values, axis=-1)
    names = xr.full_like(scores.isel(scene=0, number=0, drop=True).transpose("block", "head"), MIXED, dtype=object)
    for block, head in np.ndindex(names.shape):
        first, second = order[block, head, :2]
        of_head = scores.isel(block=block, head=head)
        lead, low, _ = mean_interval(of_head.isel(number=first, drop=True) - of_head.isel(number=second, drop=True))
        if float(lead) >= _margin(result) and float(low) > 0:
            names[block, head] = KINDS[first]
    return names


def _margin(result: xr.Dataset) -> float:
    return float(result.margin)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, ties averaged."""
    below = (values[..., None, :] < values[..., None]).sum(-1)
    return below + ((values[..., None, :] == values[..., None]).sum(-1) - 1) / 2


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis; NaN where all values of one are the same."""
    x, y = (ranks(values) - ranks(values).mean(-1, keepdims=True) for values in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def stability(result: xr.Dataset) -> xr.DataArray:
    """Mean over scenes (number) of rho between a scene's ranking of all heads and that of the mean of all others."""
    values = by_group(by_clip(result).mean("role")).stack(cell=["block", "head"]).transpose("number", "scene", "cell")
    table, count = values.values, values.sizes["scene"]
    others = (table.sum(1, keepdims=True) - table) / max(1, count - 1)
    return xr.DataArray(rank_correlation(table, others).mean(1), {"number": values.number.values}, ("number",))


def contrast(result: xr.Dataset) -> xr.Dataset:
    """`t` and corrected `p` (block, head, number) of possible against impossible clips, over all heads and numbers."""
    effects = label_effect(by_clip(result))
    return sign_flips(effects.where(np.abs(effects) > 1e-12, 0.0))


def against_effect(result: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """`rho` and corrected `p` (number): ranks of heads by a number and by the size of their causal effect.

    Heads after the readout have no effect and are left out. The null shuffles heads, and takes the largest |rho|.
    """
    sizes = abs(effect(result).mean("scene")).stack(cell=["block", "head"])
    numbers = by_head(result).sel(block=effect(result).block).stack(cell=["block", "head"]).transpose("number", "cell")
    table, of_head = numbers.values, sizes.values
    rho, random = rank_correlation(table, of_head), np.random.default_rng(seed)
    null = np.stack([rank_correlation(table, random.permutation(of_head)) for _ in range(SHUFFLES)])
    p = selection_corrected_p(np.nan_to_num(np.abs(rho)), np.nan_to_num(np.abs(null)))
    coords = {"number": numbers.number.values}
    return xr.Dataset({"rho": ("number", rho), "p": ("number", np.where(np.isnan(rho), np.nan, p))}, coords)


def verdict(result: xr.Dataset) -> str:
    """How many heads have a class, how stable numbers are, and whether they go with plausibility and with effects."""
    model, *controls = map(str, result.model.values)
    of_model = _of(result, model)
    best = against_effect(of_model)
    order = np.argsort(-np.nan_to_num(np.abs(best.rho.values), nan=-1.0))
    first = best.isel(number=int(order[0]))
    passes, cells = passing(contrast(of_model).p)
    median = float(stability(of_model).median())
    said = (
        f"{_counts(of_model)}, by a margin of {_margin(result):g}; the rest are mixed (n = {result.sizes['scene']} test"
        f" scenes). A scene ranks the heads of {model} as the other scenes do with a median rho of {median:.2f} over"
        f" {best.sizes['number']} numbers. Between possible and impossible clips {passes} of {cells} cells differ"
        f" beyond the corrected threshold. The number that goes most with the causal effect of a head is"
        f" {first.number.item()}: rho {float(first.rho):+.2f} over {_heads(of_model)} heads"
        f" ({text.p_value(first.p)}, corrected for the choice)."
    )
    return f"{said} {text.in_controls({name: _in_control(_of(result, name)) for name in controls})}"


def _of(result: xr.Dataset, model: str) -> xr.Dataset:
    return result.sel(model=model)


def _heads(result: xr.Dataset) -> int:
    return effect(result).sizes["block"] * result.sizes["head"]


def _counts(result: xr.Dataset) -> str:
    names, total = classes(result), result.sizes["block"] * result.sizes["head"]
    listing = [f"{int((names == kind).sum())} {kind.replace('_', '-')}" for kind in KINDS if (names == kind).any()]
    return f"Of {total} heads of {result.model.item()}, {text.listed(listing or ['0 named'])}"


def _in_control(result: xr.Dataset) -> str:
    passes, cells = passing(contrast(result).p)
    named = int((classes(result) != MIXED).sum())
    return f"{named} heads have a class, {passes} of {cells} cells differ with the label"


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line for each number: extremes over heads, stability, difference by label, relation to the effect."""
    sigma = float(result.sigma)
    lines = [f"numbers of heads at σ = {sigma:.2f}, means over {result.sizes['scene']} test scenes"]
    for model in map(str, result.model.values) if full else [str(result.model.values[0])]:
        lines += ["", *_lines(_of(result, model), full)]
    return "\n".join(lines if full else [*lines, "(--full: all numbers, controls, and the class of every head)"])


def _lines(result: xr.Dataset, full: bool) -> list[str]:
    means, stable, against = by_head(result), stability(result), against_effect(result)
    p = contrast(result).p
    head = ["number", "lowest head", "highest head", "stability", "by label, p", "rho with effect", "p"]
    rows = [[str(result.model.item()), *head[1:]]]
    for name in map(str, means.number.values if full else means.number.values[:SHOWN]):
        cells = means.sel(number=name).transpose("block", "head")
        ends = [_extreme(cells, sign) for sign in (-1, 1)]
        at = {"number": name}
        least = p.sel(at).min()
        rows.append([name, *ends, number(stable.sel(at), ".2f"), number(least), number(against.rho.sel(at), "+.2f"),
                     number(against.p.sel(at))])  # fmt: skip
    return [*aligned(rows), *(_class_lines(result) if full else ())]


def _extreme(cells: xr.DataArray, sign: int) -> str:
    """Such as "0.12 (3.1)": the lowest or highest value and its head."""
    if not cells.notnull().any():
        return "-"
    block, head = np.unravel_index(int(np.nanargmax(sign * cells.values)), cells.shape)
    return f"{float(cells[block, head]):.3f} ({int(cells.block[block])}.{int(cells['head'][head])})"


def _class_lines(result: xr.Dataset) -> list[str]:
    names = classes(result)
    return [f"  block {int(row.block)}: {', '.join(map(str, row.values))}" for row in names]


def facts(result: xr.Dataset) -> str:
    """For a figure: how many scenes, and the noise level."""
    return f"n = {result.sizes['scene']} test scenes; {results.facts(result)['path']}, σ = {float(result.sigma):.2f}"
