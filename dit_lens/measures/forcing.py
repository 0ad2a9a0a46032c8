"""Scores of continuations against the true clips by property, occlusion and context; drift of long rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens import stats
from dit_lens.measures.columns import aligned
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import ratio_interval
from dit_lens.measures.selection import ALL, counted, properties
from dit_lens.measures.text import interval

MEASURES = {
    "found": ("found", "sight"),
    "place": ("place", "sight"),
    "colour": ("colour", "found"),
    "error": ("error", "found"),
    "objects": ("drawn", "frames"),
    "psnr": ("squared", "pixels"),
    "psnr moving": ("squared moving", "pixels moving"),
}
SHARES, SIZES = ("found", "place", "colour"), ("error", "objects", "psnr", "psnr moving")
COLUMNS = (
    "found",
    "in place",
    "colour, if found",
    "error (world px)",
    "objects per frame",
    "PSNR (dB)",
    "PSNR, moving",
)
STATISTICS = ("scenery", "sharpness", "latents", "objects")
CEILING = "autoencoder"


def scores(sums: xr.DataArray) -> xr.Dataset:
    """Each of `MEASURES` (model, context) with its 95% interval over scenes; from sums (..., scene, role, count)."""
    totals, values = sums.sum("role", skipna=False), {}
    for name, (over, under) in MEASURES.items():
        bounds = stats.SHARE if name in SHARES else stats.POSITIVE
        parts = ratio_interval(totals.sel(count=over, drop=True), totals.sel(count=under, drop=True), bounds)
        if name.startswith("psnr"):  # of squared errors at a peak-to-peak of 2; the larger error is the lower end
            with np.errstate(divide="ignore"):  # infinite where videos are equal
                middle, low, high = (-10 * np.log10(part / 4) for part in parts)
            parts = middle, high, low
        cell = totals.transpose("scene", ...).isel(scene=0, count=0, drop=True)
        values |= {f"{name}{end}": cell.copy(data=part) for end, part in zip(("", "_low", "_high"), parts, strict=True)}
    return xr.Dataset(values)


def by_property(sums: xr.DataArray) -> xr.Dataset:
    """Scores of all scenes, and by property where there are two or more of it."""
    names = [ALL, *(p for p in properties(sums) if (sums.property == p).sum() > 1)]
    chosen = [sums if name == ALL else sums.isel(scene=np.flatnonzero(sums.property == name)) for name in names]
    return xr.concat([scores(part) for part in chosen], xr.Variable("property", names))


def by_hiding(sums: xr.DataArray) -> dict[int, xr.Dataset]:
    """Scores and number of clips by how many frames the object is hidden; spans of a single scene are left out."""
    by_span: dict[int, xr.Dataset] = {}
    for span in np.unique(sums.hidden) if "hidden" in sums.coords else ():
        in_span = sums.hidden == span
        groups = np.flatnonzero(in_span.any("role"))
        if span and len(groups) > 1:
            by_span[int(span)] = scores(sums.where(in_span, 0).isel(scene=groups)).assign(clips=in_span.sum())
    return by_span


def drift_scores(drift: xr.DataArray) -> xr.DataArray:
    """Mean drift (end, level, round, statistic) with its 95% interval over clips."""
    values = drift.transpose("rolled", ...)
    cell = values.isel(rolled=0, drop=True)
    ends = xr.Variable("end", ["middle", "low", "high"])
    return xr.concat([cell.copy(data=part) for part in stats.mean_interval(values.values)], ends)


def estimate(sums: xr.DataArray, model: str, measure: str = "place") -> Estimate:
    """A share of a model, from sums with a dimension `model`."""
    row = scores(sums.sel(model=model))
    return Estimate(model, *(float(row[f"{measure}{end}"]) for end in ("", "_low", "_high")))


def verdict(result: xr.Dataset) -> str:
    """How often the object is in its place after a true first half, compared with control models and true clips."""
    half_given = result.sums.isel(context=-1)
    model, *other_models = (str(name) for name in half_given.model.values)
    in_place = estimate(half_given, model)
    controls = [estimate(half_given, name) for name in other_models if name != CEILING]
    top = (
        f"; true clips through the autoencoder: {estimate(half_given, CEILING).value:.2f}"
        if CEILING in other_models
        else ""
    )
    alone = estimate(result.sums.isel(context=0), model)
    return (
        f"Given the first half of a possible clip, {model} puts the object in its place in {in_place.number(digits=2)}"
        f" of the frames that show it (n = {counted(result.sums)}; with no frames given: {alone.value:.2f}{top}). "
        + conclusion(in_place, controls, None, digits=2)
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """Continuation by model; in full also by property, context and hiding, and drift by level and round."""
    sums, half_given = result.sums, result.sums.isel(context=-1)
    lines = [f"{result.sizes['scene']} test scenes (A and B), 95% intervals over scenes", ""]
    rows = [[str(model), *_cells(scores(half_given.sel(model=model)))] for model in half_given.model.values]
    lines += aligned([["first half given", *COLUMNS], *rows])
    if not full:
        return "\n".join([*lines, "(--full: by property, by context, by frames hidden; drift of long rollouts)"])
    lines += _details(sums, str(result.model.values[0]))
    return "\n".join([*lines, *(_drift(result.drift) if "drift" in result else [])])


def _cells(row: xr.Dataset) -> list[str]:
    ends = ("", "_low", "_high")
    names = (*SHARES, *SIZES)
    return [_interval([float(row[f"{name}{end}"]) for end in ends], 1 if "psnr" in name else 2) for name in names]


def _interval(ends: Sequence[float], digits: int) -> str:
    """The interval as text; the estimate alone where the object is found in too few scenes."""
    estimate, low, high = ends
    return interval(estimate, low, high, digits=digits).replace("[one scene]", "[too few found]")


def _details(sums: xr.DataArray, name: str) -> list[str]:
    of_model, rows = sums.sel(model=name), [["first half given", *COLUMNS]]
    scored, hiding = by_property(of_model.isel(context=-1)), by_hiding(of_model.isel(context=-1))
    for p in scored.property.values:
        n = sums.sizes["scene"] if p == ALL else int((sums.property == p).sum())
        rows.append([f"{name}, {p} ({n})", *_cells(scored.sel(property=p))])
    rows += [[f"hidden {span} frames ({int(row.clips)} clips)", *_cells(row)] for span, row in hiding.items()]
    lines = ["", *aligned(rows)]
    for model in (str(m) for m in sums.model.values if m != CEILING):
        measured = scores(sums.sel(model=model))
        contexts = [[f"{context}", *_cells(measured.sel(context=context))] for context in sums.context.values]
        lines += ["", *aligned([[f"{model}, frames given", *COLUMNS], *contexts])]
    return lines


def _drift(drift: xr.DataArray) -> list[str]:
    measured, rounds = drift_scores(drift), drift["round"].values
    chosen_rounds = [r for r in rounds if r in (0, 1, 2, 4) or r == rounds[-1]]
    lines = ["", f"drift over {drift.sizes['rolled']} clips A; round 0 is the true clip through the autoencoder"]
    for statistic in drift.statistic.values:
        rows = [[str(statistic), *(f"round {r}" for r in chosen_rounds)]]
        for level in drift.level.values:
            ends = [measured.sel(statistic=statistic, level=level, round=r).values for r in chosen_rounds]
            rows.append([f"σ_c={level:g}", *(_interval([*end], _digits(end[0])) for end in ends)])
        lines += aligned(rows)
    return lines


def _digits(value: float) -> int:
    """Decimals that show three figures."""
    return max(0, 2 - int(np.floor(np.log10(abs(value))))) if value and np.isfinite(value) else 2
