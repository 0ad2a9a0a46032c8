"""Effects of patching: label effects over the pairs of a scene, against nulls, other readouts and control models.

A pair "A→C" is (clean, corrupted): activations of A are put into the run of C. Its sign is +1 where a possible clip is
put into an impossible one, -1 for the reverse, 0 for a control. Crossed scenes have eight pairs with a sign; single
pairs of clips have two, A→C and C→A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from dit_lens.measures.labels import halves, mean_interval, ratio_interval, right
from dit_lens.measures.nulls import sign_flips
from dit_lens.stats import SHARE, order_of

# Kinds of readouts.
PLAUSIBILITY, HALF, MEANS, RANDOM = "plausibility", "half the scenes", "difference of means", "random"
CONTENT = ("position", "colour", "background")
Half = Literal["first", "second"]
SHARING: Mapping[Half, tuple[str, ...]] = {
    "first": ("A→C", "B→D", "C→A", "D→B"),
    "second": ("A→D", "B→C", "D→A", "C→B"),
}
TOP = 3
DIMS = ("model", "scene", "pair", "step", "readout")
Place = tuple[int, ...]


# Effects.


def of_probe(result: xr.Dataset) -> xr.Dataset:
    """Effects on the plausibility probe, without the dimension of readouts."""
    return result.sel(readout=PLAUSIBILITY, drop=True)


def label_effect_of_pairs(result: xr.Dataset, sharing: Half | None = None) -> xr.DataArray:
    """Logit effect averaged over all possible/impossible pairs with the label's sign, in probe SDs.

    Of a pair's effect, what follows the content of a half changes sign between the pairs of a crossed scene and
    cancels; what follows the label stays. A patch that restores the whole difference between the clips of every
    pair has the label effect of the logit itself. Where there are several readouts, one for each.

    Args:
        sharing: only the pairs that have this half in common; NaN where there are none.
    """
    pairs = result if sharing is None else result.sel(pair=[p for p in SHARING[sharing] if p in result.pair.values])
    count = int((pairs.sign != 0).sum()) or np.nan
    return (pairs.effect_logit * pairs.sign).sum("pair", skipna=False) / count / pairs.probe_spread


def content_of_pairs(result: xr.Dataset) -> xr.DataArray:
    """Root mean square over the pairs of a logit effect minus its label effect, in probe SDs.

    NaN for single pairs: from two opposite patches, content cannot be separated from the label.
    """
    pairs = result.sel(pair=result.sign != 0)
    remainder = pairs.effect_logit / result.probe_spread - pairs.sign * label_effect_of_pairs(result)
    return np.sqrt((remainder**2).mean("pair", skipna=False)).where(pairs.sizes["pair"] > 2)


def moved(result: xr.Dataset) -> xr.DataArray:
    """Size of the effects of patches on readouts of a kind, whatever the label: (kind, model, step, ...), in their SDs.

    Root mean square over scenes, the pairs with a sign, and the readouts of the kind.
    """
    pairs = result.sel(pair=result.sign != 0)
    squares = ((pairs.effect_logit / result.probe_spread) ** 2).mean(["scene", "pair"], skipna=False)
    parts = [squares.isel(readout=result.kind.values == kind).mean("readout", skipna=False) for kind in kinds(result)]
    return np.sqrt(xr.concat(parts, "kind").assign_coords(kind=kinds(result)))


def kinds(result: xr.Dataset | xr.DataArray) -> list[str]:
    """The kinds of readouts, the probe's first."""
    return list(dict.fromkeys(map(str, result.kind.values)))


def velocity_recovery(result: xr.Dataset) -> xr.DataArray:
    """Share of v_clean - v_corrupted that a patch restores: ratio of sums over scenes and the pairs with a sign."""
    pairs = result.sel(pair=result.sign != 0)
    return pairs.effect_velocity.sum(["pair", "scene"]) / pairs.total_velocity.sum(["pair", "scene"])


def recovery(result: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recovered share of the logit: sum of effects over sum of clean - corrupted, signed, with its interval.

    Shapes (model, step, ...) as far as `result` has them.
    """
    effect = (result.effect_logit * result.sign).sum("pair", skipna=False)
    return ratio_interval(effect, (result.total_logit * result.sign).sum("pair").broadcast_like(effect))


def accuracy(whole: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the clips, unpatched, that the probe classifies correctly, of one model and step, with its interval."""
    before = whole.before_logit.sel(readout=PLAUSIBILITY)
    first = {str(pair)[-1]: pair for pair in reversed(before.pair.values)}  # a pair in which a role is corrupted
    logits = before.sel(pair=list(first.values())).rename(pair="role").assign_coords(role=list(first))
    return mean_interval(right(logits).mean("role", skipna=False), SHARE)


# Places.


def place_dims(result: xr.Dataset) -> list[str]:
    """The dimensions that locate a patch."""
    return [str(dim) for dim in result.effect_logit.dims if dim not in DIMS]


def top_places(result: xr.Dataset, model: str, step: int) -> list[Place]:
    """The places with the largest label effect on the ranking half, by size; indices along `place_dims`."""
    ranking, _ = halves(result)
    effect = (
        label_effect_of_pairs(ranking)
        .sel(model=model, step=step)
        .mean("scene", skipna=False)
        .transpose(*place_dims(result))
    )
    order = order_of(np.abs(effect.values))[:TOP]
    return [tuple(int(i) for i in np.unravel_index(o, effect.shape)) for o in order]


def named(result: xr.Dataset, at: Place) -> str:
    """A place in words, such as "block 2 head 1"."""
    return " ".join(f"{dim} {result[dim].values[i]}" for dim, i in zip(place_dims(result), at, strict=True))


def against_flips(effects: xr.DataArray, seed: int = 0) -> xr.Dataset:
    """Label effects as `t` over scenes, with p-values against the largest of all under meaningless labels.

    The largest |t| is taken over all places and steps, and over the readouts of a kind; the models stand apart.

    Returns:
        `t` and `p` (model, readout, step, ...), and the `threshold` of |t| (model, of) that p < 0.05 asks for.
    """
    effects = effects.transpose("model", "readout", "scene", "step", ...)
    like = effects.isel(scene=0, drop=True).astype(float)
    t, p = np.full((2, *like.shape), np.nan)
    threshold = np.full((effects.sizes["model"], len(kinds(effects))), np.nan)
    for m, k in np.ndindex(threshold.shape):
        of_kind = effects.kind.values == kinds(effects)[k]
        flips = sign_flips(effects.isel(model=m, readout=of_kind), seed)
        t[m, of_kind], p[m, of_kind], threshold[m, k] = flips.t, flips.p, flips.threshold
    limits = xr.DataArray(threshold, {"model": effects.model.values, "of": kinds(effects)}, ("model", "of"))
    return xr.Dataset({"t": like.copy(data=t), "p": like.copy(data=p)}).assign(threshold=limits)


def agreement(result: xr.Dataset, readout: str, compared: str) -> float:
    """Rank correlation over places of two readouts' label effects, of one model and step; NaN where one is missing."""
    if not {readout, compared} <= set(map(str, result.readout.values)):
        return np.nan
    effect = label_effect_of_pairs(result).mean("scene", skipna=False)
    return rank_correlation(*(effect.sel(readout=name).values.ravel() for name in (readout, compared)))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation over entries finite in both; NaN for fewer than two, or if one array is constant."""
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() < 2 or not (np.ptp(x[finite]) and np.ptp(y[finite])):
        return np.nan
    ranked: Any = spearmanr(x[finite], y[finite])
    return float(ranked.statistic)
