"""Attribution: what each value of an activation, the latent included, adds to a metric's change between two runs.

Every function takes a clean and a corrupted evaluation of as many clips (an `Evaluation`, or a trajectory and a step),
hook points and a metric, and attributes to the values of each point separately. While a point's value goes from the
corrupted run's to the clean run's, the input of its block, and all that bypasses the point, stays as in one of the runs
(`Integral.around`): the sum is the effect of patching the whole point. At a point that everything passes (a stream that
enters or leaves a block, or the latent) it is the whole change of the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dit_lens.arguments import integer, number
from dit_lens.attribution.integrals import SIDES, Attribution, Integral, Side, convergence_delta, integrate
from dit_lens.attribution.reruns import LATENT, Between, Place, Rerun, between
from dit_lens.choices import check_choice
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, differentiable

__all__ = [
    "LATENT",
    "Attribution",
    "Integral",
    "Smoothing",
    "between",
    "conductance",
    "gradient_times_difference",
    "integrate",
    "integrated_gradients",
    "smooth_gradients",
]
Attributions = dict[str, Attribution]


@dataclass(frozen=True)
class Smoothing:
    """Noise that gradients are averaged over: its standard deviation as a share of the range of a clip's activation."""

    samples: int = 16
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", integer(self.samples, "samples", 1))
        object.__setattr__(self, "share", number(self.share, "share", 0))
        object.__setattr__(self, "seed", integer(self.seed, "seed", 0))


@torch.enable_grad()
def integrated_gradients(
    lens: DiTLens,
    clean: Place,
    corrupted: Place,
    points: NamesFilter,
    metric: Metric,
    integral: Integral | None = None,
) -> Attributions:
    """Integrated gradients of a metric along the line between two values of each hook point, by captum.

    With "hook_latent" the input x_sigma is the point; how the clips got there (inversion) is held fixed.

    Args:
        clean, corrupted: evaluations, or (trajectory, step), that pair up clip by clip.
        points: hook points that can be written; those after everything that the metric reads are left out.
        metric: `probe.logit`, `VelocityProjection()`, or any function as `Readout(function, points)`.

    Raises:
        ValueError: evaluations that do not pair up, no point before what the metric reads, or a convergence delta
            above the limit. KeyError: unknown hook point. TypeError: a point that can only be read.
        RuntimeError: hooks are active.
    """
    integral, pair = integral or Integral(), between(lens, clean, corrupted, points, metric)
    attributions: Attributions = {}
    for point in pair.points:
        start, end = pair.ends(point)
        if integral.baseline is not None:
            start = torch.as_tensor(integral.baseline).to(end).expand_as(end)
        attributions[point] = _attribution(
            pair, point, *integrate(pair.rerun(point, integral.around), start, end, integral)
        )
    return attributions


@torch.enable_grad()
def gradient_times_difference(
    lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric, at: Side = "corrupted"
) -> Attributions:
    """The gradient in one of the runs times clean - corrupted: the first-order estimate (attribution patching).

    One backward serves all points. The delta measures how far from linear the metric is.
    """
    check_choice(at, SIDES, "run")
    pair = between(lens, clean, corrupted, points, metric)
    slopes, _ = _through(pair, pair.ends(LATENT)[at == "clean"])
    return {point: _first_order(pair, point, slopes[point], at) for point in pair.points}


@torch.enable_grad()
def smooth_gradients(
    lens: DiTLens,
    clean: Place,
    corrupted: Place,
    points: NamesFilter,
    metric: Metric,
    smoothing: Smoothing | None = None,
) -> Attributions:
    """Gradient in the clean run, averaged over noise, times clean - corrupted (SmoothGrad, Smilkov et al. 2017)."""
    smoothing, pair = smoothing or Smoothing(), between(lens, clean, corrupted, points, metric)
    return {
        point: _first_order(
            pair, point, _smooth_slope(pair.rerun(point, "clean"), pair.ends(point)[1], smoothing), "clean"
        )
        for point in pair.points
    }


@torch.enable_grad()
def conductance(
    lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric, steps: int = 16
) -> Attributions:
    """How much of a metric's change passes each value of the points, as the latent goes from corrupted to clean.

    ∫ (∂F/∂y) (dy/dα) dα over latents x + α (x' - x) (Dhamdhere et al. 2019), by midpoints. Nothing is held fixed but
    time and conditioning, and all points share the same runs. Where everything passes a point (a stream) the sum
    is the whole change; elsewhere what bypasses it is missing, which the delta shows.

    Args:
        steps: latents on the line at which a gradient is taken.
    """
    steps, pair = integer(steps, "steps", 1), between(lens, clean, corrupted, points, metric)
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
    latent_input = latent.detach().clone().requires_grad_()
    # A hook that returns its input replaces it by a copy, on which all later values depend.
    functions: dict[str, list[HookFunction]] = {name: [lambda x, hook: x] for name in pair.points}
    velocity, cache = pair.run_with(functions | {LATENT: [lambda x, hook: latent_input]})
    activations = {name: cache[name] for name in pair.points}
    measured = differentiable(pair.function(velocity, cache)).sum()
    slopes = torch.autograd.grad(measured, list(activations.values()))
    return dict(zip(activations, slopes, strict=True)), {name: value.detach() for name, value in activations.items()}


def _smooth_slope(rerun: Rerun, value: Tensor, smoothing: Smoothing) -> Tensor:
    """The mean gradient at noisy copies of a value: one noise for all clips, scaled by the range of each clip.

    captum's NoiseTunnel scales noise by the range of the whole batch and draws other noise for each of its clips.
    """
    generator, slopes = torch.Generator().manual_seed(smoothing.seed), torch.zeros_like(value)
    spread = smoothing.share * (value.flatten(1).amax(1) - value.flatten(1).amin(1))
    for _ in range(smoothing.samples):
        eps = torch.randn(value.shape[1:], generator=generator).to(value)
        noisy = (value.detach() + spread.view(-1, *[1] * eps.ndim) * eps).requires_grad_()
        slopes += torch.autograd.grad(differentiable(rerun(noisy)).sum(), noisy)[0]
    return slopes / smoothing.samples


def _first_order(pair: Between, point: str, slope: Tensor, side: Side) -> Attribution:
    start, end = pair.ends(point)
    values, change = (end - start) * slope.detach(), _change(pair.rerun(point, side), start, end)
    return _attribution(pair, point, values, change, convergence_delta(values, change, 0.0))


@torch.no_grad()
def _change(rerun: Rerun, start: Tensor, end: Tensor) -> Tensor:
    return rerun(end) - rerun(start)


def _attribution(pair: Between, point: str, values: Tensor, change: Tensor, delta: Tensor) -> Attribution:
    return Attribution(values, change, delta, pair.lens.table.points[point].axes, pair.lens.model.grid(pair.corrupted))
