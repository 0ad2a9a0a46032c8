"""Measures of `analyses.attribute_heads`: the heads that the probe's logit depends on, by integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves, largest
from dit_lens.measures.nulls import passing, sign_flips
from dit_lens.measures.patching import (
    Place,
    content_of_pairs,
    label_effect_of_pairs,
    named,
    rank_correlation,
    top_places,
)

ESTIMATES = ("integrated gradients", "gradient × difference", "integrated gradients from noise")


def agreement(result: xr.Dataset, model: str, compared: str = ESTIMATES[1]) -> float:
    """Spearman correlation over heads of the label effects of integrated gradients and another estimate."""
    first, second = (
        label_effect_of_pairs(result.sel(estimate=estimate, model=model)).mean("scene", skipna=False).values.ravel()
        for estimate in (ESTIMATES[0], compared)
    )
    return rank_correlation(first, second)


def same_label(result: xr.Dataset) -> xr.DataArray | None:
    """Root mean square over scenes of the attribution between A and B, two possible clips, in probe SDs.

    None for single pairs.
    """
    if "A→B" not in result.pair.values:
        return None
    effect = result.effect_logit.sel(pair="A→B") / result.probe_spread
    return np.sqrt((effect**2).mean("scene", skipna=False))


def verdict(result: xr.Dataset) -> str:
    """The head with the largest label effect, its agreement with gradients at one end, and the control models."""
    model, *controls = map(str, result.model.values)
    step, exact = int(result.step.item()), result.sel(estimate=ESTIMATES[0])
    at, report = top_places(exact, model, step)[0], halves(exact)[1].sel(model=model, step=step)
    effect = label_effect_of_pairs(report)
    p = sign_flips(effect).p
    interval = text.signed_mean(effect.isel(block=at[0], head=at[1]))
    in_controls = {control: f"largest {_largest(exact.sel(model=control)):.3f}" for control in controls}
    beyond, count = passing(p)
    return (
        f"{beyond or 'None'} of the {count} heads of {model} {'are' if beyond > 1 else 'is'} attributed a"
        f" {text.LABEL_EFFECT} beyond the corrected threshold (n = {report.sizes['scene']} held-out scenes);"
        f" {named(exact, at)}, ranked first on the others, has {interval} probe SD"
        f" ({text.p_value(p.isel(block=at[0], head=at[1]))}, corrected for the choice among all); the rank correlation"
        f" with gradient × difference is {agreement(result, model):+.2f}. {text.in_controls(in_controls)}"
    )


def _largest(exact: xr.Dataset) -> float:
    return largest(label_effect_of_pairs(exact))


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model the top heads on held-out scenes by all estimates; in full also the controls and the deltas."""
    _, report = halves(result)
    step, exact = int(result.step.item()), result.sel(estimate=ESTIMATES[0])
    ranked, held_out = result.sizes["scene"] - report.sizes["scene"], report.sizes["scene"]
    lines = [
        f"heads ranked on {ranked} test scenes, reported on {held_out}; label effects in probe SDs, [95% interval over"
        " scenes]"
    ]
    rows: list[tuple[str, ...]] = [("model", "head", *ESTIMATES)]
    for i, model in enumerate(map(str, result.model.values)):
        chosen, of_model = top_places(exact, model, step), report.sel(model=model, step=step)
        lines += ["", *_lines(result, of_model, model, chosen)] if full else []
        for at in chosen[: 1 if i else None]:
            rows.append((model, named(exact, at), *_cells(of_model, at)))
    return "\n".join(lines if full else [*lines, *aligned(rows)])


def _cells(report: xr.Dataset, at: Place) -> list[str]:
    """Label effects of one head by all estimates."""
    effect = label_effect_of_pairs(report).isel(block=at[0], head=at[1])
    return [text.signed_mean(effect.sel(estimate=estimate)) for estimate in ESTIMATES]


def _lines(result: xr.Dataset, report: xr.Dataset, model: str, chosen: Sequence[Place]) -> list[str]:
    block, of_model = int(result.readout_block), result.sel(model=model)
    content, label_kept = (
        content_of_pairs(report.sel(estimate=ESTIMATES[0])).mean("scene", skipna=False),
        same_label(report),
    )
    lines = [
        f"{model}, sigma {float(result.sigma):.2f}, probe after block {block}:"
        f" {float(of_model.train_accuracy.sel(depth=block)):.3f} out of fold on training scenes",
        "  block head   integrated gradients       gradient x difference      from noise alone           content"
        + ("" if label_kept is None else "   A with B (label kept)"),
    ]
    for at in chosen:
        label_cell = "" if label_kept is None else f"     {float(label_kept.sel(estimate=ESTIMATES[0])[at]):.3f}"
        lines.append(
            f"  {at[0]:5d} {at[1]:4d}   {'    '.join(_cells(report, at))}    {float(content[at]):.3f}{label_cell}"
        )
    deltas = [float(of_model.delta.sel(estimate=estimate).max()) for estimate in ESTIMATES]
    return [
        *lines,
        f"  all heads: largest label effect {_largest(of_model.sel(estimate=ESTIMATES[0])):.3f}; rank agreement with"
        f" gradient x difference {agreement(result, model):.2f}, with integrated gradients from noise"
        f" {agreement(result, model, ESTIMATES[2]):.2f}",
        f"  largest convergence delta, relative to max(|change|, probe SD): {deltas[0]:.1g} (integrated gradients),"
        f" {deltas[2]:.1g} (from noise), {deltas[1]:.1g} (gradient x difference)",
    ]
