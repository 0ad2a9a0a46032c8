"""The functions of each kind of edit, which change a whole activation; `Edit` selects heads and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from dit_lens.hook_points import Hook

Source = Tensor | Mapping[int, Tensor]


def _zero(x: Tensor, hook: Hook) -> Tensor:
    return torch.zeros_like(x)


def _mean(x: Tensor, hook: Hook, means: Source) -> Tensor:
    mean = _at(means, hook, "means")
    if mean.ndim != x.ndim - 1 or any(
        actual not in (1, size) for actual, size in zip(mean.shape, x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"got means of shape {tuple(mean.shape)} for an activation of shape {tuple(x.shape)} · expected"
            f" {tuple(x.shape[1:])}, or 1 on an axis that shares them · take the mean over the clip axis alone"
        )
    return mean.to(x).expand_as(x)


def _patch(x: Tensor, hook: Hook, source: Source) -> Tensor:
    activation = _at(source, hook, "source")
    if activation.shape != x.shape:
        raise ValueError(
            f"got a source of shape {tuple(activation.shape)} for an activation of shape {tuple(x.shape)}"
            " · expected equal shapes · cache the source with the same batch and step"
        )
    return activation.to(x)


def _resample(x: Tensor, hook: Hook, source: Source, donors: Tensor) -> Tensor:
    activation = _at(source, hook, "source")
    if len(donors) != len(x) or activation.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"got {len(donors)} donors and a source of shape {tuple(activation.shape)} for an activation of shape"
            f" {tuple(x.shape)} · expected a donor for each of its {len(x)} clips and {tuple(x.shape[1:])} of each"
            " · take donors for the clips of the run, and cache the source at the same hook point"
        )
    if outside := [donor for donor in donors.tolist() if donor >= len(activation)]:
        clips = len(activation)
        raise ValueError(f"got donor {outside[0]} of a source of {clips} clips · expected 0 to {clips - 1}")
    return activation[donors.to(activation.device)].to(x)


def _add(x: Tensor, hook: Hook, vector: Tensor) -> Tensor:
    if vector.ndim > x.ndim or any(
        size not in (1, full) for size, full in zip(vector.shape[::-1], x.shape[::-1], strict=False)
    ):
        raise ValueError(
            f"got a vector of shape {tuple(vector.shape)} for an activation of shape {tuple(x.shape)} at {hook.name}"
            " · expected one that broadcasts against it, such as one of its last axis"
        )
    return x + vector.to(x)


def _scale(x: Tensor, hook: Hook, factor: float) -> Tensor:
    return x * factor


def _noise(x: Tensor, hook: Hook, alpha: float, seed: int) -> Tensor:
    axes = hook.axes.split()
    features = axes.index("c") if "c" in axes else -1
    eps = torch.randn(x.shape[1:], generator=_generator(seed, hook))
    return x + alpha * x.std(features, keepdim=True) * eps.to(x)


def _project_out(x: Tensor, hook: Hook, direction: Tensor) -> Tensor:
    if direction.shape != x.shape[-1:]:
        raise ValueError(
            f"got a direction of shape {tuple(direction.shape)} for an activation of shape {tuple(x.shape)} at"
            f" {hook.name} · expected ({x.shape[-1]},), that of its last axis"
        )
    unit = (direction / direction.norm()).to(x)
    return x - (x @ unit)[..., None] * unit


def _cut(x: Tensor, hook: Hook, keys: Tensor) -> Tensor:
    if keys.shape != x.shape[-1:]:
        raise ValueError(
            f"got keys of shape {tuple(keys.shape)} for a pattern of shape {tuple(x.shape)} at {hook.name} · expected"
            f" a truth value for each of its {x.shape[-1]} keys, such as grid.mask(frame=0); text keys, where there are"
            " any, come last"
        )
    return rescaled(x.masked_fill(keys.to(x.device), 0.0))


def rescaled(x: Tensor) -> Tensor:
    """A pattern whose rows are scaled to 1 again; a row without any attention stays 0."""
    return x / x.sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _evenly(x: Tensor, hook: Hook) -> Tensor:
    if not hook.name.endswith("hook_pattern"):
        raise ValueError(f"got {hook.name} to make even · expected a hook_pattern, whose last axis is keys")
    return torch.full_like(x, 1 / x.shape[-1])


def _at(source: Source, hook: Hook, what: str) -> Tensor:
    """The source tensor for the step of a call."""
    if isinstance(source, Tensor):
        return source
    if hook.step is None or hook.step not in source:
        raise KeyError(
            f"got a call at step {hook.step} of {hook.name} · expected one of the steps {', '.join(map(str, source))},"
            f" for which the edit holds {what} · run with steps= of these, or collect {what} at more"
        )
    return source[hook.step]


def _generator(seed: int, hook: Hook) -> torch.Generator:
    """A CPU generator seeded by seed, hook point, step and noise level, so that noise is the same on every device."""
    words = f"{hook.name} {hook.step} {hook.sigma:.6f}".encode()
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *words]).generate_state(1)[0]))


CHANGES: dict[str, Callable[..., Tensor]] = {
    "zero": _zero,
    "mean": _mean,
    "patch": _patch,
    "resample": _resample,
    "add": _add,
    "scale": _scale,
    "noise": _noise,
    "project_out": _project_out,
    "cut": _cut,
    "evenly": _evenly,
}
