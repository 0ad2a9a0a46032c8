"""Encoders side by side: accuracy on physics and on unrelated labels, and surprise without any fit."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import d_prime, mean_interval, pairwise_accuracy
from dit_lens.measures.probe_blocks import chosen, correct, estimate
from dit_lens.measures.probe_controls import is_other_path
from dit_lens.measures.selection import counted, pool_name, pooled
from dit_lens.measures.text import interval
from dit_lens.stats import SHARE

RECOLOURED = ("tint", "tint change")


def recolour_scores(result: xr.Dataset) -> xr.Dataset:
    """Accuracy (with its interval) on each label that is not physics, by source; empty where none was requested."""
    scored = {}
    for label in (label for label in RECOLOURED if f"{label} logit" in result):
        right = correct(result[f"{label} logit"]).rename(tinted="scene").transpose("scene", "source")
        scored[label] = ("measure", "source"), np.stack(mean_interval(right, SHARE))
    return xr.Dataset(scored, {"measure": ["accuracy", "low", "high"], "source": result.source.values})


def surprise_scores(result: xr.Dataset) -> xr.Dataset:
    """How often the impossible clip is the more surprising one, with its interval, and d'; of the pooled scenes."""
    scored: list[xr.Dataset] = []
    for scorer in result.scorer.values:
        plausible = -result.surprise.sel(scorer=scorer).isel(scene=np.flatnonzero(pooled(result)))
        row = dict(zip(("pairwise", "low", "high"), mean_interval(pairwise_accuracy(plausible), SHARE), strict=True))
        scored.append(xr.Dataset(row | {"d_prime": d_prime(plausible)}).expand_dims(scorer=[scorer]))
    return xr.concat(scored, "scorer", data_vars="all")


def verdict(result: xr.Dataset) -> str:
    """How well the model's states decode plausibility, compared with encoders, controls and surprise."""
    scores, (lead, *others) = chosen(result), [str(source) for source in result.source.values]
    accuracy = estimate(scores, lead)
    controls = [estimate(scores, name) for name in others if not is_other_path(name, lead)]
    text = (
        f"By the same probe, {lead} separates possible from impossible clips with an accuracy of"
        f" {accuracy.number()} per clip (n = {counted(result)}). "
        + conclusion(accuracy, controls, 0.5).replace("controls", "encoders and controls")
    )
    if "surprise" in result:
        surprise = surprise_scores(result).isel(scorer=0)
        first = Estimate(str(surprise.scorer.item()), *(float(surprise[key]) for key in ("pairwise", "low", "high")))
        text += f" In {first.number()} of the pairs the impossible clip is the more surprising one to {first.name}."
    return text


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per source: accuracy on physics and on the other labels, and surprises; in full what was not run."""
    scores, tints = chosen(result), recolour_scores(result)
    lines = [
        f"accuracy per clip (95% intervals over scenes), n = {result.sizes['scene']} test scenes"
        + (f", {result.sizes['tinted']} for tints" if "tinted" in result.sizes else "")
        + "; layer chosen on training scenes",
        side_by_side.LEGEND,
    ]
    transfer_head = ["left out"] * ("transfer" in scores)
    rows = [["source", *side_by_side.HEADS, *transfer_head, *tints.data_vars]]
    rows[0] += ["step, layer", "weights", "sees"] * full
    for source in result.source.values:
        row, recorded = scores.sel(source=source), result.sel(source=source)
        cells = side_by_side.cells(row)
        cells += [number(row.transfer) for _ in transfer_head]
        cells += [number(tints[label].sel(source=source)[0]) for label in tints.data_vars]
        if full:
            cells += [
                f"{int(recorded.chosen_step)}, {recorded.layer.item()}",
                str(recorded.weights.item()),
                str(recorded.sees.item()),
            ]
        rows.append([str(source), *cells])
    lines += aligned(rows) + side_by_side.notes(scores)
    lines += _surprise_lines(result, full) if "surprise" in result else []
    absent = [str(line) for line in result.not_run.values] if "not_run" in result and full else []
    return "\n".join([*lines, *(["", "not run", *absent] if absent else [])])


def _surprise_lines(result: xr.Dataset, full: bool) -> list[str]:
    measured = surprise_scores(result)
    rows = []
    for scorer in measured.scorer.values:
        row = measured.sel(scorer=scorer)
        scored = [str(result.scored.sel(scorer=scorer).item())] if full and "scored" in result.coords else []
        rows.append([str(scorer), interval(row.pairwise, row.low, row.high), number(row.d_prime, "+.2f"), *scored])
    count = int(pooled(result).sum())
    title = (
        f"surprise (nothing is fitted): share of pairs whose impossible clip has the larger error, n = {count}"
        f" {pool_name(result)}"
    )
    return ["", title, *aligned(rows)]
