"""Patching effects held against their controls: nulls of the largest, agreement of probes, content; as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from analyses.frozen_probe import halves
from analyses.pairs import (
    Place,
    content,
    label_odd,
    moved,
    of_probe,
    place_dims,
    recovery,
    top_places,
    velocity_recovery,
)
from analyses.readouts import CONTENT, HALF, MEANS, PLAUSIBILITY, RANDOM
from dit_lens import stats

LEVEL = 0.05


def against_flips(odd: xr.DataArray, seed: int = 0) -> xr.Dataset:
    """Label-odd effects as `t` over quadruplets, and what the largest of all reaches where the label means nothing.

    Possible and impossible clips of a quadruplet trade places: under the null all its effects turn over together. The
    largest |t| is taken over all places and steps, and over the readouts of a kind; the models stand apart.

    Returns:
        `t` and `p` (model, readout, step, ...), and the `threshold` of |t| (model, of) that p < 0.05 asks for.
    """
    odd = odd.transpose("model", "readout", "quadruplet", "step", ...)
    t, p = np.full((2, *odd.isel(quadruplet=0).shape), np.nan)
    kinds = list(dict.fromkeys(map(str, odd.kind.values)))
    threshold = np.full((odd.sizes["model"], len(kinds)), np.nan)
    for m, k in np.ndindex(threshold.shape):
        own = odd.kind.values == kinds[k]
        effects = np.moveaxis(odd.values[m, own], 1, 0)
        reached = np.asarray(np.isfinite(effects).all(0))
        told, null = stats.sign_flips(effects[:, reached], seed)
        corrected = stats.selection_corrected_p(np.abs(told), np.abs(null))
        t[m, own], p[m, own] = _put(reached, told), _put(reached, corrected)
        threshold[m, k] = stats.selection_threshold(np.abs(null), LEVEL)
    like = odd.isel(quadruplet=0, drop=True)
    limits = xr.DataArray(threshold, {"model": odd.model.values, "of": kinds}, dims=("model", "of"))
    return xr.Dataset({"t": like.copy(data=t), "p": like.copy(data=p)}).assign(threshold=limits)


def _put(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    placed = np.full(where.shape, np.nan)
    placed[where] = values
    return placed


def agreement(result: xr.Dataset, one: str, other: str) -> float:
    """Rank correlation over places of two readouts' label-odd maps (Spearman), of one model and step."""
    odd = label_odd(result).mean("quadruplet", skipna=False)
    maps = np.stack([odd.sel(readout=name).values.ravel() for name in (one, other)])
    ranked: Any = spearmanr(*maps[:, np.isfinite(maps).all(0)])
    return float(ranked.statistic)


def table(result: xr.Dataset) -> str:
    """Per model and step: the probe's accuracy, the top places on held-out scenes with intervals, and the nulls."""
    _, report = halves(result)
    flips, probed = against_flips(label_odd(result)), of_probe(result)
    lines = [
        f"places ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets, reported on"
        f" {report.sizes['quadruplet']}; effects in probe SDs, [95% interval over quadruplets]",
        f"p: of the largest |t| of all places and steps, signs of all {result.sizes['quadruplet']} quadruplets flipped;"
        " content: rms effect on probes of it, in their SDs",
    ]
    for step in result.step.values:
        for model in map(str, result.model.values):
            at = {"model": model, "step": step}
            chosen = top_places(probed, model, int(step))
            lines += ["", *_head(result.sel(at)), *_top(report.sel(at), flips.sel(at), chosen)]
            lines += _controls(result.sel(at), flips.sel(at))
    return "\n".join(lines)


def _head(whole: xr.Dataset) -> list[str]:
    """What the probe tells of the clips as they are."""
    block, before = int(whole.readout_block), whole.before_logit.sel(readout=PLAUSIBILITY)
    logit = np.stack([before.sel(pair=pair).values for pair in ("A→B", "B→A", "A→C", "A→D")], axis=1)
    right = ((logit > 0) == np.array([True, True, False, False])).mean(1)
    accuracy, low, high = (float(x) for x in stats.bootstrap_ratio(right, np.ones_like(right)))
    return [
        f"{whole.model.item()}, step {int(whole.step)} (sigma {float(whole.sigma):.2f}), probe behind block {block}:"
        f" accuracy per clip",
        f"  {float(whole.train_accuracy.sel(block=block)):.3f} out of fold on training scenes,"
        f" {_interval(accuracy, low, high)} on {len(right)} test quadruplets",
    ]


def _top(report: xr.Dataset, flips: xr.Dataset, chosen: Sequence[Place]) -> list[str]:
    """The chosen places on the report half."""
    dims, probed = place_dims(report), of_probe(report)
    p = flips.p.sel(readout=PLAUSIBILITY).transpose(*dims).values
    swap = probed.effect_logit.sel(pair=["A→B", "B→A"]).mean("pair") / probed.probe_spread
    columns = [_means(label_odd(probed), dims), recovery(probed), _means(swap, dims)]
    rest, rms = content(probed).mean("quadruplet").transpose(*dims).values, moved(report).transpose(*dims, "kind")
    kinds = [kind for kind in CONTENT if kind in rms.kind.values]
    lines = [
        f"  {' '.join(f'{dim:>8}' for dim in dims)}   label-odd effect           p        recovery of the logit     "
        f"  A with B (label kept)      content  {'  '.join(kinds)}"
    ]
    for at in chosen:
        odd, ratio, kept = (_interval(*(float(part[at]) for part in parts), signed=True) for parts in columns)
        named = " ".join(f"{report[dim].values[i]!s:>8}" for dim, i in zip(dims, at, strict=True))
        told = "  ".join(f"{float(rms[at].sel(kind=kind)):{len(kind)}.3f}" for kind in kinds)
        lines.append(f"  {named}   {odd}    {p[at]:.4f}   {ratio}    {kept}    {rest[at]:.3f}    {told}")
    return lines


def _means(effects: xr.DataArray, dims: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over quadruplets with their intervals."""
    values = effects.transpose("quadruplet", *dims).values
    return stats.bootstrap_ratio(values, np.ones_like(values))


def _controls(whole: xr.Dataset, flips: xr.Dataset) -> list[str]:
    """What must be flat, what must be 0, how far two probes agree, and what the content probes are worth."""
    beyond = [int((flips.p.isel(readout=flips.kind.values == kind) < LEVEL).sum()) for kind in (PLAUSIBILITY, RANDOM)]
    largest = abs(label_odd(whole).mean("quadruplet")).max(place_dims(whole))
    random = [f"{float(x):.3f}" for x in largest[whole.kind.values == RANDOM]]
    places, limit = int(flips.p.sel(readout=PLAUSIBILITY).notnull().sum()), flips.threshold.sel(of=PLAUSIBILITY)
    halved, means = agreement(whole, f"{HALF} 0", f"{HALF} 1"), agreement(whole, PLAUSIBILITY, MEANS)
    return [
        f"  all {places} places: {beyond[0]} beyond the corrected threshold (|t| {float(limit):.2f}); largest label-odd"
        f" effect {float(largest.sel(readout=PLAUSIBILITY)):.3f}; along random directions"
        f" {', '.join(random) or 'none drawn'}, {beyond[1]} beyond theirs",
        f"  rank agreement over places: probes of half the scenes each {halved:.2f}, difference of means {means:.2f};"
        f" {_exact(whole)}",
        f"  content probes, R² out of fold and rms effect at the median place: {_content_probes(whole)}",
    ]


def _content_probes(whole: xr.Dataset) -> str:
    rms, found = moved(whole).median(place_dims(whole)), list[str]()
    for kind in (kind for kind in CONTENT if kind in rms.kind.values):
        score = float(whole.score.isel(readout=whole.kind.values == kind).mean())
        found.append(f"{kind} {score:.2f}, {float(rms.sel(kind=kind)):.3f}")
    return "; ".join(found) or "none, the clips' truth is unknown"


def _exact(whole: xr.Dataset) -> str:
    """The velocity, where it was read, and the null that must be 0."""
    read = [name for name in ("logit", "velocity") if whole[f"effect_{name}"].notnull().any()]
    itself = max(float(np.abs(whole[f"effect_{name}"].sel(pair="A→A")).max()) for name in read)
    told = f"velocity recovered at most {float(velocity_recovery(whole).max()):.2f}; " if "velocity" in read else ""
    return f"{told}a clip patched with itself: {itself:g}"


def _interval(estimate: float, low: float, high: float, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
