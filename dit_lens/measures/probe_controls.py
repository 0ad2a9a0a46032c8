"""Scores of the probes of `analyses.probe_controls`, row by row: the model's states and every control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion, strongest_first
from dit_lens.measures.selection import counted
from dit_lens.measures.text import interval

if TYPE_CHECKING:
    from dit_lens.probing.scoring import Scores

PHYSICS, RANDOM = "physics", "random, by scene"
COLUMNS = (*side_by_side.MEASURES, "auroc", "auroc_low", "auroc_high", "chance")
PATHS = ("inversion", "noising", "continuation")
TOO_FEW = "too few labels are known"
SHOWN = 10  # controls in the short table


def row_scores(row: xr.Dataset) -> Scores | None:
    """Scores of the log odds of one row on clips whose label is known; None of fewer than two groups of scenes."""
    from dit_lens.probing.scoring import score

    logit, label = (row[key].transpose("scene", "role").values for key in ("logit", "label"))
    labelled = np.isfinite(logit)
    names = row.group.values if "group" in row.coords else np.arange(len(logit))
    numbers = (np.unique(names, return_inverse=True)[1], np.arange(len(logit)))
    groups, scenes = (np.broadcast_to(numbering[:, None], logit.shape)[labelled] for numbering in numbers)
    crossed = row.crossed.values if "crossed" in row.coords else np.zeros(len(logit), bool)
    roles = np.where(crossed[:, None], row.role.values.astype(str), "")[labelled]
    truth = label[labelled] > 0.5
    if len(np.unique(groups)) < 2 or len(np.unique(truth)) < 2:
        return None
    return score(logit[labelled], truth, groups, scenes, roles)


def scores(result: xr.Dataset) -> xr.Dataset:
    """`COLUMNS` by row, and the reasons of what is `absent`; NaN where too few labels are known.

    `chance` is the share of the commoner label.
    """
    measured = [row_scores(result.isel(row=i)) for i in range(result.sizes["row"])]
    values = {key: ("row", [np.nan if row is None else getattr(row, key) for row in measured]) for key in COLUMNS}
    absent = [TOO_FEW if row is None else side_by_side.reasons(row.absent) for row in measured]
    names = {key: ("row", result[key].values) for key in ("source", "asked")}
    return xr.Dataset({**values, "absent": ("row", absent)}, names)


def of_label(measured: xr.Dataset, label: str) -> list[Estimate]:
    """Accuracies of all sources for one label, in the order of the rows."""
    some = measured.isel(row=np.flatnonzero(measured.asked == label))
    parts = zip(some.source.values, some.accuracy.values, some.low.values, some.high.values, strict=True)
    return [Estimate(str(name), *(float(x) for x in numbers)) for name, *numbers in parts]


def is_other_path(source: str, lead: str) -> bool:
    """Whether a source is the same model's states on another path, which is no control."""
    (model, *_), (other_model, *path) = lead.split(", "), source.split(", ")
    return model == other_model and len(path) == 1 and path[0] in PATHS


def verdict(result: xr.Dataset) -> str:
    """The first row's accuracy on physics against chance, every control, and random labels."""
    measured = scores(result)
    lead, *readers = of_label(measured, PHYSICS)
    controls = [reader for reader in readers if not is_other_path(reader.name, lead.name)]
    random = [reader for reader in of_label(measured, RANDOM) if reader.name == lead.name]
    leak = f" Labels drawn at random by scene are decoded with an accuracy of {random[0].number()}." if random else ""
    return (
        f"A linear probe on {lead.name} separates possible from impossible clips with an accuracy of {lead.number()}"
        f" per clip (n = {counted(result)}). {conclusion(lead, controls, 0.5)}{leak}"
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """The first row and its strongest controls on physics; in full every row of every label, and what was not run."""
    measured = scores(result)
    labels = list(dict.fromkeys(str(label) for label in result.asked.values)) if full else [PHYSICS]
    lines = ["cell chosen on training scenes; test clips; 95% intervals over scenes", side_by_side.LEGEND]
    for label in labels:
        rows = np.flatnonzero(measured.asked == label)
        if not full:
            lead, *readers = of_label(measured, label)
            names_shown = [lead.name, *(reader.name for reader in strongest_first(readers)[:SHOWN])]
            names = [str(name) for name in measured.source.values[rows]]
            rows = rows[[names.index(name) for name in names_shown]]
        head = [f"label: {label}", *side_by_side.HEADS, "AUROC"]
        head += ["clips", "chance", "step, layer", "weights", "sees"] if full else []
        lines += ["", *aligned([head, *(_cells(measured.isel(row=i), result.isel(row=i), full) for i in rows)])]
        lines += side_by_side.notes(measured.isel(row=rows))
    if not full:
        return "\n".join([*lines, "(--full: every control, other labels, what was not run)"])
    absent = [str(line) for line in result.not_run.values] if "not_run" in result else []
    return "\n".join([*lines, *(["", "not run", *absent] if absent else [])])


def _cells(row: xr.Dataset, recorded: xr.Dataset, full: bool) -> list[str]:
    cells = [str(row.source.item()), *side_by_side.cells(row), interval(row.auroc, row.auroc_low, row.auroc_high)]
    if full:
        cells += [number(row.clips, ".0f"), number(row.chance)]
        cells += [
            f"{int(recorded.chosen_step)}, {recorded.layer.item()}",
            str(recorded.weights.item()),
            str(recorded.sees.item()),
        ]
    return cells
