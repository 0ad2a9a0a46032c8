"""Between pixels, latents and noise: what a lens does along a path, whatever is hooked on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens import flow
from dit_lens.clips import Clip, clip_ids, stack_frames
from dit_lens.conditioning import Conditioning
from dit_lens.running import Evaluation, HookedTransformer, Request
from dit_lens.trajectory import Schedule, Trajectory
from dit_lens.video import to_tensor

Input = Clip | Sequence[Clip] | np.ndarray | Tensor


class Inversion:
    """The half of `DiTLens` that encodes, inverts, samples and decodes.

    Attributes:
        name: how results call the model.
        model: evaluates velocities.
        family: the model's conventions.
        conditioning: what is fed beside latent and time.
    """

    name: str
    transformer: Any
    model: HookedTransformer
    family: ModuleType
    conditioning: Conditioning
    _pipeline: Any

    @property
    def pipeline(self) -> Any:
        """The pipeline.

        Raises:
            TypeError: the lens was made of a transformer alone.
        """
        if self._pipeline is None:
            raise TypeError(
                f"got {self.name} as a transformer alone · expected a pipeline for latents, schedules and decoding"
                " · DiTLens(pipeline), or run_with_cache(latent=, timestep=, ...)"
            )
        return self._pipeline

    @property
    def vae(self) -> Any:
        """The pipeline's autoencoder."""
        return self.pipeline.vae

    @torch.no_grad()
    def encode(self, clips: Input, batch_size: int = 32) -> Float[Tensor, "b c f h w"]:
        """Normalised latents of clips, of uint8 frames (F, H, W, 3) or (b, F, H, W, 3), or of latents themselves.

        Raises:
            ValueError: a tensor that is no latent, or frames that are not uint8 RGB.
        """
        if isinstance(clips, Tensor):
            channels = self.transformer.config.get("out_channels") or self.transformer.config.in_channels
            if clips.ndim != 5 or clips.shape[1] != channels:
                raise ValueError(
                    f"got a tensor of shape {tuple(clips.shape)} · expected latents (b, {channels}, f, h, w)"
                    " · give frames as a uint8 numpy array (F, H, W, 3)"
                )
            return clips.to(self.transformer.device)
        frames = stack_frames(clips)
        starts = range(0, len(frames), batch_size)
        parts = [self.family.encode(self.vae, to_tensor(frames[start : start + batch_size])) for start in starts]
        return torch.cat(parts).to(self.transformer.device)

    @torch.no_grad()
    def decode(self, trajectory: Trajectory, step: int = 0, clean: bool = True) -> Float[Tensor, "b 3 F H W"]:
        """Video in about [-1, 1]: by default the model's clean estimate x0 = x - sigma v at a step.

        Args:
            clean: False decodes the latent x_sigma itself, as step 0 always does.
        """
        latent = trajectory.latent(step)
        if clean and step:
            latent = self.model.run(self.evaluation(trajectory, step), Request("hook_x0"))[1]["hook_x0"]
        return self.family.decode(self.vae, latent.float())

    def schedule(self, steps: int) -> Schedule:
        """The levels of the pipeline's own scheduler.

        Raises:
            ValueError: the scheduler does not count noise as sigma in [0, 1] (variance-preserving and EDM models).
        """
        scheduler = self.pipeline.scheduler
        if getattr(scheduler, "sigmas", None) is not None:
            schedule = Schedule.from_scheduler(scheduler, steps)
            if self.model.same_levels(torch.tensor(schedule.sigmas[1:]), torch.tensor(schedule.timesteps[1:])):
                return schedule
        raise ValueError(
            f"got the noise levels of a {type(scheduler).__name__}, which are not those of a flow from data to noise"
            f" · expected a flow-match scheduler · {self.name} can be traced, but not inverted or sampled yet"
        )

    def invert(
        self,
        clips: Input,
        steps: int = 50,
        solver: str = "heun",
        until: int | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Trajectory:
        """The path from data to noise: the probability-flow ODE integrated backward from clean latents.

        Args:
            clips: clips, frames or latents (see `encode`).
            steps: levels of the pipeline's scheduler.
            solver: "euler", "midpoint" or "heun".
            until: last step to compute; all unless given.
            batch_size: clips to a forward.

        Raises:
            ValueError, FloatingPointError: see `flow.integrate`.
        """
        schedule = self.schedule(steps)
        last = schedule.check_step(len(schedule) if until is None else until)
        batches = _batches(self.encode(clips), self.conditioning, batch_size, "invert" if progress else None)
        path = self._integrate(batches, schedule, range(last + 1), solver)
        return Trajectory(path, schedule, self.conditioning, solver, "invert", clip_ids(clips))

    def sample(
        self, start: Trajectory, solver: str | None = None, batch_size: int = 32, progress: bool = False
    ) -> Trajectory:
        """The sampler, run back from the noise that a trajectory ends in; its step 0 is the regenerated clip.

        Args:
            start: a trajectory that reaches the last step.
            solver: that of `start` unless given.

        Raises:
            IndexError: `start` was stopped before the last step.
        """
        schedule = start.schedule
        solver = solver or start.solver
        noise = start.latent(len(schedule))
        batches = _batches(noise, start.conditioning, batch_size, "sample" if progress else None)
        path = self._integrate(batches, schedule, range(len(schedule), -1, -1), solver).flip(0)
        return Trajectory(path, schedule, start.conditioning, solver, "sample", start.clip_ids)

    def noising(self, clips: Input, noise: Float[Tensor, "b c f h w"], steps: int = 50) -> Trajectory:
        """The straight path x_sigma = (1 - sigma) x_0 + sigma noise: no model, the baseline for inversion."""
        latents, schedule = self.encode(clips), self.schedule(steps)
        noise = noise.to(latents)
        path = torch.stack([(1 - sigma) * latents + sigma * noise for sigma in schedule.sigmas])
        return Trajectory(path, schedule, self.conditioning, "none", "noising", clip_ids(clips))

    def evaluation(self, trajectory: Trajectory, step: int) -> Evaluation:
        """The inputs of the transformer at a step of a trajectory."""
        schedule = trajectory.schedule
        x = trajectory.latent(step)
        time, sigma = schedule.timesteps[step], schedule.sigmas[step]
        return self.model.evaluation(x, time, trajectory.conditioning, step, sigma)

    @torch.no_grad()
    def _integrate(
        self,
        batches: Iterable[tuple[Tensor, Conditioning]],
        schedule: Schedule,
        order: Sequence[int],
        solver: str,
    ) -> Float[Tensor, "s b c f h w"]:
        steps = {schedule.sigmas[step]: step for step in order}
        paths = []
        for latent, conditioning in batches:

            def velocity(x: Tensor, sigma: float, conditioning: Conditioning = conditioning) -> Tensor:
                place = self.model.evaluation(x, schedule.timestep(sigma), conditioning, steps.get(sigma), sigma)
                return self.model.velocity(place).float()

            paths.append(torch.stack(list(flow.integrate(velocity, latent, list(steps), solver))))
        return torch.cat(paths, dim=1)


def _batches(
    latents: Tensor, conditioning: Conditioning, size: int, progress: str | None
) -> Iterator[tuple[Tensor, Conditioning]]:
    starts = range(0, len(latents), size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        clips = slice(start, start + size)
        yield latents[clips], conditioning.of_clips(clips)
