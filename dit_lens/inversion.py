"""Between pixels, latents and noise: what a lens does along a path, whatever is hooked on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from dit_lens import flow
from dit_lens.clips import Clip, clip_ids, stack_frames
from dit_lens.conditioning import Conditioning
from dit_lens.flow import Solver
from dit_lens.reading import read_frames
from dit_lens.running import Evaluation, Experts, HookedTransformer, Request
from dit_lens.trajectory import Schedule, Trajectory, record_of
from dit_lens.video import to_tensor

Input = Clip | Sequence[Clip] | np.ndarray | Tensor | str | Path
Steps = int | Sequence[float] | Schedule


class Inversion:
    """The half of `DiTLens` that encodes, inverts, samples and decodes.

    Attributes:
        name: how results call the model.
        model: evaluates velocities.
        family: the model's conventions.
        conditioning: what is fed beside latent and time.
        facts: what a result says of its model.
    """

    name: str
    transformer: Any
    model: HookedTransformer | Experts
    family: ModuleType
    conditioning: Conditioning
    facts: Callable[[], dict[str, str]]
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

        A path is a folder of frames or an animated image (see `reading.read_frames`), in the size that the model takes.

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
        frames = frames_of(clips)
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

    def schedule(
        self,
        steps: int | Sequence[float] | Schedule,
        latent: Float[Tensor, "b c f h w"] | None = None,
        **arguments: Any,
    ) -> Schedule:
        """The levels of the pipeline's own scheduler, or levels of one's own.

        Args:
            steps: their number; or the levels, rising from 0 and not shifted again; or a schedule, which is returned.
            latent: a latent of the size in question, for models whose levels depend on it.
            **arguments: for the scheduler's `set_timesteps` (`sigmas`, `mu`), instead of those of the model's pipeline.

        Raises:
            ValueError: fewer than one step; or a flow's scheduler does not count noise as sigma in [0, 1], or shifts
                its levels by the latent's size in a way that is not known.
        """
        if isinstance(steps, Schedule):
            return steps
        if not isinstance(steps, int):
            return Schedule(tuple(steps), tuple(self.family.to_timestep(sigma) for sigma in steps))
        if steps < 1:
            raise ValueError(f"got steps={steps} · expected at least 1")
        if hasattr(self.family, "noise_levels"):
            return self.schedule(self.family.noise_levels(self.pipeline, steps, **arguments))
        scheduler = self.pipeline.scheduler
        own = getattr(self.family, "schedule_arguments", None)
        if own is not None and not arguments:
            arguments = own(self.pipeline, latent, steps)
        if getattr(scheduler, "sigmas", None) is not None:
            schedule = Schedule.from_scheduler(scheduler, steps, **arguments)
            if self.model.same_levels(torch.tensor(schedule.sigmas[1:]), torch.tensor(schedule.timesteps[1:])):
                return schedule
        raise ValueError(
            f"got the noise levels of a {type(scheduler).__name__}, which are not those of a flow from data to noise"
            f" · expected a flow-match scheduler · {self.name} can be traced, but not inverted or sampled yet"
        )

    def invert(
        self,
        clips: Input,
        steps: Steps = 50,
        solver: str | Solver = "heun",
        until: int | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Trajectory:
        """The path from data to noise: the probability-flow ODE integrated backward from clean latents.

        Args:
            clips: clips, frames, a folder of frames or latents (see `encode`).
            steps: number of steps of the pipeline's scheduler, or what else `schedule` takes.
            solver: a name of `flow.SOLVERS`, or a `flow.Solver` for its options.
            until: last step to compute; all unless given.
            batch_size: clips to a forward.

        Raises:
            ValueError, FloatingPointError: see `flow.integrate`.
        """
        latents, solver = self.encode(clips), Solver.of(solver)
        schedule = self.schedule(steps, latents[:1])
        last = schedule.check_step(len(schedule) if until is None else until)
        batches = _batches(latents, self.conditioning, batch_size, "invert" if progress else None)
        path, record = self._integrate(batches, schedule, range(last + 1), solver)
        return Trajectory(path, schedule, self.conditioning, solver, "invert", _ids(clips), record, self.facts())

    def sample(
        self,
        start: Trajectory | Float[Tensor, "b c f h w"],
        solver: str | Solver | None = None,
        steps: Steps | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Trajectory:
        """The sampler, run back from the noise that a trajectory ends in, or from noise; step 0 is the clip made.

        Args:
            start: a trajectory that reaches the last step, or noise.
            solver: the sampler that the solver of `start` inverts unless given ("heun" from noise).
            steps: as in `invert`; those of `start` unless given (50 from noise).

        Raises:
            IndexError: `start` was stopped before the last step.
            TypeError: no solver was given, and `start` was made by none.
        """
        known = start if isinstance(start, Trajectory) else self._from_noise(start, 50 if steps is None else steps)
        schedule = known.schedule if steps is None else self.schedule(steps, known.latents[0, :1])
        if solver is None and known.solver is None:
            raise TypeError("got a path by plain noising and no solver · expected a solver, such as solver='heun'")
        chosen = known.solver.sampler if solver is None and known.solver else Solver.of(solver or "heun")
        noise = known.latent(len(known.schedule))
        batches = _batches(noise, known.conditioning, batch_size, "sample" if progress else None)
        path, record = self._integrate(batches, schedule, range(len(schedule), -1, -1), chosen)
        made = Trajectory(path, schedule, known.conditioning, chosen, "sample", known.clip_ids, record, self.facts())
        return made

    def _from_noise(self, noise: Tensor, steps: Steps) -> Trajectory:
        """The end of a path that is not known yet, at every step."""
        schedule = self.schedule(steps, noise[:1])
        path = noise.expand(len(schedule) + 1, *noise.shape)
        return Trajectory(path, schedule, self.conditioning, Solver(), "sample", clip_ids(noise))

    def noising(self, clips: Input, noise: Float[Tensor, "b c f h w"], steps: Steps = 50) -> Trajectory:
        """The straight path x_sigma = (1 - sigma) x_0 + sigma noise: no model, the baseline for inversion."""
        latents = self.encode(clips)
        schedule, noise = self.schedule(steps, latents[:1]), noise.to(latents)
        path = torch.stack([(1 - sigma) * latents + sigma * noise for sigma in schedule.sigmas])
        return Trajectory(path, schedule, self.conditioning, None, "noising", _ids(clips), facts=self.facts())

    def evaluation(self, trajectory: Trajectory, step: int) -> Evaluation:
        """The inputs of the transformer at a step of a trajectory."""
        schedule = trajectory.schedule
        return self._place(trajectory.latent(step), schedule, schedule.sigmas[step], trajectory.conditioning, step)

    def _place(self, x: Tensor, schedule: Schedule, sigma: float, told: Conditioning, step: int | None) -> Evaluation:
        """A call of the model at a noise level, with a flow's latent as the model is fed it."""
        time = self._timestep(schedule, sigma)
        return self.model.evaluation(self.as_fed(x, time), time, told, step, sigma)

    def as_fed(self, latent: Float[Tensor, "b c f h w"], timestep: float) -> Float[Tensor, "b c f h w"]:
        """What the model is fed of a trajectory's latent at a timestep: it, scaled where variance is kept."""
        own = getattr(self.family, "as_fed", None)
        return latent if own is None else own(latent, timestep)

    def _timestep(self, schedule: Schedule, sigma: float) -> float:
        """What is fed at a level: the model's own timestep, or the scheduler's where that may round it."""
        own = hasattr(self.family, "noise_levels")
        return self.family.to_timestep(sigma) if own else schedule.timestep(sigma)

    @torch.no_grad()
    def _integrate(
        self,
        batches: Iterable[tuple[Tensor, Conditioning]],
        schedule: Schedule,
        order: Sequence[int],
        solver: Solver,
    ) -> tuple[Float[Tensor, "s b c f h w"], xr.Dataset]:
        """Latents and record by step from data; hooks see the step of the level that an evaluation is told."""
        levels = {schedule.sigmas[step]: step for step in order}
        paths, records = [], []
        for latent, conditioning in batches:
            given = self._frames_given(conditioning)
            still = None if given is None else torch.zeros_like(given)

            def velocity(
                x: Tensor, sigma: float, conditioning: Conditioning = conditioning, still: Tensor | None = still
            ) -> Tensor:
                place = self._place(x, schedule, sigma, conditioning, levels.get(sigma))
                return _beginning_with(still, self.model.velocity(place).float())

            steps = list(flow.integrate(velocity, _beginning_with(given, latent), list(levels), solver))
            records.append(record_of(steps, schedule, order[0], partial(self._timestep, schedule)))
            paths.append(torch.stack([step.x for step in (steps if order[0] == 0 else steps[::-1])]))
        record: Any = xr.concat(records, "clip", coords="minimal", compat="override", join="exact")
        return torch.cat(paths, dim=1), record

    def _frames_given(self, conditioning: Conditioning) -> Tensor | None:
        """Clean frames that a clip begins with (1 or b, c, f, h, w): they are no noisier at any level."""
        own = getattr(self.family, "given_frames", None)
        return None if own is None else own(conditioning.tensors)


def _beginning_with(frames: Tensor | None, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    if frames is None:
        return x
    return torch.cat([frames.to(x).expand(len(x), -1, -1, -1, -1), x[:, :, frames.shape[2] :]], 2)


def frames_of(clips: Clip | Sequence[Clip] | np.ndarray | str | Path) -> UInt8[np.ndarray, "b F H W 3"]:
    """The frames of clips, of an array, or of files (see `reading.read_frames`)."""
    return stack_frames(read_frames(clips) if isinstance(clips, str | Path) else clips)


def _ids(clips: Input) -> tuple[str, ...]:
    return (str(clips),) if isinstance(clips, str | Path) else clip_ids(clips)


def _batches(
    latents: Tensor, conditioning: Conditioning, size: int, progress: str | None
) -> Iterator[tuple[Tensor, Conditioning]]:
    starts = range(0, len(latents), size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        clips = slice(start, start + size)
        yield latents[clips], conditioning.of_clips(clips)
