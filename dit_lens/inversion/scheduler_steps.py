"""The pipeline's own scheduler as a solver: what `lens.sample(..., solver="pipeline")` steps by.

Every scheduler that a flow or a variance-preserving model is sampled with is served by its own `step`: multistep ones
(UniPC, DPM++), stochastic ones (CogVideoX's DPM, ancestral Euler), and DDIM on any grid, which goes from level t to
t - 1000 // steps and not to the next level of the schedule. The latent of a trajectory stays the flow's.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens import flow
from dit_lens.flow import Step, Velocity
from dit_lens.trajectory import Schedule

Generators = torch.Generator | Sequence[torch.Generator] | None
SAME = 1e-3  # relative distance below which two rules make the same of a probe


@dataclass(frozen=True, eq=False)
class SchedulerSteps:
    """A scheduler that is stepped along its own schedule.

    Attributes:
        scheduler: with its timesteps set; it is copied for each use, since it counts its steps.
        schedule: the same levels, from data to noise.
        model_input: a flow's latent and a timestep -> the latent that the model gets.
        frames_first: whether the pipeline's latents are (b, f, c, h, w): noise is drawn in this order.
        generators: the source of noise, one for all clips of a batch or one for each; torch's global one unless given.
    """

    scheduler: Any
    schedule: Schedule
    model_input: Callable[[Tensor, float], Tensor]
    frames_first: bool = False
    generators: Generators = None

    @classmethod
    def of(
        cls, scheduler: Any, schedule: Schedule, arguments: dict[str, Any], model_input: Any, first: bool
    ) -> SchedulerSteps:
        """The scheduler of a pipeline, which is left as it is.

        Args:
            arguments: what the pipeline hands to `set_timesteps`, beside the number of steps.

        Raises:
            ValueError: the schedule is not that of the scheduler.
        """
        placed = copy.deepcopy(scheduler)
        placed.set_timesteps(**({} if "sigmas" in arguments else {"num_inference_steps": len(schedule)}), **arguments)
        levels = placed.timesteps, schedule.timesteps
        if _steps_a_flow(placed):
            levels = (1 - placed.sigmas if placed.config.get("invert_sigmas") else placed.sigmas)[:-1], schedule.sigmas
        theirs, ours = levels[0].double().cpu().numpy()[::-1], np.array(levels[1][1:])
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=1e-3) or "sigma_data" in placed.config:
            raise ValueError(
                f"got levels that are not those of the {type(scheduler).__name__} in {len(schedule)} steps, or not what"
                " it is stepped at (Cosmos) · expected the pipeline's own for solver='pipeline' · steps=N, another"
                " solver such as 'euler', or lens.generate"
            )
        return cls(placed, schedule, model_input, first)

    def of_clips(self, clips: slice) -> SchedulerSteps:
        """The same for some clips, with their generators."""
        many = isinstance(self.generators, Sequence)
        return replace(self, generators=self.generators[clips]) if many else self  # type: ignore[index]

    def at_start(self, noise: Tensor) -> Tensor:
        """The flow's latent of plain noise, as the pipeline takes its `latents=`."""
        first = getattr(self.scheduler, "init_noise_sigma", 1.0)
        return self._flow(noise * first, len(self.schedule), copy.deepcopy(self.scheduler))

    def __call__(self, velocity: Velocity, x: Float[Tensor, "b c f h w"], sigmas: Sequence[float]) -> Iterator[Step]:
        """The latent after each step of the scheduler, from noise on."""
        scheduler, parameters = copy.deepcopy(self.scheduler), inspect.signature(self.scheduler.step).parameters
        options: dict[str, Any] = {"generator": self.generators} if "generator" in parameters else {}
        with_memory = "old_pred_original_sample" in parameters  # CogVideoX's DPM leaves its memory to the pipeline
        estimate = back = None
        sample = self.model_input(x, self.schedule.timesteps[-1]) / self._scale(scheduler, len(self.schedule))
        for place, sigma in zip(itertools.count(len(self.schedule), -1), sigmas[:-1], strict=False):
            time, output = scheduler.timesteps[len(self.schedule) - place], self._output(x, velocity(x, sigma), sigma)
            output, ordered = self._in_order(output), self._in_order(sample)
            if with_memory:
                stepped, estimate = scheduler.step(output, estimate, time, back, ordered, **options, return_dict=False)
            else:
                stepped, *_ = scheduler.step(output, time, ordered, **options, return_dict=False)
            sample, back = self._in_order(stepped), time
            x = self._flow(sample, place - 1, scheduler)
            yield Step(x)

    def _output(self, x: Tensor, velocity: Tensor, sigma: float) -> Tensor:
        """The velocity in the form of model output that the scheduler expects."""
        if _steps_a_flow(self.scheduler):
            return -velocity if self.scheduler.config.get("invert_sigmas") else velocity
        kind = self.scheduler.config["prediction_type"]
        data, noise, root = x - sigma * velocity, x + (1 - sigma) * velocity, math.hypot(1 - sigma, sigma)
        if kind == "v_prediction":
            return ((1 - sigma) * noise - sigma * data) / root
        return noise if kind == "epsilon" else data

    def _flow(self, sample: Tensor, place: int, scheduler: Any) -> Tensor:
        """The flow's latent of a scheduler's sample at a place of the schedule; at data they are the same."""
        if place == 0:
            return sample
        unit = sample.new_ones(1, 1, 1, 1, 1)
        return sample * self._scale(scheduler, place) / self.model_input(unit, self.schedule.timesteps[place])

    def _scale(self, scheduler: Any, place: int) -> Tensor:
        """The factor between a scheduler's sample and the model's input."""
        if not hasattr(scheduler, "scale_model_input"):
            return torch.ones(1, 1, 1, 1, 1)
        return scheduler.scale_model_input(torch.ones(1, 1, 1, 1, 1), scheduler.timesteps[len(self.schedule) - place])

    def _in_order(self, x: Tensor) -> Tensor:
        """Frames and channels in the pipeline's order, or back."""
        return x.transpose(1, 2) if self.frames_first else x

    def is_euler(self) -> bool:
        """Whether its steps are Euler's on the same levels: tested on a small analytic field, without any model."""
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(1, 4, 2, 2, 2, generator=draws)
        levels = self.schedule.sigmas[::-1]

        def field(x: Tensor, sigma: float) -> Tensor:
            return torch.cos(3 * x + 2 * sigma)

        seeded = replace(self, generators=draws)
        with torch.random.fork_rng(devices=[]):  # some schedulers draw from the global generator all the same
            ends = [[step.x for step in rule(field, x, levels)][-1] for rule in (seeded, flow.euler)]
        return bool((ends[0] - ends[1]).norm() <= SAME * ends[1].norm())


def _steps_a_flow(scheduler: Any) -> bool:
    return scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction"


def check_generators(generators: Generators, clips: int, batch_size: int) -> None:
    """Raises ValueError where noise would depend on how clips are put into batches, or generators are too few."""
    if isinstance(generators, torch.Generator) and clips > batch_size:
        raise ValueError(
            f"got one generator for {clips} clips in batches of {batch_size} · expected one for each clip, or all clips"
            f" in one batch · generator=[torch.Generator().manual_seed(i) for i in range({clips})]"
        )
    if isinstance(generators, Sequence) and len(generators) != clips:
        raise ValueError(f"got {len(generators)} generators for {clips} clips · expected one for each")
