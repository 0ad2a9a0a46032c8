"""Measures of `analyses.patch_paths`: the paths of a circuit, the screen that chose them, its label effect."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens import stats
from dit_lens.measures import text
from dit_lens.measures.columns import aligned
from dit_lens.measures.labels import halves, label_effect, largest, mean_interval, ratio_interval
from dit_lens.measures.nulls import passing, sign_flips
from dit_lens.measures.patching import label_effect_of_pairs, rank_correlation

READOUT = "readout"
REST, CIRCUIT = "the rest", "the circuit"  # the parts that are resampled
FOUND = "found"  # the circuit among the random ones
SHOWN = 5  # paths in the short table
Edge = tuple[str, str]


def parts_of(edges: Sequence[Edge]) -> list[str]:
    """The heads and writes that a circuit's paths join, "3.1" for "3.1.v"."""
    names = dict.fromkeys(re.sub(r"\.[qkv]$", "", name) for edge in edges for name in edge)
    return [name for name in names if name != READOUT]


def flat(effects: xr.DataArray) -> xr.DataArray:
    """Paths along one dimension, those that run backward left out."""
    return effects.stack(path=["sender", "receiver"]).dropna("path", how="all").transpose("scene", ...)


def edges_of(result: xr.Dataset) -> list[Edge]:
    """The paths of the circuit of a result."""
    return [(str(sender), str(receiver)) for sender, receiver in result.path_joined.values]


def screened(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """On the ranking scenes what gradients estimate and what patching finds (sender, receiver), and their agreement.

    Label effects in probe SDs of the first model, NaN where nothing was patched; rank agreement over the random
    "sample" and over "all patched".
    """
    effect = label_effect_of_pairs(halves(result)[0].isel(model=0)).mean("scene", skipna=False)
    effect = effect.transpose("sender", "receiver")
    chosen = {"sample": result.sampled & effect.notnull(), "all patched": effect.notnull()}
    values = [
        rank_correlation(result.estimate.values[mask.values], effect.values[mask.values]) for mask in chosen.values()
    ]
    return result.estimate, effect, xr.DataArray(values, {"among": list(chosen)}, "among")


def shares(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Label effects of the logit by scene with parts resampled (scene, circuit, resampled), and as it is (scene,).

    Of the report scenes.
    """
    spread = result.probe_spread.isel(model=0, drop=True)
    value, intact = (label_effect(result[name]).rename(report_scene="scene") / spread for name in ("value", "whole"))
    groups = result.group.sel(scene=intact.scene.values) if "group" in result.coords else intact.scene
    value, intact = (part.assign_coords(group=("scene", groups.values)) for part in (value, intact))
    return value.transpose("scene", "circuit", "resampled"), intact


def total(result: xr.Dataset) -> xr.DataArray:
    """Clean - corrupted of the logit with the label's sign, averaged over the pairs with a sign, in probe SDs."""
    return (result.total_logit * result.sign).sum("pair") / int((result.sign != 0).sum()) / result.probe_spread


def drawn(value: xr.DataArray, whole: xr.DataArray) -> tuple[float, np.ndarray]:
    """Shares of the label effect that are left: with the circuit that was found, and with random ones."""
    share = value.mean("scene", skipna=False) / whole.mean("scene", skipna=False)
    return float(share.sel(circuit=FOUND)), share.drop_sel(circuit=FOUND).values


def left(result: xr.Dataset, resampled: str) -> tuple[str, np.ndarray, float]:
    """The share left when something is resampled, with its interval; that of random circuits; and p against these."""
    value, intact = shares(result)
    circuit_share, random = drawn(value.sel(resampled=resampled), intact)
    cell = value.sel(circuit=FOUND, resampled=resampled, drop=True)
    side = 1 if resampled == REST else -1  # a circuit keeps much, and leaves little
    p = stats.permutation_p(side * np.array([circuit_share]), side * random[:, None]).item()
    return text.interval(*ratio_interval(cell, intact), signed=True), random, p


def verdict(result: xr.Dataset) -> str:
    """Label effect of the circuit and without it, against random circuits; its first path in the control models."""
    model, *controls = map(str, result.model.values)
    (_, report), edges = halves(result), edges_of(result)
    effects = flat(label_effect_of_pairs(report))
    (sufficient, random, p), (remaining, _, _) = left(result, REST), left(result, CIRCUIT)
    first, parts = effects.sel(model=model, path=edges[0]), parts_of(edges)
    flips = sign_flips(effects.sel(model=model)).p
    in_controls = {control: _in_control(effects.sel(model=control)) for control in controls}
    return (
        f"A circuit of {len(parts)} of {result.sizes['sender']} heads and MLPs of {model} keeps {sufficient} of the"
        f" {text.LABEL_EFFECT} of the logit when the rest is resampled (random circuits {random.mean():+.3f} on"
        f" average, {text.p_value(p)}), and {remaining} is left without it (n = {report.sizes['scene']} held-out"
        f" scenes); its first path, {edges[0][0]} → {edges[0][1]}, has {text.signed_mean(first)} probe SD"
        f" ({text.p_value(flips.sel(path=edges[0]))}, corrected for the choice among {effects.sizes['path']})."
        f" {text.in_controls(in_controls)}"
    )


def _in_control(effects: xr.DataArray) -> str:
    beyond, count = passing(sign_flips(effects).p)
    return f"{beyond} of {count} paths pass, largest {largest(effects):.3f}"


def table(result: xr.Dataset, full: bool = False) -> str:
    """The circuit's paths on held-out scenes and the shares left; in full per model, with the screen."""
    _, report = halves(result)
    ranked, held_out = result.sizes["scene"] - report.sizes["scene"], report.sizes["scene"]
    lines = [
        f"heads and paths ranked on {ranked} test scenes, reported on {held_out}; label effects in probe SDs, [95%"
        " interval over scenes]"
    ]
    if not full:
        return "\n".join([*lines, *aligned(_short(result, report)), *_circuit_lines(result)])
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model), edges_of(result))]
    if "estimate" in result:
        lines += ["", _screen_line(result)]
    return "\n".join([*lines, "", *_circuit_lines(result)])


def _short(result: xr.Dataset, report: xr.Dataset) -> list[tuple[str, ...]]:
    """The first paths, a column for each model."""
    effects, models = flat(label_effect_of_pairs(report)), list(map(str, result.model.values))
    rows = [("path", *models)]
    for edge in edges_of(result)[:SHOWN]:
        cells = (mean_interval(effects.sel(model=model, path=edge)) for model in models)
        rows.append((" → ".join(edge), *(text.interval(*cell, signed=True) for cell in cells)))
    return rows


def _lines(result: xr.Dataset, report: xr.Dataset, edges: Sequence[Edge]) -> list[str]:
    effects, change = flat(label_effect_of_pairs(report)), total(report)
    p = sign_flips(effects).p
    lines = [
        f"{result.model.item()}, sigma {float(result.sigma):.2f}, probe after block {int(result.readout)}: out of fold"
        f" {float(result.train_accuracy):.3f} on training scenes; whole change of the logit"
        f" {text.signed_mean(change)}",
        "  from    to          label effect               share of the whole         p (largest of all)",
    ]
    for sender, receiver in edges:
        effect = effects.sel(path=(sender, receiver))
        ratio = text.interval(*ratio_interval(effect, change), signed=True)
        lines.append(
            f"  {sender:6s}  {receiver:8s}  {text.signed_mean(effect)}  {ratio}"
            f"   {float(p.sel(path=(sender, receiver))):.4f}"
        )
    itself = float(np.abs(result.effect_logit.sel(pair="A→A")).max())
    return [
        *lines,
        f"  largest of {effects.sizes['path']} paths {largest(effects):.3f}; a clip patched with itself: {itself:g}",
    ]


def _screen_line(result: xr.Dataset) -> str:
    _, _, agree = screened(result)
    return (
        f"screen: of {int(result.estimate.notnull().sum())} paths the {int(result.verified.sum())} that gradients rank"
        f" first were patched and {int(result.sampled.sum())} at random; rank agreement on the ranking scenes"
        f" {float(agree.sel(among='sample')):+.2f} over the random ones, {float(agree.sel(among='all patched')):+.2f}"
        " over all patched"
    )


def _circuit_lines(result: xr.Dataset) -> list[str]:
    _, intact = shares(result)
    parts = parts_of(edges_of(result))
    lines = [
        f"circuit of {len(parts)} of {result.sizes['sender']} parts in {result.model.values[0]}: {', '.join(parts)}",
        f"  label effect of the logit of the intact model {text.signed_mean(intact)}",
    ]
    for resampled, description in ((REST, "left by the circuit alone"), (CIRCUIT, "left without the circuit")):
        share, random, p = left(result, resampled)
        lines.append(
            f"  share {description}: {share}; of {len(random)} random circuits mean {random.mean():+.3f}, from"
            f" {random.min():+.3f} to {random.max():+.3f}; p {p:.3f}"
        )
    return lines
