"""Activation patching: named questions over sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from tqdm import tqdm

from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.sweeps import patch_each_head
from dit_lens.trajectory import Trajectory


def patch_heads(
    lens: DiTLens,
    clean: Trajectory,
    corrupted: Trajectory,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    progress: bool = False,
) -> xr.Dataset:
    """What each head carries: its z from the clean run is put into the corrupted run, at the same step.

    Clip i of `clean` is patched into clip i of `corrupted`.

    Args:
        steps: at which steps of the trajectories.
        metric: `probe.logit`, `VelocityProjection()`, or any function as `Readout(function, points)`; or several by
            name, whose variables are then `effect_NAME` and so on.

    Returns:
        `effect` (clip, step, block, head) = patched - corrupted, `total` (clip, step) = clean - corrupted, and
        `corrupted` (clip, step). Recovery is the ratio of their means. Blocks behind a metric's readout are NaN.

    Raises:
        ValueError: trajectories that do not pair up, or no steps. IndexError: a step they do not have.
        TypeError: something that is no metric. RuntimeError: hooks are active.
    """
    if not len(steps):
        raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
    metrics = metric if isinstance(metric, Mapping) else {"": metric}
    for given in metrics.values():
        if not isinstance(given, Metric):
            raise TypeError(
                f"got a {type(given).__name__} as metric · expected probe.logit, VelocityProjection(), or"
                " Readout(function, points) with function (velocity, cache) -> (b,)"
            )
    effects = [
        patch_each_head(lens, clean, corrupted, step, metrics)
        for step in tqdm(steps, desc="patching", unit="step", disable=not progress)
    ]
    data: dict[str, tuple[tuple[str, ...], object]] = {}
    for name in metrics:
        suffix = f"_{name}" if name else ""
        stacked = torch.stack([effect.effect[name] for effect in effects], dim=1)
        data[f"effect{suffix}"] = (("clip", "step", "block", "head"), stacked.numpy())
        for part in ("total", "corrupted"):
            values = torch.stack([getattr(effect, part)[name] for effect in effects], dim=1)
            data[f"{part}{suffix}"] = (("clip", "step"), values.numpy())
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
