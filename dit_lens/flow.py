"""The velocity contract and the solvers.

Time is sigma in [0, 1], 0 = data, 1 = noise; dx/dsigma = velocity = noise - data. Inverting and sampling are the same
loop over the same noise levels in opposite directions.

=============== ===== ================ =============================================================================
solver          order evaluations/step exact inverse
=============== ===== ================ =============================================================================
euler           1     1                none; at the target's time it inverts the Euler sampler to first order
implicit_euler  1     a few            the Euler sampler, where |dsigma| Lip(v) < 1
midpoint        2     2                none; its own same-grid round trip is of third order, as that of the next two
heun            2     2                none
fireflow        2     1 (2 at first)   none
pipeline        its   1                none; samples alone: the pipeline's own scheduler, as its call steps it (see
                                       `inversion.scheduled`)
=============== ===== ================ =============================================================================

Which inversion is which: of a flow, euler with time_at="current" is the plain inversion of its ODE, and "target" that
of 'The Invisible Hand of Physics' (2026). Of a variance-preserving model (CogVideoX, Allegro) "current" is DDIM
inversion (Song et al. 2021); diffusers' DDIMInverseScheduler, which shifts its levels, is 1 to 3% away. "target" is no
DDIM inversion there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dit_lens.choices import check_choice

Velocity = Callable[[Tensor, float], Tensor]
TIMES = ("current", "target")
WINDOW = 5  # images that Anderson acceleration mixes
RIDGE = 1e-6  # of the mix, in units of its largest diagonal entry


@dataclass(frozen=True, eq=False)
class Step:
    """Where a step arrived, and how.

    Attributes:
        x: the latent there.
        levels: the noise level of each evaluation of the velocity.
        residual: |x - start - h v(x)| / |x| of each clip where the step is an equation to solve; None elsewhere.
        converged: whether the residual of each clip came below the tolerance; None where nothing is solved.
    """

    x: Float[Tensor, "b c f h w"]
    levels: tuple[float, ...] = ()
    residual: Float[Tensor, " b"] | None = None
    converged: Bool[Tensor, " b"] | None = None

    @property
    def evaluations(self) -> int:
        """Of the velocity, on the way here."""
        return len(self.levels)

    def without_latent(self) -> Step:
        """The same of as many clips whose latents (b, 0, ...) hold nothing: long paths need not stay in memory."""
        return replace(self, x=self.x.new_empty(len(self.x), 0, *self.x.shape[2:]))


def euler(velocity: Velocity, x: Tensor, sigmas: Sequence[float], time_at: str = "current") -> Iterator[Step]:
    """First order, one evaluation: x + h v(x, sigma).

    On variance-preserving models too this is DDIM inversion (Song et al. 2021, with the noise predicted at the current
    latent and level) on the same levels: DDIM keeps data and noise of a step, and so does a straight step from data to
    noise. With time_at="target" the velocity at the current latent is evaluated at the level that the step goes to, as
    in the inversion of Wan in 'The Invisible Hand of Physics' (2026); that is not DDIM inversion.
    """
    for sigma, target in itertools.pairwise(sigmas):
        x = x + (target - sigma) * velocity(x, target if time_at == "target" else sigma)
        yield Step(x)


def midpoint(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Iterator[Step]:
    """Second order, two evaluations: the velocity half-way (RF-Solver, Wang et al. 2024, is this rule)."""
    for sigma, target in itertools.pairwise(sigmas):
        half = 0.5 * (target - sigma)
        x = x + 2 * half * velocity(x + half * velocity(x, sigma), sigma + half)
        yield Step(x)


def heun(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Iterator[Step]:
    """Second order, two evaluations: the mean of the velocities at both ends (Karras et al. 2022, Algorithm 1)."""
    for sigma, target in itertools.pairwise(sigmas):
        here = velocity(x, sigma)
        there = velocity(x + (target - sigma) * here, target)
        x = x + (target - sigma) * 0.5 * (here + there)
        yield Step(x)


def fireflow(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Iterator[Step]:
    """Second order, one evaluation: midpoint, led half-way by the last midpoint's velocity (Deng et al. 2024)."""
    halfway: Tensor | None = None
    for sigma, target in itertools.pairwise(sigmas):
        half = 0.5 * (target - sigma)
        halfway = velocity(x + half * (velocity(x, sigma) if halfway is None else halfway), sigma + half)
        x = x + 2 * half * halfway
        yield Step(x)


def implicit_euler(
    velocity: Velocity, x: Tensor, sigmas: Sequence[float], tolerance: float = 1e-6, iterations: int = 30
) -> Iterator[Step]:
    """First order: y = x + h v(y, target), the step whose undoing by Euler is x again, whatever its length.

    Solved for each clip by fixed point from y = x (so that the first image is Euler's at the target's time) with
    Anderson acceleration. Where it does not converge the best y is kept and the step says so. The step away from
    sigma 0 undoes a denoiser, which many y may share: there is nothing that makes it converge.
    """
    for sigma, target in itertools.pairwise(sigmas):
        start, h = x, target - sigma

        def image(y: Tensor, start: Tensor = start, h: float = h, target: float = target) -> Tensor:
            return start + h * velocity(y, target)

        x, residual = fixed_point(image, start, tolerance, iterations)
        yield Step(x, residual=residual, converged=residual <= tolerance)


def fixed_point(
    image: Callable[[Tensor], Tensor], y: Float[Tensor, "b *rest"], tolerance: float, iterations: int
) -> tuple[Float[Tensor, "b *rest"], Float[Tensor, " b"]]:
    """The best y of each clip in sight of image(y) = y, and its residual |image(y) - y| / |y|.

    Ends when every residual is at most the tolerance, or after that many images.
    """
    best, least = y, torch.full((len(y),), math.inf, device=y.device, dtype=y.dtype)
    points: list[Tensor] = []
    images: list[Tensor] = []
    for _ in range(iterations):
        points, images = [*points, y][-WINDOW:], [*images, image(y)][-WINDOW:]
        size = y.flatten(1).norm(dim=1).clamp_min(torch.finfo(y.dtype).tiny)
        residual = (images[-1] - y).flatten(1).norm(dim=1) / size
        better = residual < least
        best = torch.where(better.view(-1, *[1] * (y.ndim - 1)), y, best)
        least = torch.where(better, residual, least)
        if (least <= tolerance).all() or not torch.isfinite(images[-1]).all():
            break
        y = anderson(points, images)
    return best, least


def anderson(points: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
    """The mix of the last images whose residuals cancel best, clip by clip (Walker and Ni 2011, type II)."""
    mapped = torch.stack([image.flatten(1) for image in images], dim=2)
    residual = mapped - torch.stack([point.flatten(1) for point in points], dim=2)
    if len(images) == 1:
        return images[0]
    change, last = residual.diff(dim=2), residual[..., -1:]
    scale = change.norm(dim=1, keepdim=True).clamp_min(torch.finfo(change.dtype).tiny)
    unit = change / scale
    gram = unit.mT @ unit + RIDGE * torch.eye(unit.shape[2], device=unit.device, dtype=unit.dtype)
    weights = torch.linalg.solve(gram, unit.mT @ last) / scale.mT
    return (mapped[..., -1:] - mapped.diff(dim=2) @ weights).reshape(images[-1].shape)


PIPELINE = "pipeline"  # the name of a solver that is a pipeline's own scheduler
SOLVERS: dict[str, Callable[..., Iterator[Step]]] = {
    "euler": euler,
    "implicit_euler": implicit_euler,
    "midpoint": midpoint,
    "heun": heun,
    "fireflow": fireflow,
}
# Of the velocity in a step; implicit Euler iterates until it is solved.
EVALUATIONS = {"euler": 1, "implicit_euler": 6, "midpoint": 2, "heun": 2, "fireflow": 1, PIPELINE: 1}
OPTIONS = {"euler": ("time_at",), "implicit_euler": ("tolerance", "iterations")}


@dataclass(frozen=True)
class Solver:
    """How one noise level is reached from the one before.

    Attributes:
        name: of `SOLVERS`, or "pipeline".
        time_at: the level at which an Euler step evaluates the velocity, its "current" or its "target".
        sigma_min: no velocity is evaluated at a level below; models are not trained at 0.
        tolerance: relative residual at which an implicit step is solved.
        iterations: images that an implicit step may take.

    Raises:
        ValueError: unknown solver or time, or time_at="target" for another solver than Euler.
    """

    name: str = "heun"
    time_at: str = "current"
    sigma_min: float = 0.0
    tolerance: float = 1e-6
    iterations: int = 30

    def __post_init__(self):
        check_choice(self.name, (*SOLVERS, PIPELINE), "solver")
        if check_choice(self.time_at, TIMES, "time_at") == "target" and self.name != "euler":
            raise ValueError(f"got time_at='target' for {self.name} · expected 'current' · only Euler takes the target")

    @classmethod
    def of(cls, solver: str | Solver) -> Solver:
        """A solver by name, or the solver itself."""
        if not isinstance(solver, str | Solver):
            raise TypeError(
                f"got {solver!r} as solver · expected one of {', '.join((*SOLVERS, PIPELINE))}, or a Solver"
            )
        return solver if isinstance(solver, Solver) else cls(solver)

    @property
    def sampler(self) -> Solver:
        """The sampler that it inverts: plain Euler for both ways of inverting Euler, itself otherwise."""
        inverts_euler = self.name in ("euler", "implicit_euler")
        return replace(self, name="euler", time_at="current") if inverts_euler else self

    def evaluations(self, steps: int) -> int:
        """How often the velocity is evaluated in so many steps; of implicit Euler about so often."""
        return EVALUATIONS[self.name] * steps + (self.name == "fireflow")

    def __str__(self) -> str:
        time = ", target time" if self.time_at == "target" else ""
        return f"{self.name}{time}{f', sigma_min {self.sigma_min:g}' if self.sigma_min else ''}"


def integrate(
    velocity: Velocity,
    x: Float[Tensor, "b c f h w"],
    sigmas: Sequence[float],
    solver: str | Solver,
    rule: Callable[..., Iterator[Step]] | None = None,
) -> Iterator[Step]:
    """The latent at each noise level in turn, the given one first.

    Args:
        velocity: (x, sigma) -> noise - data.
        x: latent at `sigmas[0]`.
        sigmas: levels to visit; rising inverts, falling samples.
        solver: a name of `SOLVERS`, or a `Solver` for its options.
        rule: steps instead of the solver, such as a pipeline's scheduler.

    Raises:
        ValueError: unknown solver, or "pipeline" without a rule.
        FloatingPointError: a step is not finite; names it, counted from where the integration began, and its levels.
    """
    solver, levels = Solver.of(solver), []

    def noted(x: Tensor, sigma: float) -> Tensor:
        levels.append(max(sigma, solver.sigma_min))
        return velocity(x, levels[-1])

    if rule is None and solver.name == PIPELINE:
        raise ValueError(
            f"got solver {PIPELINE!r} where there is no scheduler to step · expected {', '.join(SOLVERS)}"
            f" · lens.sample alone takes {PIPELINE!r}"
        )
    options: dict[str, Any] = {name: getattr(solver, name) for name in OPTIONS.get(solver.name, ())}
    yield Step(x)
    steps = (rule or partial(SOLVERS[solver.name], **options))(noted, x, sigmas)
    for index, (sigma, target) in enumerate(itertools.pairwise(sigmas)):
        levels.clear()
        step = next(steps)
        if not torch.isfinite(step.x).all() or (step.residual is not None and not step.residual.isfinite().all()):
            raise FloatingPointError(
                f"got a latent that is not finite in step {index} (sigma {sigma:.4f} to {target:.4f})"
                " · expected finite values · try float32 or more steps"
            )
        yield replace(step, levels=tuple(levels))
