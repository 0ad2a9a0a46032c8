"""Schedules: the noise levels that a path visits, and what the model is fed at each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise levels from data to noise with the timestep fed at each: sigmas[0] = 0, step i sits at sigmas[i].

    Levels rise; the sampler's own index of step i is N - i.

    Raises:
        ValueError: levels that do not rise from 0 to at most 1, or another number of timesteps.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self):
        rising = len(self.sigmas) > 1 and bool((np.diff(self.sigmas) > 0).all())
        if not rising or min(self.sigmas) != 0 or max(self.sigmas) > 1 or len(self.timesteps) != len(self.sigmas):
            raise ValueError(
                f"got {len(self.timesteps)} timesteps at levels {self.sigmas} · expected one at each of several levels"
                " that rise from 0 (data) to at most 1 (noise)"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int, **arguments: Any) -> Schedule:
        """The levels that a pipeline's own diffusers scheduler would visit in `steps` sampling steps, reversed.

        Args:
            **arguments: what the pipeline hands to `set_timesteps` beside the number of steps: `sigmas` (before the
                scheduler's own shift) and `mu`, the shift of a scheduler that shifts by the size of the latent.

        Raises:
            ValueError: fewer than one step, or a scheduler that shifts by size without `mu`.
        """
        if steps < 1:
            raise ValueError(f"got steps={steps} · expected at least 1")
        if scheduler.config.get("use_dynamic_shifting") and arguments.get("mu") is None:
            raise ValueError(
                f"got no mu for a {type(scheduler).__name__} that shifts its levels by the size of the latent"
                " · expected the mu that the pipeline computes · lens.schedule(steps, mu=...)"
            )
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(**({"num_inference_steps": steps} if arguments.get("sigmas") is None else {}), **arguments)
        rising = bool(scheduler.config.get("invert_sigmas"))  # Mochi's levels and timesteps rise to the data
        levels, clean = (1 - own.sigmas, own.config.num_train_timesteps) if rising else (own.sigmas, 0)
        return cls(tuple(levels.flip(0).tolist()), (float(clean), *(float(t) for t in own.timesteps.flip(0))))

    def __len__(self) -> int:
        """Number of steps (one less than levels)."""
        return len(self.sigmas) - 1

    def refined(self) -> Schedule:
        """Every step halved: step i is step 2i there."""
        levels = np.interp(np.arange(2 * len(self) + 1) / 2, np.arange(len(self.sigmas)), self.sigmas)
        levels[::2] = self.sigmas
        return Schedule(tuple(levels.tolist()), tuple(self.timestep(level) for level in levels))

    def shifted(self, k: float) -> Schedule:
        """As many steps with levels moved towards noise, as flow models shift: k sigma / (k sigma + 1 - sigma).

        Where a path bends at high noise, as that of mini-wan does, an inversion loses less by as many evaluations.

        Raises:
            ValueError: a factor that is not positive.
        """
        if not k > 0:
            raise ValueError(f"got a factor of {k} · expected a positive one; above 1 it moves levels towards noise")
        levels = tuple(k * sigma / (k * sigma + (1 - sigma)) for sigma in self.sigmas)  # 1 stays 1
        return Schedule(levels, tuple(self.timestep(level) for level in levels))

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
