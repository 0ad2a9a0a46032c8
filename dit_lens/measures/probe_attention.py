"""Accuracy of probes on attention between frames, by block and head, compared with probes on the states."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens import results
from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.probe_blocks import correct
from dit_lens.measures.selection import counted
from dit_lens.measures.text import p_value
from dit_lens.stats import best_of

ALL, STATES, HEAD = "all heads", "states", "one head"


def accuracies(result: xr.Dataset) -> xr.DataArray:
    """Accuracy per clip on test scenes by source, block and feature."""
    return correct(result.logit).mean("scene", skipna=False).transpose("source", "block", "feature")


def kinds(result: xr.Dataset) -> dict[str, list[str]]:
    """The features to choose among: single heads, all heads of a block, states."""
    heads = [str(feature) for feature in result.feature.values if feature not in (ALL, STATES)]
    return {HEAD: heads, ALL: [ALL], STATES: [STATES]}


def chosen(result: xr.Dataset) -> xr.Dataset:
    """By source and kind, test scores at the cell chosen on training scenes: every measure with interval."""
    scored = [
        xr.concat([_chosen(result.sel(source=source, feature=names)) for names in kinds(result).values()], "kind")
        for source in result.source.values
    ]
    return xr.concat(scored, "source").assign_coords(source=result.source.values, kind=list(kinds(result)))


def _chosen(result: xr.Dataset) -> xr.Dataset:
    """The best cell of one source among these features."""
    inside = result.train_accuracy.transpose("block", "feature")
    block, feature = best_of(inside.values)
    logit = result.logit.isel(block=block, feature=feature)
    measured = side_by_side.numbers(side_by_side.of_table(logit))
    cell = {"cell_block": int(result.block[block]), "cell_feature": str(result.feature.values[feature])}
    return xr.Dataset({**measured, **cell, "inside": float(inside.max())})


def estimate(scores: xr.Dataset, source: str, kind: str, name: str = "") -> Estimate:
    """The accuracy of a source by one kind of feature."""
    row = scores.sel(source=source, kind=kind)
    return Estimate(name or source, float(row.accuracy), float(row.low), float(row.high))


def verdict(result: xr.Dataset) -> str:
    """How well the attention of one head decodes plausibility, against other models and the states of the same one."""
    scores, (model, *other_sources) = chosen(result), [str(source) for source in result.source.values]
    accuracy, cell = estimate(scores, model, HEAD), scores.sel(source=model, kind=HEAD)
    states = estimate(scores, model, STATES, f"the states of {model} by the same probe")
    beyond = ", more than its states do" if states.high < accuracy.low else ", no more than its states do"
    return (
        f"Where head {int(cell.cell_block)}.{cell.cell_feature.item()} of {model} attends (block and head chosen on"
        f" training scenes; the best of all there: {p_value(result.p.sel(source=model))}) separates possible"
        f" from impossible clips with an accuracy of {accuracy.number()} per clip (n = {counted(result)}){beyond}"
        f" ({states.number()}). " + conclusion(accuracy, [estimate(scores, name, HEAD) for name in other_sources], 0.5)
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per source and kind of feature at the cell chosen on training scenes; in full also the null."""
    scores, sigma = chosen(result), results.facts(result)["sigma"]
    head = ["source", "features", "block, head", *side_by_side.HEADS]
    lines = [head + ["training scenes"] * full]
    for source in result.source.values:
        for kind in kinds(result):
            row = scores.sel(source=source, kind=kind)
            cells = [f"{int(row.cell_block)}, {row.cell_feature.item()}", *side_by_side.cells(row)]
            lines.append([str(source), kind, *cells, *[number(row.inside)] * full])
    title = (
        f"accuracy per clip on {result.sizes['scene']} test scenes (95% intervals over them), σ = {sigma:.2f};"
        " cell chosen on training scenes"
    )
    text = [title, side_by_side.LEGEND, *aligned(lines), *side_by_side.notes(scores)]
    for source in result.source.values if full else ():
        threshold, p = (float(result[key].sel(source=source)) for key in ("threshold", "p"))
        reached = f"{threshold:.3f} in 1 of 20 labellings" if np.isfinite(threshold) else "(too few labellings)"
        text.append(
            f"{source}: under random labels, the best attention cell reaches on training scenes {reached}; {p_value(p)}"
        )
    return "\n".join(text if full else [*text, "(--full: what chance reaches)"])
