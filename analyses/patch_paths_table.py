"""What `analyses.patch_paths` prints: the circuit's paths with intervals, its screen, what it keeps and takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analyses.frozen_probe import halves, interval
from analyses.pairs import label_odd
from analyses.roles import contrast
from dit_lens import stats
from dit_lens.paths import Edge, agreement, parts_of


def table(result: xr.Dataset) -> str:
    """Per model the circuit's paths on held-out scenes with intervals, then what the circuit keeps and takes."""
    _, report = halves(result)
    lines = [
        f"heads and paths ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets,"
        f" reported on {report.sizes['quadruplet']}; label-odd effects in probe SDs, [95% interval over quadruplets]"
    ]
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model), edges_of(result))]
    if "estimate" in result:
        lines += ["", _screen_line(result)]
    return "\n".join([*lines, "", *_circuit_lines(result)])


def _lines(whole: xr.Dataset, report: xr.Dataset, edges: Sequence[Edge]) -> list[str]:
    effects, total = flat(label_odd(report)), total_odd(report).values
    p = effects[0].copy(data=stats.sign_flip_p(effects.values))
    lines = [
        f"{whole.model.item()}, sigma {float(whole.sigma):.2f}, probe behind block {int(whole.readout)}: out of fold"
        f" {float(whole.train_accuracy):.3f} on training scenes; whole change of the logit"
        f" {interval(total, np.ones_like(total))}",
        "  from    to          label-odd effect           share of the whole         p (largest of all)",
    ]
    for sender, receiver in edges:
        effect = effects.sel(path=(sender, receiver)).values
        lines.append(
            f"  {sender:6s}  {receiver:8s}  {interval(effect, np.ones_like(effect))}  {interval(effect, total)}"
            f"   {float(p.sel(path=(sender, receiver))):.4f}"
        )
    itself = float(np.abs(whole.effect_logit.sel(pair="A→A")).max())
    largest = float(np.abs(effects.mean("quadruplet")).max())
    return [*lines, f"  largest of {effects.sizes['path']} paths {largest:.3f}; a clip patched with itself: {itself:g}"]


def _screen_line(result: xr.Dataset) -> str:
    _, _, agree = screened(result)
    return (
        f"screen: of {int(result.estimate.notnull().sum())} paths the {int(result.verified.sum())} that gradients rank"
        f" first were patched and {int(result.sampled.sum())} at random; rank agreement on the ranking scenes"
        f" {float(agree.sel(among='sample')):+.2f} over the random ones, {float(agree.sel(among='all patched')):+.2f}"
        " over all patched"
    )


def _circuit_lines(result: xr.Dataset) -> list[str]:
    value, whole = shares(result)
    parts = parts_of(edges_of(result))
    lines = [
        f"circuit of {len(parts)} of {result.sizes['sender']} parts in {result.model.values[0]}: {', '.join(parts)}",
        f"  contrast of the logit with all parts as they are {interval(whole.values, np.ones_like(whole.values))}",
    ]
    for resampled, what in (("the rest", "left by the circuit alone"), ("the circuit", "left without the circuit")):
        own, random = drawn(value.sel(resampled=resampled), whole)
        told = interval(value.sel(circuit="found", resampled=resampled).values, whole.values)
        side = 1 if resampled == "the rest" else -1  # a circuit keeps much, and leaves little
        p = stats.permutation_p(side * np.array([own]), side * random[:, None]).item()
        lines.append(
            f"  share {what}: {told}; of {len(random)} random circuits mean {random.mean():+.3f}, from"
            f" {random.min():+.3f} to {random.max():+.3f}; p {p:.3f}"
        )
    return lines


def flat(effects: xr.DataArray) -> xr.DataArray:
    """Paths along one dimension, those that run backward left out."""
    return effects.stack(path=["sender", "receiver"]).dropna("path", how="all").transpose("quadruplet", ...)


def edges_of(result: xr.Dataset) -> list[Edge]:
    """The paths of the circuit that a result was made of."""
    return [(str(sender), str(receiver)) for sender, receiver in result.path_joined.values]


def screened(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """On the ranking scenes what gradients estimate and what patching finds (sender, receiver), and their agreement.

    Label-odd, in probe SDs, of the first model; effects are NaN where nothing was patched.
    """
    effect = label_odd(halves(result)[0].isel(model=0)).mean("quadruplet", skipna=False)
    effect = effect.transpose("sender", "receiver")
    return result.estimate, effect, agreement(result.estimate, effect, result.sampled)


def shares(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Contrasts of the logit by scene with parts resampled (scene, circuit, resampled), and as it is (scene,)."""
    spread = result.probe_spread.isel(model=0, drop=True)
    value, whole = (
        contrast(result[name].rename(scene="quadruplet"), spread).rename(quadruplet="scene")
        for name in ("value", "whole")
    )
    return value.transpose("scene", "circuit", "resampled"), whole


def total_odd(result: xr.Dataset) -> xr.DataArray:
    """Clean - corrupted of the logit with the label's sign, averaged over the eight pairs, in probe SDs."""
    return (result.total_logit * result.sign).sum("pair") / 8 / result.probe_spread


def drawn(value: xr.DataArray, whole: xr.DataArray) -> tuple[float, np.ndarray]:
    """Shares of the contrast that are left: with the circuit that was found, and with random ones."""
    share = value.mean("scene") / whole.mean("scene")
    return float(share.sel(circuit="found")), share.drop_sel(circuit="found").values
