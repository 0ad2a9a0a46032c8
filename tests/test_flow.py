"""Solvers against flows whose solution is known in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lens.flow import SOLVERS, Solver, Step, Velocity, fixed_point, integrate

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(3, 1, 1, 1, 1)
# velocity, and the factor by which the solution has grown at sigma.
FLOWS: dict[str, tuple[Velocity, Callable[[float], float]]] = {
    "autonomous, v = 1.5 x": (lambda x, sigma: 1.5 * x, lambda sigma: math.exp(1.5 * sigma)),
    "in time, v = 2 sigma x": (lambda x, sigma: 2 * sigma * x, lambda sigma: math.exp(sigma**2)),
}
EXACT = 1e-14
ALL = {
    "euler": Solver("euler"),
    "euler, target time": Solver("euler", time_at="target"),
    "implicit_euler": Solver("implicit_euler", tolerance=EXACT),
    "midpoint": Solver("midpoint"),
    "heun": Solver("heun"),
    "fireflow": Solver("fireflow"),
}
# By what halving the step divides the one-way error, and the error of there and back on the same grid.
ONE_WAY = dict.fromkeys(ALL, 2) | dict.fromkeys(["midpoint", "heun", "fireflow"], 4)
# A rule of even order makes opposite errors there and back: they cancel to the next order.
ROUND_TRIP = {"euler": 2, "euler, target time": 2, "midpoint": 8, "heun": 8, "fireflow": 8}


def levels(steps: int) -> list[float]:
    return [i / steps for i in range(steps + 1)]


def integrated(velocity: Velocity, sigmas: list[float], solver: str | Solver, x: Tensor = START) -> list[Step]:
    return list(integrate(velocity, x, sigmas, solver))


def run(velocity: Velocity, sigmas: list[float], solver: str | Solver, x: Tensor = START) -> list[Tensor]:
    return [step.x for step in integrated(velocity, sigmas, solver, x)]


def error(flow: str, steps: int, solver: Solver) -> float:
    velocity, growth = FLOWS[flow]
    return (run(velocity, levels(steps), solver)[-1] - growth(1.0) * START).abs().max().item()


def there_and_back(velocity: Velocity, steps: int, solver: Solver, x: Tensor = START) -> float:
    noise = run(velocity, levels(steps), solver, x)[-1]
    assert (noise - x).abs().max() > 0.3
    return float((run(velocity, levels(steps)[::-1], solver.sampler, noise)[-1] - x).abs().max())


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", ALL)
def test_halving_the_step_divides_the_error_by_two_to_the_order(flow: str, name: str) -> None:
    errors = [error(flow, steps, ALL[name]) for steps in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(ONE_WAY[name], rel=0.1)
    assert errors[-1] > 1e-9


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", ROUND_TRIP)
def test_halving_the_step_divides_the_round_trip_by_two_or_by_eight(flow: str, name: str) -> None:
    gaps = [there_and_back(FLOWS[flow][0], steps, ALL[name]) for steps in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(gaps):
        assert coarse / fine == pytest.approx(ROUND_TRIP[name], rel=0.1)
    assert gaps[-1] > 1e-12


def contracting(x: Tensor, sigma: float) -> Tensor:
    """Nonlinear, of Lipschitz constant below 1.5: steps of 1/2 contract."""
    return 1.5 * torch.sin(x + sigma) * 0.9


@pytest.mark.parametrize(("dtype", "tolerance", "gap"), [(torch.float32, 1e-6, 1e-5), (torch.float64, 1e-12, 1e-10)])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_euler_undoes_an_implicit_step_of_any_length(
    dtype: torch.dtype, tolerance: float, gap: float, steps: int
) -> None:
    solver, x = Solver("implicit_euler", tolerance=tolerance), START.to(dtype)
    path = integrated(contracting, levels(steps), solver)
    assert all(bool(step.converged.all()) for step in path[1:])
    assert there_and_back(contracting, steps, solver, x) < gap
    assert there_and_back(contracting, steps, Solver("euler"), x) > 1e3 * gap


def test_a_step_that_does_not_contract_says_so_and_keeps_the_best() -> None:
    rough = lambda x, sigma: -40 * torch.sign(x - 1.5)  # noqa: E731  (no y solves it)
    (_, step) = integrated(rough, [0.0, 1.0], Solver("implicit_euler", iterations=7))
    assert not step.converged.any() and step.evaluations == 7
    at = (START + rough(step.x, 1.0) - step.x).flatten(1).norm(dim=1) / step.x.flatten(1).norm(dim=1)
    torch.testing.assert_close(step.residual, at)


def test_acceleration_solves_what_plain_iteration_does_not() -> None:
    matrix = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)  # of norm 2: plain images fly apart
    offset = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    y, residual = fixed_point(lambda y: y @ matrix.T + offset, torch.zeros_like(offset), 1e-10, 20)
    torch.testing.assert_close(y, torch.linalg.solve(torch.eye(2) - matrix, offset.T).T)
    assert residual <= 1e-10


def test_a_clip_is_solved_as_it_is_alone() -> None:
    together = integrated(contracting, levels(3), "implicit_euler")
    alone = integrated(contracting, levels(3), "implicit_euler", START[1:2])
    for batch, single in zip(together[1:], alone[1:], strict=True):
        torch.testing.assert_close(batch.x[1:2], single.x, rtol=0, atol=1e-5)


def test_the_first_image_is_euler_at_the_target_time() -> None:
    first = run(FLOWS["in time, v = 2 sigma x"][0], [0.25, 0.75], Solver("euler", time_at="target"))[-1]
    states: list[Tensor] = []
    integrated(lambda x, sigma: states.append(x) or 2 * sigma * x, [0.25, 0.75], Solver("implicit_euler", iterations=2))
    assert torch.equal(states[0], START) and torch.equal(states[1], first)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_solved_in_one_step(solver: str) -> None:
    towards = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64).view(3, 1, 1, 1, 1)
    (_, end) = run(lambda x, sigma: towards - START, [0.0, 1.0], solver)
    assert torch.allclose(end, towards, rtol=0, atol=1e-15)


def test_one_step_of_each_solver_by_hand() -> None:
    # v = 2 x at x = 1 over a step of 1/2: 1 + 1; 1 + (1 + 1/2); 1 + (1 + 2)/2.
    start = torch.ones(1, 1, 1, 1, 1)
    explicit = ("euler", "midpoint", "heun", "fireflow")
    ends = {solver: run(lambda x, sigma: 2 * x, [0.25, 0.75], solver, start)[-1].item() for solver in explicit}
    assert ends == {"euler": 2.0, "midpoint": 2.5, "heun": 2.5, "fireflow": 2.5}
    # y = 1 + 1/2 v(y) with v = x: y = 2.
    assert run(lambda x, sigma: x, [0.25, 0.75], "implicit_euler", start)[-1].item() == pytest.approx(2.0, abs=1e-5)


def test_the_second_step_of_fireflow_by_hand() -> None:
    # v = x, steps of 1: half-way 1.5, so 1 + 1.5 = 2.5; then half-way 2.5 + 1.5 / 2 = 3.25, so 2.5 + 3.25 = 5.75.
    start = torch.ones(1, 1, 1, 1, 1)
    assert [x.item() for x in run(lambda x, sigma: x, [0.0, 1.0, 2.0], "fireflow", start)] == [1.0, 2.5, 5.75]


TOLD = {
    "euler": [[0.2], [0.6]],
    "euler, target time": [[0.6], [0.8]],
    "midpoint": [[0.2, 0.4], [0.6, 0.7]],
    "heun": [[0.2, 0.6], [0.6, 0.8]],
    "fireflow": [[0.2, 0.4], [0.7]],
}


@pytest.mark.parametrize("name", TOLD)
def test_the_velocity_is_asked_at_the_levels_of_the_rule_and_each_is_recorded(name: str) -> None:
    asked: list[float] = []
    path = integrated(lambda x, sigma: asked.append(sigma) or x, [0.2, 0.6, 0.8], ALL[name])
    assert asked == pytest.approx(list(itertools.chain(*TOLD[name])))
    assert path[0].levels == ()
    for step, sigmas in zip(path[1:], TOLD[name], strict=True):
        assert step.levels == pytest.approx(sigmas) and step.evaluations == len(sigmas)


def test_an_implicit_step_is_told_its_target_and_counts_its_images() -> None:
    asked: list[float] = []
    path = integrated(lambda x, sigma: asked.append(sigma) or 0.1 * x, [0.2, 0.6, 0.8], "implicit_euler")
    assert [set(step.levels) for step in path[1:]] == [{0.6}, {0.8}]
    assert sum(step.evaluations for step in path) == len(asked) > 4


def test_no_velocity_is_told_a_level_below_the_floor() -> None:
    path = integrated(lambda x, sigma: x, [0.0, 0.1, 0.5], Solver("heun", sigma_min=0.05))
    assert [step.levels for step in path] == [(), (0.05, 0.1), (0.1, 0.5)]


def test_what_inverts_euler_is_sampled_by_euler() -> None:
    assert {name for name, solver in ALL.items() if solver.sampler != solver} == {
        "implicit_euler",
        "euler, target time",
    }
    assert ALL["implicit_euler"].sampler.name == ALL["euler, target time"].sampler.name == "euler"
    assert ALL["euler, target time"].sampler.time_at == "current"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "huen"}, "got solver 'huen' .* did you mean 'heun'"),
        ({"name": "euler", "time_at": "targe"}, "did you mean 'target'"),
        ({"name": "heun", "time_at": "target"}, "got time_at='target' for heun"),
    ],
)
def test_a_solver_that_is_not_there_is_refused(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Solver(**options)


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
    first_bad = {"euler": 5}.get(solver, 4)
    assert f"step {first_bad} (sigma {first_bad / 8:.4f} to {(first_bad + 1) / 8:.4f})" in str(caught.value)


def test_one_bad_clip_of_a_batch_is_enough() -> None:
    spoiled = torch.tensor([1.0, 1.0, math.nan], dtype=torch.float64).view(3, 1, 1, 1, 1)
    with pytest.raises(FloatingPointError, match="step 0"):
        run(lambda x, sigma: x * spoiled, levels(4), "euler")


def test_an_unknown_solver_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got solver 'huen' .* did you mean 'heun'"):
        run(lambda x, sigma: x, levels(2), "huen")


def test_euler_at_the_current_level_is_ddim_inversion_and_at_the_target_level_is_not() -> None:
    """Song et al. 2021, eq. 12 on alpha-bar, the noise predicted at the current latent and level; whatever model."""

    def predicted(x: Tensor, kept: float) -> Tensor:
        return torch.tanh(x) * (1 - kept) + 0.3 * x.sin()

    def amplitudes(sigma: float) -> tuple[float, float]:
        size = math.hypot(1 - sigma, sigma)  # of the straight mixture (1 - sigma) data + sigma noise
        return (1 - sigma) / size, sigma / size

    def velocity(x: Tensor, sigma: float) -> Tensor:
        kept, added = amplitudes(sigma)
        latent = x * (kept + added)  # with unit variance
        noise = predicted(latent, kept**2)
        return noise - (latent - added * noise) / kept

    sigmas, x = [0.05, 0.2, 0.4, 0.6, 0.8], START
    kept, added = amplitudes(sigmas[0])
    latent = x * (kept + added)
    for sigma in sigmas[1:]:
        noise = predicted(latent, kept**2)
        data = (latent - added * noise) / kept
        kept, added = amplitudes(sigma)
        latent = kept * data + added * noise
    ends = {name: [*integrate(velocity, x, sigmas, ALL[name])][-1].x * (kept + added) for name in list(ALL)[:2]}
    torch.testing.assert_close(ends["euler"], latent)
    assert (ends["euler, target time"] - latent).norm() > 0.01 * latent.norm()  # positive control
