"""Trajectories: latents at every noise level between data and noise, and what made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dit_lens.conditioning import Conditioning


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise levels from data to noise with the timestep fed at each: sigmas[0] = 0, step i sits at sigmas[i].

    Levels rise; the sampler's own index of step i is N - i.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int) -> Schedule:
        """The levels that a pipeline's own diffusers scheduler would visit in `steps` sampling steps, reversed.

        Raises:
            ValueError: fewer than one step.
        """
        if steps < 1:
            raise ValueError(f"got steps={steps} · expected at least 1")
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(steps)
        sigmas = tuple(float(s) for s in own.sigmas.flip(0))
        return cls(sigmas, (0.0, *(float(t) for t in own.timesteps.flip(0))))

    def __len__(self) -> int:
        """Number of steps (one less than levels)."""
        return len(self.sigmas) - 1

    def timestep(self, sigma: float) -> float:
        """What the model is fed at a level: the scheduler's own value on the levels, linear in between."""
        return float(np.interp(sigma, self.sigmas, self.timesteps))

    def check_step(self, step: int) -> int:
        """The step itself.

        Raises:
            IndexError: there is no such step.
        """
        if int(step) != step or not 0 <= step <= len(self):
            raise IndexError(
                f"got step {step} · expected 0 (data) to {len(self)} (noise) · steps count from data to noise"
            )
        return step

    def step_at(self, sigma: float) -> int:
        """The step whose level is nearest to `sigma`.

        Raises:
            ValueError: sigma outside [0, 1].
        """
        if not 0 <= sigma <= 1:
            raise ValueError(f"got sigma={sigma} · expected a noise level in [0, 1], 0 = data")
        return int(np.argmin(np.abs(np.asarray(self.sigmas) - sigma)))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Latents of b clips along the path between data (step 0) and noise (the last step).

    Attributes:
        latents: (s+1, b, c, f, h, w); an inversion that was stopped early has fewer.
        schedule: levels and timesteps of all steps.
        conditioning: as fed.
        solver: how one level was reached from the one before.
        direction: "invert" (from data up), "sample" (from noise down) or "noising" (no model at all).
        clip_ids: one per clip.
    """

    latents: Float[Tensor, "s b c f h w"]
    schedule: Schedule
    conditioning: Conditioning
    solver: str
    direction: str
    clip_ids: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return (
            f"Trajectory({len(self)} clips, {self.direction} by {self.solver}, steps 0 to {len(self.latents) - 1} of"
            f" {len(self.schedule)}, latents {tuple(self.latents.shape)})"
        )

    def __len__(self) -> int:
        """Number of clips."""
        return self.latents.shape[1]

    def latent(self, step: int) -> Float[Tensor, "b c f h w"]:
        """The latents at a step.

        Raises:
            IndexError: no such step, or the inversion stopped before it.
        """
        self.schedule.check_step(step)
        if step >= len(self.latents):
            raise IndexError(
                f"got step {step} · expected at most {len(self.latents) - 1}, where this inversion was stopped"
                " · invert with a larger `until`"
            )
        return self.latents[step]

    def __getitem__(self, clips: slice) -> Trajectory:
        """The trajectory of some of its clips."""
        if not isinstance(clips, slice):
            raise TypeError(f"got {clips!r} · expected a slice of clips, such as traj[:1]")
        return Trajectory(
            self.latents[:, clips],
            self.schedule,
            self.conditioning.of_clips(clips),
            self.solver,
            self.direction,
            self.clip_ids[clips],
        )
