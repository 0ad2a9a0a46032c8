"""One loop over noise levels, in either direction: which evaluations a solver asks for, in which guidance branches.

steps of a schedule   0     1     2     3          order (0, 1, 2, 3): an inversion, (3, 2, 1, 0): sampling
sigma                 0    .4    .7     1          order (1, 2): taken up at step 1, as far as step 2
Heun from step 1 to 2 evaluates the velocity at .4 and .7, so hooks see steps 1 and 2; midpoint evaluates at .4 and
.55, and a level between steps has the step None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens import flow
from dit_lens.arguments import integer
from dit_lens.conditioning import BRANCHES, Conditioning, Conditions
from dit_lens.flow import Solver
from dit_lens.inversion.interface import Lens
from dit_lens.inversion.scheduler_steps import SchedulerSteps
from dit_lens.running import Evaluation
from dit_lens.running.branches import guided
from dit_lens.trajectory import Schedule, Trajectory, checked, record_of


@dataclass(frozen=True)
class SolverRun:
    """A run of a solver along a path.

    Attributes:
        schedule: all noise levels of the path.
        order: the steps to visit; it starts at the first.
        solver: the rule from each to the next.
        batch_size: clips per forward.
        progress: the name of a progress bar; no bar unless given.
        scheduler_steps: the pipeline's scheduler, where it is the solver.
    """

    schedule: Schedule
    order: Sequence[int]
    solver: Solver
    batch_size: int = 32
    progress: str | None = None
    scheduler_steps: SchedulerSteps | None = None

    def __post_init__(self):
        integer(self.batch_size, "batch_size", 1)

    @cached_property
    def steps(self) -> dict[float, int]:
        """The step of each level that is visited."""
        return {self.schedule.sigmas[step]: step for step in self.order}

    @property
    def levels(self) -> list[float]:
        """The levels that are visited, in order."""
        return [self.schedule.sigmas[step] for step in self.order]

    def evaluated_levels(self) -> list[tuple[float, ...]]:
        """The levels at which each step evaluates the velocity, found without evaluating the model."""
        steps = flow.integrate(
            lambda x, sigma: torch.zeros_like(x), torch.zeros(1, 1, 1, 1, 1), self.levels, self.solver
        )
        return [step.levels for step in steps][1:]

    def batches(self, clips: int) -> Iterator[slice]:
        """The clips of each forward."""
        for start in range(0, clips, self.batch_size):
            yield slice(start, start + self.batch_size)

    def bar(self, clips: int) -> tqdm:
        """A bar over the levels that are visited, batch after batch."""
        total = len(self.order) * len(list(self.batches(clips)))
        return tqdm(total=total, desc=self.progress, unit="level", disable=self.progress is None)


# Evaluations.


def evaluation(lens: Lens, trajectory: Trajectory, step: int, branch: str = BRANCHES[0]) -> Evaluation:
    """The call of the transformer at a step of a trajectory, in one of its guidance branches.

    Raises:
        TypeError: no trajectory. ValueError: branch "uncond" of a trajectory without guidance.
    """
    schedule = checked(trajectory).schedule
    return evaluation_at(
        lens, trajectory.latent(step), schedule, schedule.sigmas[step], trajectory.conditions, step, branch
    )


def evaluation_at(
    lens: Lens, x: Tensor, schedule: Schedule, sigma: float, conditions: Conditions, step: int | None, branch: str
) -> Evaluation:
    """The call of the transformer at a noise level, for a flow's latent."""
    time = timestep(lens, schedule, sigma)
    alone = lens.model.evaluation(model_input(lens, x, time), time, conditions.branch(branch), step, sigma)
    return alone if conditions.guidance is None else replace(alone, branches=(branch,))


def model_input(lens: Lens, latent: Float[Tensor, "b c f h w"], timestep: float) -> Float[Tensor, "b c f h w"]:
    """The latent that the model gets for a trajectory's: the same, scaled where the model preserves variance."""
    return latent if lens.family.as_fed is None else lens.family.as_fed(latent, timestep)


def timestep(lens: Lens, schedule: Schedule, sigma: float) -> float:
    """The timestep that the model gets at a level: its own, or the scheduler's where that may round it."""
    by_family = lens.family.noise_levels is not None
    return lens.family.to_timestep(sigma) if by_family else schedule.timestep(sigma)


def guided_value(lens: Lens, conditions: Conditions, value: Callable[[str], Tensor]) -> Tensor:
    """A value under guidance, from its values in both branches; without guidance that of the only branch."""
    if conditions.guidance is None:
        return value(BRANCHES[0])
    cond, uncond = (value(branch) for branch in BRANCHES)
    return guided(lens.family, cond, uncond, conditions.guidance.scale)


# Runs.


@torch.no_grad()
def run(
    lens: Lens,
    solver_run: SolverRun,
    start: Float[Tensor, "b c f h w"],
    conditions: Conditions,
    path: Float[Tensor, "s b c f h w"],
) -> xr.Dataset:
    """Fills `path` with the latents of a run, by step from data, each as soon as it is known; returns the record.

    Hooks see the step of the level at which the velocity is evaluated.
    """
    records: list[xr.Dataset] = []
    with solver_run.bar(len(start)) as bar:
        for clips in solver_run.batches(len(start)):
            rule = solver_run.scheduler_steps and solver_run.scheduler_steps.of_clips(clips)
            steps, done = _steps(lens, solver_run, start[clips], conditions.of_clips(clips), rule), []
            for place, step in zip(solver_run.order, steps, strict=True):
                path[place, clips] = step.x.to(path)
                bar.update()
                done.append(step.without_latent())
            schedule = solver_run.schedule
            records.append(record_of(done, schedule, solver_run.order[0], partial(timestep, lens, schedule)))
    record: Any = xr.concat(records, "clip", coords="minimal", compat="override", join="exact")
    return record


def resume(
    lens: Lens, solver_run: SolverRun, start: Float[Tensor, "b c f h w"], conditions: Conditions
) -> Iterator[flow.Step]:
    """The latent at each step of `solver_run.order` in turn, the start first, all clips in one batch.

    Raises:
        FloatingPointError: see `flow.integrate`.
    """
    return _steps(lens, solver_run, start, conditions, None)


def _steps(
    lens: Lens, solver_run: SolverRun, start: Tensor, conditions: Conditions, rule: SchedulerSteps | None
) -> Iterator[flow.Step]:
    frames = clean_frames(lens, conditions.conditioning)
    velocity = _velocity(lens, solver_run, conditions, None if frames is None else torch.zeros_like(frames))
    return flow.integrate(velocity, _beginning(frames, start), solver_run.levels, solver_run.solver, rule)


def _velocity(lens: Lens, solver_run: SolverRun, conditions: Conditions, still: Tensor | None) -> flow.Velocity:
    """The velocity of clips at a level; 0 in the frames that are `still`."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        def of(branch: str) -> Tensor:
            step = solver_run.steps.get(sigma)
            call = evaluation_at(lens, x, solver_run.schedule, sigma, conditions, step, branch)
            return lens.model.velocity(call).float()

        return _beginning(still, guided_value(lens, conditions, of))

    return velocity


def clean_frames(lens: Lens, conditioning: Conditioning) -> Tensor | None:
    """Clean frames that a clip starts with (1 or b, c, f, h, w); they carry no noise at any level."""
    return lens.family.given_frames(conditioning.tensors)


def _beginning(frames: Tensor | None, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """The latent with its first frames replaced."""
    if frames is None:
        return x
    return torch.cat([frames.to(x).expand(len(x), -1, -1, -1, -1), x[:, :, frames.shape[2] :]], 2)


def repeated(conditions: Conditions, clips: int, copies: int) -> Conditions:
    """The conditions of that many copies of the clips; conditioning of batch 1 serves them all."""

    def copied(conditioning: Conditioning) -> Conditioning:
        tensors = {
            name: tensor.repeat(copies, *[1] * (tensor.ndim - 1)) if len(tensor) == clips > 1 else tensor
            for name, tensor in conditioning.tensors.items()
        }
        return Conditioning(tensors, conditioning.prompt)

    guidance = conditions.guidance and replace(conditions.guidance, negative=copied(conditions.guidance.negative))
    return Conditions(copied(conditions.conditioning), guidance)
