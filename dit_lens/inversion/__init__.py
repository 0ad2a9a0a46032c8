"""Between pixels, latents and noise: what a lens does along a path, whatever is hooked on the way.

- `loaded`: a pipeline's parts, clips as latents, the levels of its scheduler;
- `prompts`: what is told of prompts, kept on disk, with guidance;
- `walking`: one loop over noise levels, in either direction.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.clips import clip_ids
from dit_lens.conditioning import Conditioning, Guidance, Told
from dit_lens.flow import Solver
from dit_lens.inversion.loaded import Input, Steps, frames_of, ids_of
from dit_lens.inversion.walking import Walk, Walking
from dit_lens.running import Request
from dit_lens.trajectory import Trajectory, on_disk

__all__ = ["Input", "Inversion", "Steps", "frames_of"]


class Inversion(Walking):
    """The half of `DiTLens` that encodes, inverts, samples and decodes."""

    @torch.no_grad()
    def decode(self, trajectory: Trajectory, step: int = 0, clean: bool = True) -> Float[Tensor, "b 3 F H W"]:
        """Video in about [-1, 1]: by default the model's clean estimate x0 = x - sigma v at a step.

        Args:
            clean: False decodes the latent x_sigma itself, as step 0 always does.
        """
        latent = trajectory.latent(step)
        if clean and step:
            latent = self._guided(trajectory.told, lambda branch: self._clean(trajectory, step, branch))
        return self.family.decode(self.vae, latent.float())

    def _clean(self, trajectory: Trajectory, step: int, branch: str) -> Float[Tensor, "b c f h w"]:
        """The clean estimate of one guidance branch."""
        return self.model.run(self.evaluation(trajectory, step, branch), Request("hook_x0"))[1]["hook_x0"]

    def invert(
        self,
        clips: Input,
        steps: Steps = 50,
        solver: str | Solver = "heun",
        until: int | None = None,
        batch_size: int = 32,
        progress: bool = False,
        *,
        prompt: str | Conditioning | None = None,
        guidance: float | Guidance | None = None,
        to: str | Path | None = None,
    ) -> Trajectory:
        """The path from data to noise: the probability-flow ODE integrated backward from clean latents.

        Args:
            clips: clips, frames, a folder of frames or latents (see `encode`).
            steps: number of steps of the pipeline's scheduler, or what else `schedule` takes.
            solver: a name of `flow.SOLVERS`, or a `flow.Solver` for its options.
            until: last step to compute; all unless given.
            batch_size: clips to a forward.
            prompt: what the model is told; the lens's own conditioning (the empty prompt) unless given.
            guidance: its scale as the model's pipeline counts it, away from the empty prompt, or from a negative one
                with a `Guidance`; each evaluation of the velocity is then two calls of the model, which hooks see as
                the branches "cond" and "uncond".
            to: a file that latents are written to as they are made, for paths too long for memory; the trajectory
                reads them from there when they are touched (see `trajectory.on_disk`).

        Raises:
            ValueError, FloatingPointError: see `flow.integrate`; or guidance below 1 or between equal prompts.
        """
        latents, solver = self.encode(clips), Solver.of(solver)
        told = self._tell(prompt, guidance, Told(self.conditioning))
        schedule = self.schedule(steps, latents[:1])
        last = schedule.check_step(len(schedule) if until is None else until)
        walk = Walk(schedule, range(last + 1), solver, batch_size, "invert" if progress else None)
        return self._walked(walk, latents, told, ids_of(clips), to)

    def sample(
        self,
        start: Trajectory | Float[Tensor, "b c f h w"],
        solver: str | Solver | None = None,
        steps: Steps | None = None,
        batch_size: int = 32,
        progress: bool = False,
        *,
        prompt: str | Conditioning | None = None,
        guidance: float | Guidance | None = None,
        to: str | Path | None = None,
    ) -> Trajectory:
        """The sampler, run back from the noise that a trajectory ends in, or from noise; step 0 is the clip made.

        Args:
            start: a trajectory that reaches the last step, or noise.
            solver: the sampler that the solver of `start` inverts unless given ("heun" from noise).
            steps: as in `invert`; those of `start` unless given (50 from noise).
            prompt, guidance: as in `invert`; those of `start` unless given.
            to: as in `invert`.

        Raises:
            IndexError: `start` was stopped before the last step.
            TypeError: no solver was given, and `start` was made by none.
        """
        known = start if isinstance(start, Trajectory) else self._from_noise(start, 50 if steps is None else steps)
        schedule = known.schedule if steps is None else self.schedule(steps, known.latents[0, :1])
        if solver is None and known.solver is None:
            raise TypeError("got a path by plain noising and no solver · expected a solver, such as solver='heun'")
        chosen = known.solver.sampler if solver is None and known.solver else Solver.of(solver or "heun")
        noise, told = known.latent(len(known.schedule)), self._tell(prompt, guidance, known.told)
        order = range(len(schedule), -1, -1)
        walk = Walk(schedule, order, chosen, batch_size, "sample" if progress else None)
        return self._walked(walk, noise, told, known.clip_ids, to)

    def _walked(
        self, walk: Walk, start: Tensor, told: Told, clips: tuple[str, ...], to: str | Path | None
    ) -> Trajectory:
        """The trajectory of a walk, in memory or in a file."""
        shape, dtype = (len(walk.order), *start.shape), torch.promote_types(start.dtype, torch.float32)

        def walked(path: Tensor) -> Trajectory:
            record, direction = self._walk(walk, start, told, path), "invert" if walk.order[0] == 0 else "sample"
            facts, schedule = self.facts() | told.facts, walk.schedule
            return Trajectory(
                path, schedule, told.conditioning, walk.solver, direction, clips, record, facts, told.guidance
            )

        if to is None:
            return walked(torch.empty(shape, dtype=dtype, device=start.device))
        with on_disk.writing(Path(to), shape, dtype) as file:
            file.finish(walked(file.latents))
        return on_disk.opened_lazily(to)

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
        return Trajectory(path, schedule, self.conditioning, None, "noising", ids_of(clips), facts=self.facts())
