"""What `analyses.ablate_blocks` tells: label-odd effects, their threshold, surprise, and the table."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from analyses.ablations import SCORES, loss_interval
from analyses.frozen_probe import halves
from dit_lens import stats

CONTROL = "random write"
FLIPS = 2000
LEVEL = 0.05


def label_odd(result: xr.Dataset) -> xr.DataArray:
    """(A + B - C - D) / 2 of the probe's logit in its SDs: by replacement that of the change, at "none" the whole's."""
    odd = _contrast(result.logit)
    whole = odd.sel(replacement="none")
    return xr.concat([odd.sel(replacement=["none"]), odd.drop_sel(replacement="none") - whole], "replacement")


def surprise(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Numerator and denominator, by quadruplet, of the surprise (at "none") and of its change, in per cent.

    The denominator is the whole model's error on the possible clips, so that a block without which all errors grow does
    not surprise less for that.
    """
    contrast = -_contrast(result.error)
    whole = contrast.sel(replacement="none")
    change = xr.concat(
        [contrast.sel(replacement=["none"]), contrast.drop_sel(replacement="none") - whole], "replacement"
    )
    possible = result.error.sel(role=["A", "B"], replacement="none").mean("role")
    return 100 * change, possible.broadcast_like(change)


def _contrast(values: xr.DataArray) -> xr.DataArray:
    a, b, c, d = (values.sel(role=role, drop=True) for role in "ABCD")
    return (a + b - c - d) / 2


def mean_interval(values: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over quadruplets with its 95% interval."""
    x = values.transpose("quadruplet", ...).values
    return stats.bootstrap_ratio(x, np.ones_like(x))


def threshold(odd: xr.DataArray, seed: int = 0) -> tuple[xr.DataArray, float]:
    """T of each cell over quadruplets, and the |t| that the largest of all cells exceeds by chance in 5% of cases.

    Where labels mean nothing, a quadruplet's label-odd effect is as likely as its negative; each flip is of all cells.
    """
    values = odd.transpose("quadruplet", ...)
    x = values.values[:, np.isfinite(values.values).all(0)]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, len(x)))
    square = (x**2).mean(0)
    t = values.isel(quadruplet=0, drop=True).copy(data=_t(values.values.mean(0), (values.values**2).mean(0), len(x)))
    return t, stats.selection_threshold(np.abs(_t(signs @ x / len(x), square, len(x))), LEVEL)


def _t(mean: np.ndarray, square: np.ndarray, count: int) -> np.ndarray:
    """Mean over standard error, 0 where nothing varies."""
    error = np.sqrt(np.maximum(square - mean**2, 0) / (count - 1))
    return mean / np.where(error == 0, np.inf, error)


def table(result: xr.Dataset) -> str:
    """Per model: what the whole model knows, maps of label-odd effects with stars, and the top block on held-out."""
    odd = label_odd(result)
    lines = [
        f"n = {result.sizes['quadruplet']} test quadruplets; effects in probe SDs; * beyond the largest of all cells"
        " under swapped labels (5%)"
    ]
    for model in map(str, result.model.values):
        own = result.sel(model=model)
        lines += ["", f"{model}", *_whole(own)]
        for reading in map(str, result.reading.values):
            lines += ["", *_map(odd.sel(model=model, reading=reading), f"  {reading}, label-odd effect")]
            lines += _top(result, model, reading)
        lines += ["", *_surprise(own)]
    return "\n".join(lines)


def _whole(own: xr.Dataset) -> list[str]:
    """What the whole model knows, by reading."""
    lines = []
    whole = own.sel(replacement="none").isel(write=0, block=0)
    odd = _contrast(whole.logit)
    for reading in ("half given", "at the readout"):
        sums = whole.counts.sel(reading=reading).sum("quadruplet")
        told = " · ".join(
            f"{s} {float((sums.sel(part='good') / sums.sel(part='of')).sel(score=s)):.3f}" for s in SCORES
        )
        lines.append(
            f"  whole, {reading}, states behind block {int(own.readout.sel(reading=reading))}: {told}; label-odd"
            f" {_told(*mean_interval(odd.sel(reading=reading)))}"
        )
    return lines


def _map(odd: xr.DataArray, title: str) -> list[str]:
    """A row for each replacement and write, a column for each block."""
    effects = odd.drop_sel(replacement="none")
    t, beyond = threshold(effects)
    mean = effects.mean("quadruplet", skipna=False)
    lines = [f"{title:<36}" + "".join(f"{f'block {block}':>9}" for block in odd.block.values)]
    for kind, write in product(effects.replacement.values, effects.write.values):
        at = {"replacement": kind, "write": write}
        cells = zip(mean.sel(at).values, t.sel(at).values, strict=True)
        told = ("-" if np.isnan(m) else f"{m:+.2f}{'*' if abs(size) > beyond else ' '}" for m, size in cells)
        lines.append(f"    {f'{kind}, {write}':<32}" + "".join(f"{one:>9}" for one in told))
    return lines


def _top(result: xr.Dataset, model: str, reading: str) -> list[str]:
    """The block that half of the scenes rank first, without all that it writes, on the other half."""
    ranking, report = (half.sel(model=model, reading=reading).isel(write=0) for half in halves(result))
    kinds = [str(kind) for kind in result.replacement.values[1:]]
    real = [kind for kind in kinds if kind not in ("noise", CONTROL)] or kinds
    mean = label_odd(ranking).sel(replacement=real).mean(["replacement", "quadruplet"], skipna=False).values
    block = int(np.argmin(np.nan_to_num(mean, nan=np.inf)))
    at = report.sel(block=block)
    told = [f"{kind} {_told(*mean_interval(label_odd(at).sel(replacement=kind)))}" for kind in kinds]
    lines = [
        f"    most needed on half the scenes: block {block}; on the other {at.sizes['quadruplet']}: {', '.join(told)}"
    ]
    for score in SCORES:
        costs = {kind: loss_interval(at.sel(score=score, replacement=["none", kind])) for kind in kinds}
        points = [
            f"{k} {_told(*(100 * x for x in cost), digits=1)}" for k, cost in costs.items() if np.isfinite(cost[0])
        ]
        lines += [f"      {score}, points lost: {', '.join(points)}"] if points else []
    return lines


def _surprise(own: xr.Dataset) -> list[str]:
    """Of the whole model, and the change without all that a block writes."""
    change, error = (part.isel(write=0).transpose("quadruplet", "replacement", "block") for part in surprise(own))
    estimate, low, high = stats.bootstrap_ratio(change.values, error.values)
    whole = _told(estimate[0, 0], low[0, 0], high[0, 0])
    lines = [f"  surprise of the whole model, second half, first given: {whole} %; its change by block"]
    for i, kind in list(enumerate(change.replacement.values))[1:]:
        cells = (_told(estimate[i, block], low[i, block], high[i, block]) for block in range(estimate.shape[1]))
        lines.append(f"    {kind:<14}" + "".join(f"{cell:>25}" for cell in cells))
    return lines


def _told(estimate: np.ndarray, low: np.ndarray, high: np.ndarray, digits: int = 2) -> str:
    return f"{float(estimate):+.{digits}f} [{float(low):+.{digits}f}, {float(high):+.{digits}f}]"
