"""Scores of the probes of `analyses.probe_blocks`: accuracy at the cell chosen on training scenes, source by source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import right, rows, signs
from dit_lens.measures.selection import counted, properties
from dit_lens.stats import best_of

READOUTS = {"blocks": "the states", "interaction": "what attention across the break adds to the states"}
CHANGES = ("exchange", "collision", "gate")  # properties of miniphys in which the object changes lawfully
CHANCE = 0.5
FURTHER = {"own": "own cells", "transfer": "left out", "changes": "changes called possible", "unseen": "unseen"}


def correct(logit: xr.DataArray) -> xr.DataArray:
    """Share of the clips of each scene on the right side of 0, from logits (..., role); NaN where a logit is."""
    return right(logit).mean("role", skipna=False)


def chosen(result: xr.Dataset) -> xr.Dataset:
    """Test scores of each source at the cell chosen on training scenes.

    Returns:
        By source: every measure of `stats.Separation`, with its interval and the reason where it is `absent`; and where
        the result has what they need: `own` (accuracy with every property at its own cell),
        `transfer` (with every property left out of the fit), `changes` (the share of the possible clips of lawful
        changes that are called possible), `unseen` (accuracy on unseen shapes, colours and layouts). By source and
        property: `by_property`, `own_by_property`, `transfer_by_property`.
    """
    scored = [_scores(result.sel(source=source)) for source in result.source.values]
    return xr.concat(scored, "source", data_vars="all").assign_coords(source=result.source)


def _scores(result: xr.Dataset) -> xr.Dataset:
    """The scores of one source."""
    accuracies = {"": correct(result.logit)}
    accuracies |= {name: correct(result[f"{name}_logit"]) for name in ("own", "transfer") if f"{name}_logit" in result}
    row: dict = dict(side_by_side.numbers(side_by_side.of_table(result.logit)))
    row |= {name: rows(values).mean() for name, values in accuracies.items() if name}
    lawful = np.isin(properties(result) and result["property"].values, CHANGES)
    if lawful.any():
        possible = result.logit.isel(scene=lawful, role=np.flatnonzero(signs(result.role) > 0))
        row["changes"] = rows(correct(possible)).mean()
    if "unseen_logit" in result:
        row["unseen"] = correct(result.unseen_logit).mean(skipna=False).item()
    names = properties(result)
    for name, values in accuracies.items():
        means = [rows(values.isel(scene=np.flatnonzero(result["property"].values == p))).mean() for p in names]
        row[f"{name}_by_property".removeprefix("_")] = "property", means
    return xr.Dataset(row, {"property": names})


def base(source: str) -> str:
    """A source without its training seed: "runs/mini-wan-1, noising" is one of "mini-wan, noising"."""
    name, *path = source.split(", ")
    return ", ".join([re.sub(r"-\d+$", "", Path(name).name), *path])


def over_seeds(scores: xr.Dataset) -> list[tuple[str, np.ndarray]]:
    """(source, accuracies of all its training seeds) where there are several: NAME and folders called NAME-SEED."""
    groups: dict[str, list[float]] = {}
    for source in scores.source.values:
        groups.setdefault(base(str(source)), []).append(float(scores.accuracy.sel(source=source)))
    return [(name, np.array(values)) for name, values in groups.items() if len(values) > 1]


def headline(result: xr.Dataset) -> tuple[str, list[str]]:
    """The source that a verdict is about, and its controls.

    Of the model's states on several paths, the one that training scenes read best. Its controls are the latent it was
    fed there, the other models on the same path, and what reads whole clips; not other training seeds of the model.
    """
    names = [str(source) for source in result.source.values]
    if "kind" not in result.coords:
        return names[0], [name for name in names[1:] if base(name) != base(names[0])]
    reader, path, kind = (dict(zip(names, result[key].values, strict=True)) for key in ("reader", "path", "kind"))
    same_reader = [name for name in names if reader[name] == reader[names[0]] and kind[name] == "states"]
    inside = result.train_accuracy.sel(source=same_reader).max(("step", "block"))
    lead = same_reader[best_of(inside.values)[0]]
    candidates = [name for name in names if name != lead and (path[name] == path[lead] or kind[name] == "clip")]
    return lead, [name for name in candidates if base(name) != base(lead)]


def estimate(scores: xr.Dataset, source: str) -> Estimate:
    """The accuracy of a source."""
    row = scores.sel(source=source)
    return Estimate(source, float(row.accuracy), float(row.low), float(row.high))


def read_by(result: xr.Dataset) -> str:
    """The readout of the probes, "blocks" or "interaction"."""
    return str(result.readout.item()) if "readout" in result.coords else "blocks"


def verdict(result: xr.Dataset) -> str:
    """How well the model's states separate possible from impossible clips, against chance and every control."""
    scores, (lead, controls) = chosen(result), headline(result)
    accuracy, cell = estimate(scores, lead), result.sel(source=lead)
    at = f"after block {int(cell.chosen_block)}, step {int(cell.chosen_step)}"
    if "sigma" in result.coords:
        at += f", σ = {float(result.sigma.sel(step=int(cell.chosen_step))):.2f}"
    seeds = dict(over_seeds(scores)).get(base(lead))
    over = (
        f"; over {len(seeds)} training seeds {seeds.mean():.3f} ± {seeds.std(ddof=1):.3f}" if seeds is not None else ""
    )
    return (
        f"A linear probe on {READOUTS[read_by(result)]} of {lead} ({at}; cell chosen on training scenes) separates"
        f" possible from impossible clips with an accuracy of {accuracy.number()} per clip (n = {counted(result)})"
        f"{over}. " + conclusion(accuracy, [estimate(scores, name) for name in controls], CHANCE)
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line for the best path of the model and each of its controls; in full all sources, seeds and properties."""
    scores, (lead, controls) = chosen(result), headline(result)
    names = [str(source) for source in result.source.values] if full else [lead, *controls]
    available = [name for name in FURTHER if name in scores and np.isfinite(scores[name]).any()]
    lines = [
        f"accuracy per clip on {result.sizes['scene']} test scenes (95% intervals over scenes); cell chosen on training"
        " scenes; left out: fitted on all other properties",
        side_by_side.LEGEND,
    ]
    heads = [FURTHER[name] for name in available]
    if "unseen" in available:
        heads[available.index("unseen")] += f" (n = {result.sizes['unseen_scene']})"
    lines += aligned(
        [
            ["source", "step, block", *side_by_side.HEADS, *heads],
            *(_cells(scores.sel(source=name), result.sel(source=name), name, available) for name in names),
        ]
    )
    lines += side_by_side.notes(scores.sel(source=names)) + _elsewhere(result, lead, controls)
    for name, values in over_seeds(scores):
        lines.append(f"{name}, over {len(values)} training seeds: {values.mean():.3f} ± {values.std(ddof=1):.3f} (SD)")
    if full and scores.sizes["property"] > 1:
        lines += ["", *_by_property(scores)]
    elif not full:
        lines.append("(--full: all paths, and accuracy by property)")
    return "\n".join(lines)


def _elsewhere(result: xr.Dataset, lead: str, controls: Sequence[str]) -> list[str]:
    """Test accuracy of control models at the cell of the model in question, and at the best cell of all."""
    cell = result.sel(source=lead)
    place = {"step": [int(cell.chosen_step)], "block": [int(cell.chosen_block)]}
    lines: list[str] = []
    for name in controls:
        accuracies = result.test_accuracy.sel(source=name)
        if "kind" in result.coords and result.kind.sel(source=name) == "states" and accuracies.notnull().any():
            there = number(accuracies.reindex(place).squeeze())  # none where a control model has no such block
            lines.append(f"{name}, test accuracy at {lead}'s cell: {there}; at most {number(accuracies.max())}")
    return lines


def _cells(row: xr.Dataset, cell: xr.Dataset, name: str, further: list[str]) -> list[str]:
    return [
        name,
        f"{int(cell.chosen_step):4d}, {int(cell.chosen_block)}",
        *side_by_side.cells(row),
        *(number(row[key]) for key in further),
    ]


def _by_property(scores: xr.Dataset) -> list[str]:
    """Accuracy by property: at the property's own cell and left out of the fit where there are such, else as above."""
    first = "own_by_property" if "own_by_property" in scores else "by_property"
    has_transfer = "transfer_by_property" in scores
    title = "at its own cell" if first.startswith("own") else "by property"
    head = [f"{title} (left out of the fit)" if has_transfer else title, *(str(p) for p in scores.property.values)]
    lines = [head]
    for source in scores.source.values:
        row = scores.sel(source=source)
        cells = [f"{v:.3f}" for v in row[first].values]
        if has_transfer:
            cells = [f"{cell} ({v:.3f})" for cell, v in zip(cells, row.transfer_by_property.values, strict=True)]
        lines.append([str(source), *cells])
    return aligned(lines)
