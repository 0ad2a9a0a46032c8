"""Measures of `analyses.ablate_heads`: the heads that a model needs to separate possible and impossible clips."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.ablation import (
    CONTROL,
    FIXED,
    NONE,
    REFITTED,
    loss,
    loss_interval,
    points,
    replacements,
    scores_of,
    value,
)
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves
from dit_lens.stats import order_of

TOP = 4
SHOWN = 2  # in the short table


def top_heads(result: xr.Dataset, model: str) -> list[tuple[int, int]]:
    """The (block, head) without which the refitted probe loses most, over replacements but the random write."""
    ranking, _ = halves(result)
    lost = (
        loss(ranking)
        .sel(model=model, score=REFITTED, replacement=replacements(result))
        .mean("replacement", skipna=False)
    )
    values = lost.transpose("block", "head").values
    order = order_of(values)[:TOP]
    return [(int(o) // values.shape[1], int(o) % values.shape[1]) for o in order]


def _interval(report: xr.Dataset, model: str, kind: str, score: str, head: tuple[int, int]):
    """Loss of a score without a head, with its interval."""
    at = {"model": model, "score": score, "block": head[0], "head": head[1]}
    return loss_interval(report.sel(at, drop=True).sel(replacement=[NONE, kind]))


def verdict(result: xr.Dataset) -> str:
    """Cost of ablating the most important head, compared with a random write and the control models."""
    (_, report), kind = halves(result), replacements(result)[0]
    model, *controls = map(str, result.model.values)
    head = top_heads(result, model)[0]
    lost, low, high = _interval(report, model, kind, REFITTED, head)
    needed = f"{model} needs block {head[0]} head {head[1]}" if float(low) > 0 else f"No head of {model} is needed"
    against = ""
    if CONTROL in result.replacement.values:
        against = (
            "; a random write of the same length costs the refitted probe"
            f" {points(_interval(report, model, CONTROL, REFITTED, head))}"
        )
    firsts = {name: _interval(report, name, kind, REFITTED, top_heads(result, name)[0]) for name in controls}
    in_controls = {name: f"{points(first)} points without its first head" for name, first in firsts.items()}
    return (
        f"{needed}: without block {head[0]} head {head[1]} ({kind}; ranked first on half of the scenes), a refitted"
        f" probe loses {points((lost, low, high))} points of accuracy on the other {report.sizes['scene']} scenes, and"
        f" the fixed probe {points(_interval(report, model, kind, FIXED, head))}{against}."
        f" {text.in_controls(in_controls)}"
    )


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model the cost of ablating the top heads on held-out scenes; in full also the scores of the whole model."""
    _, report = halves(result)
    scores = scores_of(result)
    lines = [
        f"states after block {int(result.readout)}; loss in points without a head [95% interval over"
        f" {report.sizes['scene']} scenes other than those that heads were ranked on]"
    ]
    if not full:
        rows: list[tuple[str, ...]] = [("model", "head", "replaced by", *scores)]
        for i, model in enumerate(map(str, result.model.values)):
            for head in top_heads(result, model)[: 1 if i else SHOWN]:
                for kind in dict.fromkeys([*replacements(result)[:1], *result.replacement.values[-1:]]):
                    cells = (points(_interval(report, model, kind, score, head)) for score in scores)
                    rows.append((model, f"block {head[0]} head {head[1]}", str(kind), *cells))
        return "\n".join([*lines, *aligned(rows)])
    for model in map(str, result.model.values):
        lines += ["", *_lines(result, report, model, scores)]
    return "\n".join(lines)


def _lines(result: xr.Dataset, report: xr.Dataset, model: str, scores: list[str]) -> list[str]:
    intact = value(result.sel(model=model, replacement=NONE).isel(block=0, head=0))
    listing = " · ".join(f"{name} {float(intact.sel(score=name)):.3f}" for name in scores)
    lines = [
        f"{model}, whole: {listing} (n = {result.sizes['scene']})",
        f"  {'block.head':<11}{'replacement':<14}" + "".join(f"{name:>24}" for name in scores),
    ]
    for block, head in top_heads(result, model):
        for kind in result.replacement.values[1:]:
            cells = (points(_interval(report, model, kind, score, (block, head))) for score in scores)
            lines.append(f"  {f'{block}.{head}':<11}{kind:<14}" + "".join(f"{cell:>24}" for cell in cells))
    everywhere = 100 * loss(report).sel(model=model).mean(["block", "head"])
    for kind in result.replacement.values[1:]:
        cells = "".join(f"{float(everywhere.sel(replacement=kind, score=name)):>+24.1f}" for name in scores)
        lines.append(f"  {'all, mean':<11}{kind:<14}{cells}")
    return lines
