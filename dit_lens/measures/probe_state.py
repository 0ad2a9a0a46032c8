"""R² of the physical state of an object, decoded from a model's states, while it is seen and while it is hidden."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from dit_lens import results
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion, strongest_first
from dit_lens.measures.labels import by_group, ratio_interval
from dit_lens.measures.text import interval
from dit_lens.stats import R_SQUARED, best_of

VARIABLES = {
    "position": "position (px)",
    "velocity": "velocity (px/frame)",
    "acceleration": "acceleration (px/frame²)",
    "incline": "incline angle (degrees)",
    "contact": "time to contact (frames)",
}
SIGHTS = ("seen", "hidden", "hidden, by the probe of the seen")
FED = "x_σ"  # the latent that was fed


def scores(result: xr.Dataset) -> xr.Dataset:
    """R² with its 95% interval over scenes (`score`, `low`, `high`), from `good` and `whole`, whose ratio it is.

    Returns:
        By sight, variable, source, path and place, NaN where it was not scored; and `n`, the number of scenes (groups
        of scenes) that show a variable, by sight and variable.
    """
    names = ("sight", "variable", "source", "path", "place")
    shape = tuple(result.sizes[name] for name in names)
    estimates, n = np.full((3, *shape), np.nan), np.zeros(shape[:2], int)
    for cell in np.ndindex(n.shape):
        sums = result[["good", "whole"]].isel(sight=cell[0], variable=cell[1], drop=True).transpose("scene", *names[2:])
        has_variable = np.nan_to_num(sums.whole.values).any((1, 2, 3))
        if has_variable.any():
            some = sums.isel(scene=np.flatnonzero(has_variable))
            n[cell] = by_group(some.whole).sizes["scene"]
            estimates[:, *cell] = np.stack(ratio_interval(some.good, some.whole, R_SQUARED))
    measured = {key: (names, value) for key, value in zip(("score", "low", "high"), estimates, strict=True)}
    return xr.Dataset({**measured, "n": (names[:2], n)}, coords={name: result[name].values for name in names})


def best(measured: xr.Dataset, source: str, name: str = "", fed: bool = False) -> Estimate:
    """The largest R² of a source over its blocks, on any path of `measured`; of the latent it was fed if `fed`.

    It is the largest on test scenes, and so a little too good, for the model as for its controls.
    """
    row = measured.sel(source=source)
    places = [str(p) for p in row.place.values if (p == FED) == fed]
    row = row.sel(place=places).stack(cell=("path", "place")).dropna("cell")
    if not row.sizes["cell"]:
        return Estimate(name or source, np.nan, np.nan, np.nan)
    top = row.isel(cell=best_of(row.score.values)[0])
    return Estimate(name or source, float(top.score), float(top.low), float(top.high))


def compared(measured: xr.Dataset) -> tuple[Estimate, list[Estimate]]:
    """The first source at its best block, and its controls: the latent it was fed, and every other source."""
    model, *sources = (str(source) for source in measured.source.values)
    controls = [best(measured, model, f"the latent that the model reads ({FED})", fed=True)]
    for name in sources:
        states = best(measured, name)
        controls.append(states if np.isfinite(states.value) else best(measured, name, fed=True))
    return best(measured, model), strongest_first(controls)


def verdict(result: xr.Dataset) -> str:
    """How well the first variable is decoded while the object is seen, and whether it still is while it is hidden."""
    measured = scores(result)
    scored_variables = [v for v in measured.variable.values if np.isfinite(measured.score.sel(variable=v)).any()]
    if not scored_variables:
        return "Too few scenes show any variable to score one."
    some, model = measured.sel(variable=scored_variables[0]), str(result.source.values[0])
    pairs = {sight: compared(some.sel(sight=sight)) for sight in SIGHTS[:2]}
    pairs = {sight: pair for sight, pair in pairs.items() if np.isfinite(pair[0].value)}
    parts: list[str] = []
    for sight, (accuracy, controls) in pairs.items():
        # The conclusion at the end names the control of the last one.
        control = f"; strongest control: {controls[0].text(digits=2)}" if controls and sight != [*pairs][-1] else ""
        parts.append(
            f"{accuracy.number(digits=2)} while it is {sight} (n = {int(some.n.sel(sight=sight))} test scenes{control})"
        )
    end = conclusion(*[*pairs.values()][-1], digits=2, what="The latter" if len(parts) > 1 else "This")
    return (
        f"The object's {VARIABLES.get(str(scored_variables[0]), scored_variables[0])} is decoded from the"
        f" states of {model}, at the best block, with R² {' and '.join(parts)}. {end}"
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """By sight and variable the best R² of the model and of its strongest control; in full every source and place."""
    measured, sigma = scores(result), results.facts(result)["sigma"]
    lines = [f"R² on test scenes at σ = {sigma:.2f}, against the mean of the latent frame; 95% intervals of the best"]
    return "\n".join([*lines, *(_full(measured) if full else _short(measured))])


def _short(measured: xr.Dataset) -> list[str]:
    rows = [["variable", "object", "scenes", str(measured.source.values[0]), "strongest control"]]
    for variable, sight in product(measured.variable.values, measured.sight.values):
        part = measured.sel(sight=sight, variable=variable)
        if int(part.n):
            model, controls = compared(part)
            control = controls[0].text(digits=2) if controls else "-"
            title = VARIABLES.get(str(variable), str(variable))
            rows.append([title, str(sight), str(int(part.n)), model.number(digits=2), control])
    return [*aligned(rows), "(--full: every source, path and block)"]


def _full(measured: xr.Dataset) -> list[str]:
    lines: list[str] = []
    for sight, variable in product(measured.sight.values, measured.variable.values):
        part = measured.sel(sight=sight, variable=variable)
        head = f"{VARIABLES.get(str(variable), variable)}, {sight} (n = {int(part.n)} scenes)"
        if not int(part.n):
            lines.append(f"\n{head}: too few scenes")
            continue
        rows = [[head, "best", *(str(place) for place in part.place.values)]]
        for source, path in product(part.source.values, part.path.values):
            row = part.sel(source=source, path=path).dropna("place", subset=["score"])
            if not row.sizes["place"] or (row.sizes["place"] == 1 and path != part.path.values[0]):
                continue  # what has no blocks is the same on every path
            top = row.isel(place=best_of(row.score.values)[0])
            name = str(source) if row.sizes["place"] == 1 else f"{source}, {path}"
            rows.append([f"  {name}", interval(top.score, top.low, top.high, digits=2)])
            rows[-1] += [number(score, ".2f") for score in row.score]
        lines += ["", *aligned(rows)]
    return lines
