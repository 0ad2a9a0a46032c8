"""The velocity contract and the solvers.

Time is sigma in [0, 1], 0 = data, 1 = noise; dx/dsigma = velocity = noise - data. Inverting and sampling are the same
loop over the same noise levels in opposite directions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.choices import check_choice

Velocity = Callable[[Tensor, float], Tensor]


def euler(velocity: Velocity, x: Tensor, sigma: float, target: float) -> Tensor:
    """First order, one evaluation: x + (target - sigma) v(x, sigma)."""
    return x + (target - sigma) * velocity(x, sigma)


def midpoint(velocity: Velocity, x: Tensor, sigma: float, target: float) -> Tensor:
    """Second order, two evaluations: the velocity half-way (RF-Solver, Wang et al. 2024, is this rule)."""
    half = 0.5 * (target - sigma)
    return x + 2 * half * velocity(x + half * velocity(x, sigma), sigma + half)


def heun(velocity: Velocity, x: Tensor, sigma: float, target: float) -> Tensor:
    """Second order, two evaluations: the mean of the velocities at both ends (Karras et al. 2022, Algorithm 1)."""
    here = velocity(x, sigma)
    there = velocity(x + (target - sigma) * here, target)
    return x + (target - sigma) * 0.5 * (here + there)


SOLVERS = {"euler": euler, "midpoint": midpoint, "heun": heun}


def integrate(
    velocity: Velocity, x: Float[Tensor, "b c f h w"], sigmas: Sequence[float], solver: str
) -> Iterator[Float[Tensor, "b c f h w"]]:
    """The latent at each noise level in turn, the given one first.

    Args:
        velocity: (x, sigma) -> noise - data.
        x: latent at `sigmas[0]`.
        sigmas: levels to visit; rising inverts, falling samples.
        solver: "euler", "midpoint" or "heun".

    Raises:
        ValueError: unknown solver.
        FloatingPointError: a step is not finite; names it, counted from where the integration began, and its levels.
    """
    step = SOLVERS[check_choice(solver, SOLVERS, "solver")]
    yield x
    for index, (sigma, target) in enumerate(itertools.pairwise(sigmas)):
        x = step(velocity, x, sigma, target)
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"got a latent that is not finite in step {index} (sigma {sigma:.4f} to {target:.4f})"
                " · expected finite values · try float32 or more steps"
            )
        yield x
