"""One loop over noise levels, in either direction: what is evaluated on the way, in which branches, by which solver."""

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
from dit_lens.conditioning import BRANCHES, Conditioning, Told
from dit_lens.flow import Solver
from dit_lens.inversion.prompts import Prompted
from dit_lens.running import Evaluation
from dit_lens.running.branches import guided
from dit_lens.trajectory import Schedule, Trajectory, record_of


@dataclass(frozen=True)
class Walk:
    """How a path is walked.

    Attributes:
        schedule: the levels that there are.
        order: the steps to visit, the first of which is where it begins.
        solver: how one is reached from the one before.
        batch_size: clips to a forward.
        progress: what a bar calls it; no bar unless given.
    """

    schedule: Schedule
    order: Sequence[int]
    solver: Solver
    batch_size: int = 32
    progress: str | None = None

    @cached_property
    def steps(self) -> dict[float, int]:
        """The step of each level that is visited."""
        return {self.schedule.sigmas[step]: step for step in self.order}

    def batches(self, clips: int) -> Iterator[slice]:
        """The clips of each forward."""
        starts = range(0, clips, self.batch_size)
        for start in tqdm(starts, desc=self.progress, unit="batch", disable=self.progress is None):
            yield slice(start, start + self.batch_size)


class Walking(Prompted):
    """The part of `DiTLens` that evaluates a model along a path."""

    def evaluation(self, trajectory: Trajectory, step: int, branch: str = BRANCHES[0]) -> Evaluation:
        """The inputs of the transformer at a step of a trajectory, in one of its guidance branches.

        Raises:
            ValueError: branch "uncond" of a trajectory without guidance.
        """
        schedule = trajectory.schedule
        return self._place(trajectory.latent(step), schedule, schedule.sigmas[step], trajectory.told, step, branch)

    def as_fed(self, latent: Float[Tensor, "b c f h w"], timestep: float) -> Float[Tensor, "b c f h w"]:
        """What the model is fed of a trajectory's latent at a timestep: it, scaled where variance is kept."""
        own = getattr(self.family, "as_fed", None)
        return latent if own is None else own(latent, timestep)

    def _place(
        self, x: Tensor, schedule: Schedule, sigma: float, told: Told, step: int | None, branch: str
    ) -> Evaluation:
        """A call of the model at a noise level, with a flow's latent as the model is fed it."""
        time = self._timestep(schedule, sigma)
        plain = self.model.evaluation(self.as_fed(x, time), time, told.branch(branch), step, sigma)
        return plain if told.guidance is None else replace(plain, branches=(branch,))

    def _timestep(self, schedule: Schedule, sigma: float) -> float:
        """What is fed at a level: the model's own timestep, or the scheduler's where that may round it."""
        own = hasattr(self.family, "noise_levels")
        return self.family.to_timestep(sigma) if own else schedule.timestep(sigma)

    def _guided(self, told: Told, value: Callable[[str], Tensor]) -> Tensor:
        """What guidance makes of a value of each branch, or that of the only one."""
        if told.guidance is None:
            return value(BRANCHES[0])
        cond, uncond = (value(branch) for branch in BRANCHES)
        return guided(self.family, cond, uncond, told.guidance.scale)

    @torch.no_grad()
    def _walk(
        self, walk: Walk, start: Float[Tensor, "b c f h w"], told: Told, path: Float[Tensor, "s b c f h w"]
    ) -> xr.Dataset:
        """The record of a walk whose latents are put into `path`, by step from data, each as soon as it is made.

        Hooks see the step of the level that an evaluation is told.
        """
        records: list[xr.Dataset] = []
        for clips in walk.batches(len(start)):
            own, went = told.of_clips(clips), []
            given = self._frames_given(own.conditioning)
            velocity = self._velocity(walk, own, None if given is None else torch.zeros_like(given))
            levels = [walk.schedule.sigmas[step] for step in walk.order]
            steps = flow.integrate(velocity, _beginning_with(given, start[clips]), levels, walk.solver)
            for place, step in zip(walk.order, steps, strict=True):
                path[place, clips] = step.x.to(path)
                went.append(step.without_latent())
            records.append(record_of(went, walk.schedule, walk.order[0], partial(self._timestep, walk.schedule)))
        record: Any = xr.concat(records, "clip", coords="minimal", compat="override", join="exact")
        return record

    def _velocity(self, walk: Walk, told: Told, still: Tensor | None) -> flow.Velocity:
        """The velocity of clips at a level; 0 in frames that are `still`."""

        def velocity(x: Tensor, sigma: float) -> Tensor:
            def of(branch: str) -> Tensor:
                place = self._place(x, walk.schedule, sigma, told, walk.steps.get(sigma), branch)
                return self.model.velocity(place).float()

            return _beginning_with(still, self._guided(told, of))

        return velocity

    def _frames_given(self, conditioning: Conditioning) -> Tensor | None:
        """Clean frames that a clip begins with (1 or b, c, f, h, w): they are no noisier at any level."""
        own = getattr(self.family, "given_frames", None)
        return None if own is None else own(conditioning.tensors)


def _beginning_with(frames: Tensor | None, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    if frames is None:
        return x
    return torch.cat([frames.to(x).expand(len(x), -1, -1, -1, -1), x[:, :, frames.shape[2] :]], 2)
