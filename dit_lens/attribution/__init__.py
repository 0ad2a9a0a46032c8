"""Attribution: what each value of an activation, the latent included, adds to a metric's change between two runs.

Every function takes a clean and a corrupted evaluation of as many clips (an `Evaluation`, or a trajectory and a step),
hook points and a metric, and tells the values of each point by itself. While a point's value goes from the corrupted
run's to the clean run's, what enters its block, and what goes round the point, stays as in one of the two runs
(`Line.around`): the sum is the effect of patching the whole point. At a point that everything passes (a stream that
enters or leaves a block, or the latent) it is the whole change of the metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor

from dit_lens.attribution.integrals import Attribution, Line, Side, convergence_delta, integrate
from dit_lens.attribution.reruns import LATENT, Between, Place, Rerun, between
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric

__all__ = [
    "LATENT",
    "Attribution",
    "Line",
    "Smoothing",
    "between",
    "conductance",
    "gradient_times_difference",
    "integrate",
    "integrated_gradients",
    "smooth_gradients",
]
Told = dict[str, Attribution]


@dataclass(frozen=True)
class Smoothing:
    """Noise that gradients are averaged over: its standard deviation as a share of the activation's range."""

    samples: int = 16
    share: float = 0.1
    seed: int = 0


def integrated_gradients(
    lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric, line: Line | None = None
) -> Told:
    """Integrated gradients of a metric along the line between two values of each hook point, by captum.

    With "hook_latent" the input x_sigma is the point; how the clips got there (inversion) is held fixed.

    Args:
        clean, corrupted: evaluations, or (trajectory, step), that pair up clip by clip.
        points: hook points that can be written; those behind all that the metric reads are left out.
        metric: `probe.logit`, `VelocityProjection()`, or any function as `Readout(function, points)`.

    Raises:
        ValueError: evaluations that do not pair up, no point before what the metric reads, or a convergence delta
            above the limit. KeyError: unknown hook point. TypeError: a point that can only be read.
        RuntimeError: hooks are active.
    """
    line, pair = line or Line(), between(lens, clean, corrupted, points, metric)
    told: Told = {}
    for point in pair.points:
        start, end = pair.ends(point)
        if line.baseline is not None:
            start = torch.as_tensor(line.baseline).to(end).expand_as(end)
        told[point] = _attribution(pair, point, *integrate(pair.rerun(point, line.around), start, end, line))
    return told


def gradient_times_difference(
    lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric, at: Side = "corrupted"
) -> Told:
    """The gradient in one of the runs times clean - corrupted: the first-order estimate (attribution patching).

    One backward tells all points. The delta tells how far from linear the metric is.
    """
    pair = between(lens, clean, corrupted, points, metric)
    slopes, _ = _through(pair, pair.ends(LATENT)[at == "clean"])
    return {point: _first_order(pair, point, slopes[point], at) for point in pair.points}


def smooth_gradients(
    lens: DiTLens,
    clean: Place,
    corrupted: Place,
    points: NamesFilter,
    metric: Metric,
    smoothing: Smoothing | None = None,
) -> Told:
    """The same in the clean run, its gradient averaged over noise (SmoothGrad, Smilkov et al. 2017)."""
    smoothing, pair = smoothing or Smoothing(), between(lens, clean, corrupted, points, metric)
    return {
        point: _first_order(
            pair, point, _smooth_slope(pair.rerun(point, "clean"), pair.ends(point)[1], smoothing), "clean"
        )
        for point in pair.points
    }


def conductance(
    lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric, steps: int = 16
) -> Told:
    """How much of a metric's change passes each value of the points, as the latent goes from corrupted to clean.

    ∫ (∂F/∂y) (dy/dα) dα over latents x + α (x' - x) (Dhamdhere et al. 2019), by midpoints. Nothing is held fixed but
    time and conditioning, and all points are told by the same runs. Where everything passes a point (a stream) the sum
    is the whole change; elsewhere what goes round it is missing, which the delta tells.

    Args:
        steps: latents on the line at which a gradient is taken.
    """
    pair = between(lens, clean, corrupted, points, metric)
    start, end = pair.ends(LATENT)
    rerun, values = pair.rerun(LATENT, "corrupted"), dict.fromkeys(pair.points, torch.tensor(0.0))
    _, before = _through(pair, start)
    for step in range(steps):
        slopes, _ = _through(pair, start + (step + 0.5) / steps * (end - start))
        _, after = _through(pair, start + (step + 1) / steps * (end - start))
        values = {name: value + slopes[name] * (after[name] - before[name]) for name, value in values.items()}
        before = after
    change = _change(rerun, start, end)
    return {
        name: _attribution(pair, name, value, change, convergence_delta(value, change, 0.0))
        for name, value in values.items()
    }


def _through(pair: Between, latent: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the metric at the points, and their values, with another latent."""
    fed = latent.detach().clone().requires_grad_()
    # A hook that returns what it is given puts a copy in its place: all that is read later depends on it.
    functions: dict[str, list[HookFunction]] = {name: [lambda x, hook: x] for name in pair.points}
    velocity, cache = pair.run_with(functions | {LATENT: [lambda x, hook: fed]})
    kept = {name: cache[name] for name in pair.points}
    slopes = torch.autograd.grad(pair.function(velocity, cache).sum(), list(kept.values()))
    return dict(zip(kept, slopes, strict=True)), {name: value.detach() for name, value in kept.items()}


def _smooth_slope(rerun: Rerun, value: Tensor, smoothing: Smoothing) -> Tensor:
    """The mean gradient at noisy copies of a value; the global random numbers stay as they were."""
    told = {
        "nt_type": "smoothgrad",
        "nt_samples": smoothing.samples,
        "nt_samples_batch_size": 1,  # several would lie clip behind clip, not batch behind batch
        "stdevs": smoothing.share * float(value.max() - value.min()),
        "abs": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(smoothing.seed)
        slope: Any = NoiseTunnel(Saliency(rerun)).attribute(value.detach().clone().requires_grad_(), **told)
    return slope


def _first_order(pair: Between, point: str, slope: Tensor, at: Side) -> Attribution:
    start, end = pair.ends(point)
    values, change = (end - start) * slope.detach(), _change(pair.rerun(point, at), start, end)
    return _attribution(pair, point, values, change, convergence_delta(values, change, 0.0))


@torch.no_grad()
def _change(rerun: Rerun, start: Tensor, end: Tensor) -> Tensor:
    return rerun(end) - rerun(start)


def _attribution(pair: Between, point: str, values: Tensor, change: Tensor, delta: Tensor) -> Attribution:
    return Attribution(values, change, delta, pair.lens.table.points[point].axes, pair.lens.model.grid(pair.corrupted))
