"""Decoding of the content of a half by source, and the lead of the first source: is a model a valid control?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens import results
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import ratio_interval
from dit_lens.measures.selection import counted
from dit_lens.measures.text import interval, listed
from dit_lens.stats import R_SQUARED

NUMBERS, NAMES = ("position", "velocity"), ("colour", "shape")
TARGETS = (*NUMBERS, *NAMES)
COMPARED = ("position", "colour", "velocity")  # targets that a control must decode as well as the model
POINTS = 3.0
ENDS = ("", "_low", "_high")
INPUT = "input x_σ"


def scores(result: xr.Dataset) -> xr.Dataset:
    """`score` and `lead` of the first source (in points) by source and target, each with its 95% interval.

    Scores are the ratio of the sums of `good` and `whole` over scenes: R² of numbers, accuracy of names.
    """
    good, total = (result[name].transpose("scene", "source", "target") for name in ("good", "whole"))
    ahead = 100 * (good.isel(source=0, drop=True) - good).transpose(*good.dims)
    parts = {"score": ratio_interval(good, total, R_SQUARED), "lead": ratio_interval(ahead, total)}
    named = {f"{key}{end}": value for key, values in parts.items() for end, value in zip(ENDS, values, strict=True)}
    coords = {"source": result.source.values, "target": result.target.values}
    return xr.Dataset({key: (("source", "target"), value) for key, value in named.items()}, coords=coords)


def largest_leads(measured: xr.Dataset) -> dict[str, float]:
    """By source, but the first: the largest difference from the first, in points, on what a control must decode."""
    targets = [target for target in COMPARED if target in measured.target.values]
    sources = [str(source) for source in measured.source.values[1:]]
    return {name: float(np.abs(measured.lead.sel(source=name, target=targets)).max()) for name in sources}


def verdict(result: xr.Dataset) -> str:
    """Which models decode position, colour and velocity as well as the model in question, so that they are controls."""
    measured = scores(result)
    model, leads = str(result.source.values[0]), largest_leads(measured)
    score = {t: measured.sel(source=model, target=t) for t in COMPARED if t in measured.target.values}
    numbers = (f"{t} {interval(row.score, row.score_low, row.score_high)}" for t, row in score.items())
    text = (
        f"The states of {model} decode {', '.join(numbers)} (R² of numbers, accuracy of names; n = {counted(result)})."
    )
    models = {name: lead for name, lead in leads.items() if name != INPUT}
    if not models:
        return f"{text} No control model was run."
    controls = [f"{name} ({lead:.1f})" for name, lead in models.items() if lead <= POINTS]
    rejected = [f"{name} ({lead:.1f})" for name, lead in models.items() if lead > POINTS]
    parts = []
    if controls:
        parts.append(
            f"{listed(controls)} {'decodes' if len(controls) == 1 else 'decode'} them as well and can serve as a"
            " control"
        )
    if rejected:
        parts.append(f"{listed(rejected)} {'does' if len(rejected) == 1 else 'do'} not, and cannot serve as a control")
    return f"{text} Within {POINTS:g} points, {'; '.join(parts)} (in brackets: the largest difference in points)."


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per source: scores with their intervals; in full also the lead of the model over each source."""
    facts, measured = results.facts(result), scores(result)
    lines = [
        f"position, velocity: R²; colour, shape: accuracy; σ = {facts['sigma']:.2f}; {facts['views']} views of"
        f" {result.sizes['scene']} test scenes (95% intervals over these)" + "; lead of the model in points" * full
    ]
    rows = [["source", *(str(target) for target in result.target.values), "largest lead"]]
    leads = largest_leads(measured)
    for source in result.source.values:
        row = measured.sel(source=source)
        cells = [_cell(row.sel(target=target), full) for target in result.target.values]
        lead = leads.get(str(source))
        kind = "" if lead is None else f"{lead:.1f} points: {'' if lead <= POINTS else 'not '}a control"
        rows.append([str(source), *cells, kind])
    return "\n".join([*lines, *aligned(rows), *([] if full else ["(--full: the lead of the model on each)"])])


def _cell(row: xr.Dataset, full: bool) -> str:
    score = interval(row.score, row.score_low, row.score_high)
    return f"{score} {interval(row.lead, row.lead_low, row.lead_high, True, 1)}" if full else score
