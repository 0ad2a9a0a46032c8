"""Solvers against flows whose solution is known in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lens.flow import SOLVERS, Velocity, integrate

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(3, 1, 1, 1, 1)
# velocity, and the factor by which the solution has grown at sigma.
FLOWS: dict[str, tuple[Velocity, Callable[[float], float]]] = {
    "autonomous, v = 1.5 x": (lambda x, sigma: 1.5 * x, lambda sigma: math.exp(1.5 * sigma)),
    "in time, v = 2 sigma x": (lambda x, sigma: 2 * sigma * x, lambda sigma: math.exp(sigma**2)),
}
ERROR_RATIO = {"euler": 2, "midpoint": 4, "heun": 4}


def levels(steps: int) -> list[float]:
    return [i / steps for i in range(steps + 1)]


def run(velocity: Velocity, sigmas: list[float], solver: str, x: Tensor = START) -> list[Tensor]:
    return list(integrate(velocity, x, sigmas, solver))


def error(flow: str, steps: int, solver: str) -> float:
    velocity, growth = FLOWS[flow]
    return (run(velocity, levels(steps), solver)[-1] - growth(1.0) * START).abs().max().item()


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(flow: str, solver: str) -> None:
    errors = [error(flow, steps, solver) for steps in (32, 64, 128)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(ERROR_RATIO[solver], rel=0.1)
    assert errors[-1] > 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_solved_in_one_step(solver: str) -> None:
    towards = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64).view(3, 1, 1, 1, 1)
    (_, end) = run(lambda x, sigma: towards - START, [0.0, 1.0], solver)
    assert torch.allclose(end, towards, rtol=0, atol=1e-15)


def test_one_step_of_each_solver_by_hand() -> None:
    # v = 2 x at x = 1 over a step of 1/2: 1 + 1; 1 + (1 + 1/2); 1 + (1 + 2)/2.
    one = torch.ones(1, 1, 1, 1, 1)
    ends = {solver: run(lambda x, sigma: 2 * x, [0.25, 0.75], solver, one)[-1].item() for solver in SOLVERS}
    assert ends == {"euler": 2.0, "midpoint": 2.5, "heun": 2.5}


@pytest.mark.parametrize(("solver", "visited"), [("euler", [0.2]), ("midpoint", [0.2, 0.4]), ("heun", [0.2, 0.6])])
def test_the_velocity_is_asked_at_the_levels_of_the_rule(solver: str, visited: list[float]) -> None:
    asked: list[float] = []
    run(lambda x, sigma: asked.append(sigma) or x, [0.2, 0.6], solver)
    assert asked == pytest.approx(visited)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_level_is_yielded_beginning_with_the_given_latent(solver: str) -> None:
    velocity, growth = FLOWS["autonomous, v = 1.5 x"]
    path = run(velocity, levels(200), solver)
    assert len(path) == 201
    assert path[0] is START
    assert torch.allclose(path[100], growth(0.5) * START, rtol=1e-2)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_falling_levels_undo_rising_ones(solver: str) -> None:
    velocity, _ = FLOWS["in time, v = 2 sigma x"]
    noise = run(velocity, levels(64), solver)[-1]
    back = run(velocity, levels(64)[::-1], solver, noise)[-1]
    assert (noise - START).abs().max() > 0.3
    assert (back - START).abs().max() < 1e-3


def test_levels_need_not_be_even() -> None:
    velocity, growth = FLOWS["autonomous, v = 1.5 x"]
    uneven = [(i / 256) ** 2 for i in range(257)]
    assert torch.allclose(run(velocity, uneven, "heun")[-1], growth(1.0) * START, rtol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_velocity_that_is_not_finite_stops_at_the_step_it_names(solver: str, bad: float) -> None:
    def velocity(x: Tensor, sigma: float) -> Tensor:
        return x * (bad if 0.5 < sigma <= 0.75 else 1.0)

    path = integrate(velocity, START, levels(8), solver)
    reached = []
    with pytest.raises(FloatingPointError, match=r"in step (\d) \(sigma 0\.\d+ to 0\.\d+\)") as caught:
        reached.extend(path)
        raise AssertionError("nothing was raised")
    first_bad = {"euler": 5, "midpoint": 4, "heun": 4}[solver]
    assert f"step {first_bad} (sigma {first_bad / 8:.4f} to {(first_bad + 1) / 8:.4f})" in str(caught.value)


def test_one_bad_clip_of_a_batch_is_enough() -> None:
    spoiled = torch.tensor([1.0, 1.0, math.nan], dtype=torch.float64).view(3, 1, 1, 1, 1)
    with pytest.raises(FloatingPointError, match="step 0"):
        run(lambda x, sigma: x * spoiled, levels(4), "euler")


def test_an_unknown_solver_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got solver 'huen' .* did you mean 'heun'"):
        run(lambda x, sigma: x, levels(2), "huen")
