"""Measures of `analyses.attribute_writes`: the components whose writes the probe reads as plausibility."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import content, halves, label_effect, largest, ratio_interval
from dit_lens.measures.nulls import passing, sign_flips
from dit_lens.stats import order_of

TOP = 6
SHOWN = 3  # in the short table
Component = tuple[int, str]


def components(result: xr.Dataset) -> xr.Dataset:
    """The components that can depend on the clip: all but projection biases, which write the same into every clip."""
    return result.sel(component=[not str(name).endswith("bias") for name in result.component.values])


def effects(result: xr.Dataset) -> xr.DataArray:
    """Label effect of the write of each component (scene, direction, block, component), in probe SDs."""
    return label_effect(components(result).attribution) / result.probe_spread


def top(result: xr.Dataset, model: str) -> list[Component]:
    """The (block, component) with the largest label effects on the ranking half, by size."""
    ranking = halves(result)[0].sel(model=model, direction="probe")
    mean = effects(ranking).mean("scene", skipna=False).transpose("block", "component")
    order = order_of(np.abs(mean.values))[:TOP]
    return [
        (int(mean.block[row]), str(mean.component.values[column]))
        for row, column in zip(*np.unravel_index(order, mean.shape), strict=True)
    ]


def verdict(result: xr.Dataset) -> str:
    """How many components write a label effect, and which most, compared with the control models."""
    model, *controls = map(str, result.model.values)
    report, (block, name) = halves(result)[1].sel(model=model, direction="probe"), top(result, model)[0]
    total, effect = label_effect(report.readout) / report.probe_spread, effects(report)
    p = sign_flips(effect).p
    beyond, count = passing(p)
    written = text.signed_mean(effect.sel(block=block, component=name))
    in_controls = {control: _in_control(result, control) for control in controls}
    return (
        f"{beyond or 'None'} of the {count} components of {model} {'write' if beyond > 1 else 'writes'} a"
        f" {text.LABEL_EFFECT} beyond the corrected threshold (n = {report.sizes['scene']} held-out scenes); block"
        f" {block} {name}, ranked first on the others, writes {written} probe SD of the logit's"
        f" {text.signed_mean(total)}"
        f" ({text.p_value(p.sel(block=block, component=name))}, corrected for the choice among all)."
        f" {text.in_controls(in_controls)}"
    )


def _in_control(result: xr.Dataset, model: str) -> str:
    effect = effects(halves(result)[1].sel(model=model, direction="probe"))
    beyond, count = passing(sign_flips(effect).p)
    return f"{beyond} of {count} pass, largest {largest(effect):.3f}"


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model the components that write most on held-out scenes; in full also the logit's own effect and controls."""
    _, report = halves(result)
    ranked, held_out = result.sizes["scene"] - report.sizes["scene"], report.sizes["scene"]
    lines = [
        f"components ranked on {ranked} test scenes, reported on {held_out}; label effects in probe SDs, [95% interval"
        " over scenes]"
    ]
    if not full:
        return "\n".join([*lines, *aligned(_short(result, report))])
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model), top(result, str(model)))]
    return "\n".join(lines)


def _short(result: xr.Dataset, report: xr.Dataset) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("model", "component", "label effect", "p corrected")]
    for i, model in enumerate(map(str, result.model.values)):
        probed = report.sel(model=model, direction="probe")
        effect = effects(probed)
        p, total = sign_flips(effect).p, label_effect(probed.readout) / probed.probe_spread
        rows.append((model, "the whole logit", text.signed_mean(total)))
        for block, name in top(result, model)[: 1 if i else SHOWN]:
            cell = effect.sel(block=block, component=name)
            interval = text.signed_mean(cell)
            rows.append((model, f"block {block} {name}", interval, f"{float(p.sel(block=block, component=name)):.4f}"))
    return rows


def _lines(result: xr.Dataset, report: xr.Dataset, chosen: list[Component]) -> list[str]:
    block, probed = int(result.readout_block), report.sel(direction="probe")
    total, effect = label_effect(probed.readout) / report.probe_spread, effects(probed)
    p, of_content = sign_flips(effect).p, content(components(probed).attribution) / report.probe_spread
    lines = [
        f"{result.model.item()}, sigma {float(result.sigma):.2f}, probe after block {block}: out of fold"
        f" {float(result.train_accuracy.sel(depth=block)):.3f} on training scenes; label effect of the logit"
        f" {text.signed_mean(total)}",
        "  block component     label effect               share of the logit's         content   p (largest of all)",
    ]
    for at in chosen:
        cell = effect.sel(block=at[0], component=at[1])
        ratio = text.interval(*ratio_interval(cell, total), signed=True)
        lines.append(
            f"  {at[0]:5d} {at[1]:14s}  {text.signed_mean(cell)}  {ratio}"
            f"   {float(of_content.sel(block=at[0], component=at[1])):.3f}"
            f"     {float(p.sel(block=at[0], component=at[1])):.4f}"
        )
    return [*lines, *_controls(result, effects(report))]


def _controls(result: xr.Dataset, effect: xr.DataArray) -> list[str]:
    """Largest label effects along the probe and along random directions, the values that must be 0, the residual."""
    along = abs(effect.mean("scene", skipna=False)).max(["block", "component"])
    random = [f"{float(x):.3f}" for x in along.values[1:]]
    embedding = float(np.abs(label_effect(result.embedding) / result.probe_spread).max())
    residual = float(np.abs(result.unexplained / result.probe_spread).max())
    must_be = " (0 by construction)" if bool(np.all(result.crossed)) else ""
    return [
        f"  largest label effect of any component {float(along[0]):.3f}; along random directions"
        f" {', '.join(random) or 'none drawn'}",
        f"  embedding{must_be}: at most {embedding:.1g}; components sum to every logit within {residual:.1g}",
    ]
