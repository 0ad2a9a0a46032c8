"""Published accuracies and those measured here: rows by data set and reader, transfers, and what was not run."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from dit_lens.measures import side_by_side
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.reference_numbers import AVERAGE, NUMBERS
from dit_lens.measures.reference_numbers import number as published

NESTED = (*side_by_side.MEASURES, "auroc", "chance")
NONE = "—"  # the value in a result where nothing was published
SHOWN = 14  # rows of the short table


def averages(result: xr.Dataset) -> dict[str, tuple[float, str]]:
    """By reader, the mean nested accuracy over IntPhys and InfLevel where both were run, and what was published."""
    means = {}
    names = np.array([re.split(r"[: ]", str(data))[0] for data in result.data.values])
    for kind in dict.fromkeys(result.kind.values):
        values = [result.accuracy.values[(names == data) & (result.kind.values == kind)] for data in NUMBERS]
        if len(values[0]) and len(values[1]):
            mean = float(np.mean([values[0].mean(), values[1].mean()]))
            means[str(kind)] = mean, str(published(AVERAGE, str(kind)) or NONE)
    return means


def verdict(result: xr.Dataset) -> str:
    """The first row's nested accuracy compared with the published one, and with every other reader of its data."""
    names = [str(kind) for kind in result.kind.values]
    rows = [
        Estimate(name, *(float(result[key][i]) for key in ("accuracy", "low", "high"))) for i, name in enumerate(names)
    ]
    data = [str(name) for name in result.data.values]
    controls = [row for i, row in enumerate(rows) if i and data[i] == data[0]]
    beside = str(result.published.values[0])
    stands = "no published value" if beside == NONE else f"published: {beside}"
    n = f"{int(result.clips[0])} clips in {int(result.groups[0])} groups"
    return (
        f"A linear probe on the states of {names[0]} classifies {data[0]} with an accuracy of {rows[0].number()} per"
        f" clip (cell and penalty chosen inside the other folds; {n}; {stands}). "
        + conclusion(rows[0], controls, 0.5).replace("controls", "other readers").replace("the control", "the reader")
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """A line per data set and reader: published and nested; in full each protocol, other data, and what was not run."""
    lines = _rows(result, full)
    lines += [f"{AVERAGE} × {kind}: {mean:.3f}, published {text}" for kind, (mean, text) in averages(result).items()]
    absent = [str(line) for line in result.not_run.values] if "not_run" in result else []
    if not full:
        return "\n".join([*lines, f"(--full: protocols, probes on other data, and the {len(absent)} rows not run)"])
    if "transfer" in result.sizes:
        lines.append("\nprobe of one data set on another")
        lines += _transfers(result)
    return "\n".join([*lines, *(["", "not run", *absent] if absent else [])])


def _rows(result: xr.Dataset, full: bool) -> list[str]:
    seeds = result.sizes["split_seed"]
    protocols = [str(name) for name in result.protocol.values] if full else []
    lines = [
        "accuracy per clip; nested: cell and penalty chosen inside the other folds [95% interval over groups]"
        + f"; protocols: mean ± SD over {seeds} seeds of what they report (pairwise)" * full
    ]
    lines += [side_by_side.LEGEND]
    text = [["data × reader", "published", *protocols, "nested accuracy", *side_by_side.HEADS[1:], "AUROC"]]
    text[0] += ["clips", "weights"] * full
    for i in range(result.sizes["row"] if full else min(SHOWN, result.sizes["row"])):
        row = result.isel(row=i)
        cells = [f"{row.data.item()} × {row.reader.item()}", str(row.published.item())]
        cells += [_report(row.sel(protocol=name)) for name in protocols]
        cells += [*side_by_side.cells(row), number(row.auroc)]
        text.append([*cells, number(row.clips, ".0f"), str(row.weights.item())] if full else cells)
    return [*lines, *aligned(text)]


def _report(row: xr.Dataset) -> str:
    values = row.reported.values
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread} ({float(row.reported_pairwise.mean()):.2f}, n {int(row.reported_clips)})"


def _transfers(result: xr.Dataset) -> list[str]:
    text = [["reader", "train → test", *side_by_side.HEADS, "AUROC", "chance", "clips"]]
    for i in range(result.sizes["transfer"]):
        row = result.isel(transfer=i)
        measured = xr.Dataset({name: row[f"transfer_{name}"] for name in NESTED})
        further = [number(measured.auroc), number(measured.chance), number(measured.clips, ".0f")]
        direction = f"{row.train.item()} → {row.test.item()}"
        text.append([str(row.transfer_reader.item()), direction, *side_by_side.cells(measured), *further])
    return aligned(text)
