"""The label effect: the part of a value that depends on the label (possible, impossible), not on the content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import xarray as xr

from dit_lens import stats

SIGNS = {"A": 1, "B": 1, "C": -1, "D": -1}  # possible, possible, impossible, impossible
Result = TypeVar("Result", xr.Dataset, xr.DataArray)


def signs(roles: Sequence[str] | xr.DataArray) -> xr.DataArray:
    """+1 for possible and -1 for impossible roles, along `role`."""
    names = [str(role) for role in np.asarray(roles)]
    return xr.DataArray([SIGNS[name] for name in names], {"role": names}, ("role",))


def label_effect(values: xr.DataArray) -> xr.DataArray:
    """Mean over the pairs of a scene of possible minus impossible, without the dimension `role`.

    Of a scene with two pairs this is (A + B - C - D) / 2. Where the scene
    is crossed (C has its frames from A and B, D the others), everything that is a sum over frames cancels in it.

    Worked example: logits A 3, B 1, C 2, D 0 give (3 + 1 - 2 - 0) / 2 = 1. Of a single pair, A 3 and C 2 give 1.
    """
    sign = signs(values.role)
    return (values * sign).sum("role", skipna=False) / (len(sign) / 2)


def largest(effects: xr.DataArray) -> float:
    """The largest mean over scenes of all cells, in size; cells that some scene lacks (NaN) do not count."""
    return float(np.abs(effects.mean("scene", skipna=False)).max())


def content(values: xr.DataArray) -> xr.DataArray:
    """Root mean square over scenes of the effect of the content of either half on a value, whatever the label.

    Of scenes with two pairs: half the differences between A and B that C and D keep by their first and second half.
    Of single pairs there is none, and the result is NaN.
    """
    if values.sizes["role"] < len(SIGNS):
        return values.isel(role=0, drop=True).mean("scene", skipna=False) * np.nan
    a, b, c, d = (values.sel(role=role, drop=True) for role in SIGNS)
    first, second = (a + c - b - d) / 2, (a + d - b - c) / 2
    return ((first**2 + second**2) / 2).mean("scene", skipna=False) ** 0.5


def by_group(values: Result) -> Result:
    """Values averaged over the scenes of each group, which are not independent; unchanged if each is one scene.

    A scene with one possible clip and several violations gives several pairs: they are one observation.
    """
    if "group" not in values.coords or len(np.unique(values.group)) == values.sizes["scene"]:
        return values
    return values.groupby("group").mean("scene", skipna=False).rename(group="scene")


def halves(result: Result) -> tuple[Result, Result]:
    """The test scenes in two halves with the same properties: one to rank on, one to report.

    Scenes of one group are on one side. Of properties with a single group, every other goes to the first half.
    """
    groups = np.asarray(result.group if "group" in result.coords else result.scene)
    by_law: dict[str, list[str]] = {}
    for law, group in zip(np.asarray(result.property), groups, strict=True):
        by_law.setdefault(str(law), []).append(group)
    strata = [list(dict.fromkeys(names)) for names in by_law.values()]
    alone = [names[0] for names in strata if len(names) == 1]
    ranked = {name for names in [*(names for names in strata if len(names) > 1), alone] for name in names[::2]}
    first = np.array([group in ranked for group in groups])
    return result.isel(scene=first), result.isel(scene=~first)


def rows(values: xr.DataArray) -> np.ndarray:
    """One row for each group of scenes, (group, ...): the input of intervals and nulls."""
    return by_group(values).transpose("scene", ...).values


def right(logits: xr.DataArray) -> xr.DataArray:
    """1 where a logit (..., role) has the sign of the clip's label, 0 where it has not, NaN where it is NaN."""
    return ((logits > 0) == (signs(logits.role) > 0)).astype(float).where(logits.notnull())


def mean_interval(
    values: xr.DataArray, bounds: stats.Bounds | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over scenes with its 95% interval over groups of scenes: estimate, low, high, shaped as the other axes.

    Of a single group the interval is NaN.

    Args:
        bounds: `stats.SHARE` of accuracies and other shares; see `stats.ratio_interval`.
    """
    return stats.mean_interval(rows(values), bounds=bounds)


def ratio_interval(
    numerator: xr.DataArray, denominator: xr.DataArray, bounds: stats.Bounds | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of sums over scenes with its 95% interval over groups of scenes; both of the same dimensions.

    Of a single group the interval is NaN. `bounds` is as for `mean_interval`.
    """
    over = by_group(numerator).transpose("scene", ...)
    under = by_group(denominator).transpose(*over.dims)
    if over.sizes["scene"] == 1:
        unknown = np.full(over.shape[1:], np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return over.values[0] / under.values[0], unknown, unknown
    return stats.ratio_interval(over.values, under.values, bounds=bounds)


def d_prime(values: xr.DataArray) -> float:
    """Mean label effect over its standard deviation across groups of scenes, of values (scene, role)."""
    return stats.d_prime(rows(values.transpose("scene", "role")), signs(values.role).values.tolist())


def pairwise_accuracy(values: xr.DataArray) -> xr.DataArray:
    """Share of the possible/impossible pairs of each scene that are in order (scene), a tie counting one half."""
    ordered = values.transpose("scene", "role", ...)
    return ordered.isel(role=0, drop=True).copy(
        data=stats.pairwise_accuracy(ordered.values, signs(values.role).values.tolist())
    )
