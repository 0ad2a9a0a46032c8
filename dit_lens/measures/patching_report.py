"""The report of patching analyses: a verdict on the place with the largest effect, and a table with controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves, largest, mean_interval
from dit_lens.measures.nulls import passing
from dit_lens.measures.patching import (
    CONTENT,
    HALF,
    MEANS,
    PLAUSIBILITY,
    RANDOM,
    Place,
    accuracy,
    against_flips,
    agreement,
    content_of_pairs,
    label_effect_of_pairs,
    moved,
    named,
    of_probe,
    place_dims,
    recovery,
    top_places,
    velocity_recovery,
)

Row = tuple[str, ...]


class Headline(NamedTuple):
    """The place of a model that is largest on the ranking half, on the other half, and all places together.

    Attributes:
        effect: its label effect on the report half: estimate, low, high.
        p: of it, on all scenes, corrected for the choice among all places and steps.
        beyond, places: how many of all places and steps pass the corrected threshold, of how many.
        largest: the largest label effect of all, in size, on all scenes.
    """

    place: str
    effect: tuple[float, float, float]
    p: float
    beyond: int
    places: int
    largest: float


def headline(result: xr.Dataset, model: str) -> Headline:
    """The headline of a model's patches, over all its steps."""
    probed = of_probe(result)
    ranking, report = halves(probed)
    effect = label_effect_of_pairs(result.sel(readout=[PLAUSIBILITY])).sel(model=[model])
    p = against_flips(effect).p.sel(model=model, readout=PLAUSIBILITY)
    mean = abs(label_effect_of_pairs(ranking).sel(model=model).mean("scene", skipna=False))
    tops = {int(step): top_places(probed, model, int(step))[0] for step in probed.step.values}
    step = max(tops, key=lambda s: float(mean.sel(step=s).transpose(*place_dims(probed)).values[tops[s]]))
    at = dict(zip(place_dims(probed), tops[step], strict=True))
    cell = label_effect_of_pairs(report).sel(model=model, step=step).isel(at)
    estimate, low, high = (float(x) for x in mean_interval(cell))
    name = named(probed, tops[step]) + (f" at step {step}" if len(tops) > 1 else "")
    return Headline(name, (estimate, low, high), float(p.sel(step=step).isel(at)), *passing(p), largest(effect))


def verdict(result: xr.Dataset, noun: str, where: str = "") -> str:
    """The result of patching in two sentences.

    Args:
        noun: the kind of place, such as "head".
        where: more about the places, such as " at all tokens".
    """
    model, *controls = map(str, result.model.values)
    first, n = headline(result, model), result.sizes["scene"]
    subject = f"{first.beyond} of {first.places} {noun}s" if first.beyond else f"No {noun}"
    passes = "pass" if first.beyond > 1 else "passes"
    sentences = [
        f"{subject} of {model}{where} {passes} the corrected threshold (n = {n} test scenes);"
        f" {first.place}, ranked first on half of them, has on the other {halves(result)[1].sizes['scene']} a"
        f" {text.LABEL_EFFECT} of {text.interval(*first.effect, signed=True)} probe SD ({text.p_value(first.p)} over"
        f" all scenes, corrected for the choice among {first.places})."
    ]
    headlines = {name: headline(result, name) for name in controls}
    in_controls = {
        name: f"{control.beyond} of {control.places} pass, largest {control.largest:.3f}"
        for name, control in headlines.items()
    }
    return " ".join([*sentences, text.in_controls(in_controls)])


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model and step the top places on held-out scenes with intervals; in full also the nulls and controls."""
    _, report = halves(result)
    flips, probed = against_flips(label_effect_of_pairs(result)), of_probe(result)
    size, held_out = result.sizes["scene"], report.sizes["scene"]
    lines = [
        f"places ranked on {size - held_out} test scenes, reported on {held_out}; effects in probe SDs, [95% interval"
        " over scenes]",
        f"p: of the largest |t| of all places and steps, signs of all {size} scenes flipped;"
        " content: rms effect on probes of it, in their SDs",
    ]
    short: list[Row] = [("model", "place", "label effect", "p corrected", "recovery of the logit")]
    for step in map(int, result.step.values):
        for model in map(str, result.model.values):
            at = {"model": model, "step": step}
            chosen = top_places(probed, model, step)
            if full:
                lines += ["", *_head(result.sel(at)), *_top(report.sel(at), flips.sel(at), chosen)]
                lines += _controls(result.sel(at), flips.sel(at))
            else:
                listed_places = chosen if model == result.model.values[0] else chosen[:1]
                short += _short(f"{model}, step {step}", report.sel(at), flips.sel(at), listed_places)
    return "\n".join(lines if full else [lines[0], *aligned(short)])


def _short(name: str, report: xr.Dataset, flips: xr.Dataset, chosen: Sequence[Place]) -> list[Row]:
    """The chosen places of a model: name, place, label effect, p, recovery."""
    dims, probed = place_dims(report), of_probe(report)
    p, columns = _p(flips, dims), (_means(label_effect_of_pairs(probed), dims), recovery(probed))
    intervals = [[text.interval(*(part[at] for part in parts), signed=True) for parts in columns] for at in chosen]
    return [
        (name, named(report, at), effect, f"{p[at]:.4f}", ratio)
        for at, (effect, ratio) in zip(chosen, intervals, strict=True)
    ]


def _p(flips: xr.Dataset, dims: Sequence[str]) -> np.ndarray:
    return flips.p.sel(readout=PLAUSIBILITY).transpose(*dims).values


def _head(result: xr.Dataset) -> list[str]:
    """Accuracy of the probe on the unpatched clips."""
    block = int(result.readout_block)
    return [
        f"{result.model.item()}, step {int(result.step)} (sigma {float(result.sigma):.2f}), probe after block {block}:"
        f" accuracy per clip",
        f"  {float(result.train_accuracy.sel(block=block)):.3f} out of fold on training scenes,"
        f" {text.interval(*accuracy(result))} on {result.sizes['scene']} test scenes",
    ]


def _top(report: xr.Dataset, flips: xr.Dataset, chosen: Sequence[Place]) -> list[str]:
    """The chosen places on the report half."""
    dims, probed, p = place_dims(report), of_probe(report), _p(flips, place_dims(report))
    same_label = [pair for pair in ("A→B", "B→A") if pair in probed.pair.values]
    swap = probed.effect_logit.sel(pair=same_label).mean("pair") / probed.probe_spread if same_label else None
    columns = [_means(label_effect_of_pairs(probed), dims), recovery(probed)]
    columns += [] if swap is None else [_means(swap, dims)]
    content = content_of_pairs(probed).mean("scene", skipna=False).transpose(*dims).values
    rms = moved(report).transpose(*dims, "kind")
    content_kinds = [kind for kind in CONTENT if kind in rms.kind.values]
    lines = [
        f"  {' '.join(f'{dim:>8}' for dim in dims)}   label effect               p        recovery of the logit     "
        f"{'' if swap is None else '  A with B (label kept)    '}  content  {'  '.join(content_kinds)}"
    ]
    for at in chosen:
        effect, *further_cells = (text.interval(*(part[at] for part in parts), signed=True) for parts in columns)
        name = " ".join(f"{report[dim].values[i]!s:>8}" for dim, i in zip(dims, at, strict=True))
        of_content = "  ".join(f"{float(rms[at].sel(kind=kind)):{len(kind)}.3f}" for kind in content_kinds)
        further = "    ".join(further_cells)
        lines.append(f"  {name}   {effect}    {p[at]:.4f}   {further}    {content[at]:.3f}    {of_content}")
    return lines


def _means(effects: xr.DataArray, dims: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over scenes with their intervals, by place."""
    return mean_interval(effects.transpose("scene", *dims))


def _controls(result: xr.Dataset, flips: xr.Dataset) -> list[str]:
    """The nulls, the values that must be 0, the agreement of two probes, and the scores of the content probes."""
    beyond = [passing(flips.p.isel(readout=flips.kind.values == kind))[0] for kind in (PLAUSIBILITY, RANDOM)]
    most = abs(label_effect_of_pairs(result).mean("scene", skipna=False)).max(place_dims(result))
    random = [f"{float(x):.3f}" for x in most[result.kind.values == RANDOM]]
    places, limit = int(flips.p.sel(readout=PLAUSIBILITY).notnull().sum()), flips.threshold.sel(of=PLAUSIBILITY)
    halved, means = agreement(result, f"{HALF} 0", f"{HALF} 1"), agreement(result, PLAUSIBILITY, MEANS)
    return [
        f"  all {places} places: {beyond[0]} beyond the corrected threshold (|t| {float(limit):.2f}); largest label"
        f" effect {float(most.sel(readout=PLAUSIBILITY)):.3f}; along random directions"
        f" {f'{listed}, {beyond[1]} beyond theirs' if (listed := ', '.join(random)) else 'none drawn'}",
        f"  rank agreement over places: probes of half the scenes each {halved:.2f}, difference of means {means:.2f};"
        f" {_exact(result)}",
        f"  content probes, R² out of fold and rms effect at the median place: {_content_probes(result)}",
    ]


def _content_probes(result: xr.Dataset) -> str:
    rms, parts = moved(result).median(place_dims(result)), list[str]()
    for kind in (kind for kind in CONTENT if kind in rms.kind.values):
        score = float(result.score.isel(readout=result.kind.values == kind).mean())
        parts.append(f"{kind} {score:.2f}, {float(rms.sel(kind=kind)):.3f}")
    return "; ".join(parts) or "none, the clips' truth is unknown"


def _exact(result: xr.Dataset) -> str:
    """The velocity, where it was read, and the null that must be 0."""
    read = [name for name in ("logit", "velocity") if f"effect_{name}" in result]
    read = [name for name in read if result[f"effect_{name}"].notnull().any()]
    itself = max(float(np.abs(result[f"effect_{name}"].sel(pair="A→A")).max()) for name in read)
    velocity = (
        f"velocity recovered at most {float(velocity_recovery(result).max()):.2f}; " if "velocity" in read else ""
    )
    return f"{velocity}a clip patched with itself: {itself:g}"
