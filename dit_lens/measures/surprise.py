"""Surprise: how much larger a model's velocity error is on impossible clips, and how well that orders clips."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import label_effect, ratio_interval, rows, signs
from dit_lens.measures.selection import ALL, by_property, counted, pool_name, pooled, properties
from dit_lens.measures.text import interval

MEASURES = ("surprise", "low", "high", "share", "d_prime")
IN_TIME = {"error": "mean over time", "peak": "maximum over time"}
BENCHMARK = ("pairwise", "relative_error", "auroc", "auroc_low", "auroc_high")
CONDITIONS = ("whole clip", "from the break on", "from the break on, earlier given clean")
CONDITION = CONDITIONS[-1]  # the condition of a verdict, where it was measured


def scores(error: xr.DataArray) -> xr.Dataset:
    """Surprise of all pooled scenes and by property, from errors (..., scene, role).

    Returns:
        By property and the other axes of `error`: `surprise`, the error on impossible minus that on possible clips, in
        % of that on possible clips, with its 95% interval over scenes (`low`, `high`); `share` of the scenes above 0;
        `d_prime`, the mean over the standard deviation of scenes. NaN where a condition scores no scene.
    """
    chosen = by_property(error)
    parts = [_scores(error.isel(scene=scenes)) for scenes in chosen.values()]
    return xr.concat(parts, xr.Variable("property", list(chosen)))


def scored(error: xr.DataArray) -> np.ndarray:
    """Which scenes have errors (scene): a condition scores no scene whose clips do not begin alike."""
    values = error.transpose("scene", ...).values.reshape(error.sizes["scene"], -1)
    return np.asarray(np.isfinite(values).all(1))


def pooled_in(result: xr.Dataset, condition: str) -> str:
    """How many scenes are pooled as "all" in a condition, in words."""
    counted_scenes = pooled(result) & scored(result.error.sel(condition=condition))
    return counted(result.isel(scene=np.flatnonzero(counted_scenes)), pool_name(result))


def _scores(error: xr.DataArray) -> xr.Dataset:
    if "condition" in error.dims:
        by_condition = [_scores(error.isel(condition=i)) for i in range(error.sizes["condition"])]
        return xr.concat(by_condition, "condition")
    error = error.astype(float)  # differences of large numbers
    has_errors, like = scored(error), -label_effect(error).transpose("scene", ...).isel(scene=0, drop=True)
    if not has_errors.any():
        return xr.Dataset(dict.fromkeys(MEASURES, like * np.nan))
    error = error.isel(scene=np.flatnonzero(has_errors))
    surprise = -label_effect(error)
    base = error.isel(role=np.flatnonzero(signs(error.role) > 0)).mean("role")
    contrast = rows(surprise)
    spread = contrast.std(0, ddof=1) if len(contrast) > 1 else np.full(contrast.shape[1:], np.nan)
    d_prime = contrast.mean(0) / np.maximum(spread, np.finfo(np.float32).tiny)
    values = (*ratio_interval(100 * surprise, base), (contrast > 0).mean(0), d_prime)
    return xr.Dataset({key: (like.dims, value) for key, value in zip(MEASURES, values, strict=True)}, like.coords)


def benchmark_scores(result: xr.Dataset) -> xr.Dataset:
    """How errors (mean over noise levels) order the clips of all pooled scenes, as benchmarks score it.

    Returns:
        `pairwise`, `relative_error`, and `auroc` with its 95% interval (in_time, condition, model), see
        `probing.Scores`; NaN of a single scene.
    """
    from dit_lens.probing.scoring import score

    averaged = result.isel(scene=np.flatnonzero(pooled(result))).mean("sigma", skipna=False)
    names = ("in_time", "condition", "model")
    kinds = [kind for kind in IN_TIME if kind in result]
    cells = {"in_time": kinds, **{name: averaged[name].values for name in names[1:]}}
    measured = {key: (names, np.full([len(values) for values in cells.values()], np.nan)) for key in BENCHMARK}
    for at in np.ndindex(measured["auroc"][1].shape):
        values = averaged[cells["in_time"][at[0]]].isel(condition=at[1], model=at[2])
        some = values.isel(scene=np.flatnonzero(scored(values))).transpose("scene", "role")
        groups = np.repeat(np.asarray(some.group if "group" in some.coords else some.scene), some.sizes["role"])
        if len(np.unique(groups)) < 2:
            continue
        possible = np.tile(signs(some.role).values > 0, some.sizes["scene"])
        scored_clips = score(-some.values.ravel(), possible, groups)
        for key in BENCHMARK:
            measured[key][1][at] = getattr(scored_clips, key)
    return xr.Dataset(measured, cells)


def condition_of(result: xr.Dataset) -> str:
    """The condition that a verdict is about: the frames before the break given clean, or the last one measured."""
    measured = [str(condition) for condition in result.condition.values]
    return CONDITION if CONDITION in measured else measured[-1]


def estimate(pooled_scores: xr.Dataset, model: str) -> Estimate:
    """The surprise of a model over all pooled scenes, of scores of one condition."""
    row = pooled_scores.sel(model=model, property=ALL)
    return Estimate(model, *(float(row[key]) for key in ("surprise", "low", "high")))


def verdict(result: xr.Dataset) -> str:
    """Whether the model's velocity error is larger on impossible clips, against 0 and the control models."""
    condition, (model, *controls) = condition_of(result), [str(name) for name in result.model.values]
    measured = scores(result.error.mean("sigma")).sel(condition=condition)
    difference = estimate(measured, model)
    more = "larger" if difference.value >= 0 else "smaller"
    digits = 1 if max(abs(difference.low), abs(difference.high)) >= 1 else 2
    size = (
        difference if difference.value >= 0 else Estimate(model, -difference.value, -difference.high, -difference.low)
    )
    return (
        f"The velocity error of {model} ({condition}) is {size.number(digits=digits, unit='%')} {more} on impossible"
        f" than on possible clips (n = {pooled_in(result, condition)}, mean over noise levels). "
        + conclusion(difference, [estimate(measured, name) for name in controls], signed=True, digits=digits)
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """Surprise of each model in the leading condition; in full all conditions, properties, levels and benchmarks."""
    conditions = [str(c) for c in result.condition.values] if full else [condition_of(result)]
    measured, levels = scores(result.error.mean("sigma")), scores(result.error).surprise.sel(property=ALL)
    lines = [
        f"surprise: error on impossible minus possible clips, % of that on possible clips; {result.sizes['scene']}"
        f" test scenes, all: {', '.join(dict.fromkeys(pooled_in(result, c) for c in conditions))}; mean over σ"
        " [95% interval over scenes]"
    ]
    names = properties(result) if full and len(properties(result)) > 1 else []
    for condition in conditions:
        heads = [condition, ALL, "share above 0", "d'", *names, *(f"σ={sigma:.3g}" for sigma in result.sigma.values)]
        by_model = [measured.sel(condition=condition, model=model) for model in result.model.values]
        cells = [_cells(row, levels.sel(condition=condition, model=row.model), names) for row in by_model]
        lines += ["", *aligned([heads, *cells])]
    return "\n".join(
        [*lines, *_benchmark_lines(result)] if full else [*lines, "(--full: conditions, properties, AUROC)"]
    )


def _cells(row: xr.Dataset, levels: xr.DataArray, names: list[str]) -> list[str]:
    mean, low, high, share, d_prime = (float(row[key].sel(property=ALL)) for key in MEASURES)
    cells = [str(row.model.item()), interval(mean, low, high, True, 2), f"{share:.2f}", number(d_prime, "+.2f")]
    cells += [f"{float(row.surprise.sel(property=name)):+.2f}" for name in names]
    return cells + [f"{float(value):+.2f}" for value in levels]


def _benchmark_lines(result: xr.Dataset) -> list[str]:
    measured = benchmark_scores(result)
    lines = [
        f"\nas benchmarks score it, {pool_name(result)}, mean over σ; within scenes: pairs"
        " in order, relative error; over all scenes: AUROC [95% interval]"
    ]
    heads = [IN_TIME[str(kind)] for kind in measured.in_time.values]
    for condition in result.condition.values:
        table = [[str(condition), *heads]]
        for model in result.model.values:
            of_model = measured.sel(condition=condition, model=model)
            parts = [[float(of_model[key].sel(in_time=kind)) for key in BENCHMARK] for kind in measured.in_time.values]
            table.append(
                [str(model), *(f"{number(p)}  {number(e)}  {interval(a, low, high)}" for p, e, a, low, high in parts)]
            )
        lines += ["", *aligned(table)]
    return lines
