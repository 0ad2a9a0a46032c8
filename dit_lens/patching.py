"""Activation patching: named questions over sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from tqdm import tqdm

from dit_lens.lens import DiTLens
from dit_lens.sweeps import HeadEffects, Metric, Readout, VelocityProjection, patch_each_head
from dit_lens.trajectory import Trajectory

__all__ = ["Readout", "VelocityProjection", "patch_heads"]


def patch_heads(
    lens: DiTLens,
    clean: Trajectory,
    corrupted: Trajectory,
    steps: Sequence[int],
    metrics: Mapping[str, Metric],
    progress: bool = False,
) -> xr.Dataset:
    """What each head carries: its z from the clean run is put into the corrupted run, at the same step.

    Clip i of `clean` is patched into clip i of `corrupted`.

    Args:
        steps: at which steps of the trajectories.
        metrics: by name: a `Probe`, `VelocityProjection()`, or any function as `Readout(function, points)`.

    Returns:
        For each metric `effect_NAME` (clip, step, block, head) = patched - corrupted and `total_NAME` (clip, step) =
        clean - corrupted, `corrupted_NAME` (clip, step). Recovery is the ratio of their means. Blocks behind a
        metric's readout are NaN.

    Raises:
        ValueError: trajectories that do not pair up. IndexError: a step they do not have.
    """
    effects: list[HeadEffects] = []
    for step in tqdm(steps, desc="patching", unit="step", disable=not progress):
        effects.append(patch_each_head(lens, clean, corrupted, step, metrics))
    data: dict[str, tuple[tuple[str, ...], object]] = {}
    for name in effects[0].effect:
        stacked = torch.stack([effect.effect[name] for effect in effects], dim=1)
        data[f"effect_{name}"] = (("clip", "step", "block", "head"), stacked.numpy())
        for part in ("total", "corrupted"):
            values = torch.stack([getattr(effect, part)[name] for effect in effects], dim=1)
            data[f"{part}_{name}"] = (("clip", "step"), values.numpy())
    schedule = clean.schedule
    return xr.Dataset(
        data,
        coords={
            "clip": list(corrupted.clip_ids),
            "donor": ("clip", list(clean.clip_ids)),
            "step": list(steps),
            "sigma": ("step", [schedule.sigmas[step] for step in steps]),
            "timestep": ("step", [schedule.timesteps[step] for step in steps]),
            "block": range(lens.blocks),
            "head": range(lens.heads),
        },
    )
