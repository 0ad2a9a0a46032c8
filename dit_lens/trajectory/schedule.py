"""Schedules: the noise levels of a path, and the timestep that the model gets at each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dit_lens.arguments import integer, number


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise levels from data to noise, with the timestep of each: sigmas[0] = 0, and step i has the level sigmas[i].

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
        """The levels of a pipeline's diffusers scheduler in `steps` sampling steps, in reverse order.

        Args:
            **arguments: what the pipeline passes to `set_timesteps` beside the number of steps: `sigmas` (before the
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
        fresh = type(scheduler).from_config(scheduler.config)
        fresh.set_timesteps(**({"num_inference_steps": steps} if arguments.get("sigmas") is None else {}), **arguments)
        rising = bool(scheduler.config.get("invert_sigmas"))  # Mochi's levels and timesteps rise to the data
        levels, clean = (1 - fresh.sigmas, fresh.config.num_train_timesteps) if rising else (fresh.sigmas, 0)
        return cls(tuple(levels.flip(0).tolist()), (float(clean), *(float(t) for t in fresh.timesteps.flip(0))))

    def __len__(self) -> int:
        """Number of steps (one less than levels)."""
        return len(self.sigmas) - 1

    def refined(self) -> Schedule:
        """The schedule with every step halved: step i becomes step 2i."""
        levels = np.interp(np.arange(2 * len(self) + 1) / 2, np.arange(len(self.sigmas)), self.sigmas)
        levels[::2] = self.sigmas
        return Schedule(tuple(levels.tolist()), tuple(self.timestep(level) for level in levels))

    def shifted(self, k: float) -> Schedule:
        """As many steps with levels moved towards noise, by the shift of flow models: k sigma / (k sigma + 1 - sigma).

        Where a path curves at high noise, as that of mini-wan does, an inversion is more exact for as many evaluations.

        Raises:
            ValueError: a factor that is not positive.
        """
        k = number(k, "factor")
        if not k > 0:
            raise ValueError(f"got a factor of {k} · expected a positive one; above 1 it moves levels towards noise")
        levels = tuple(k * sigma / (k * sigma + (1 - sigma)) for sigma in self.sigmas)  # 1 stays 1
        return Schedule(levels, tuple(self.timestep(level) for level in levels))

    def timestep(self, sigma: float) -> float:
        """The timestep of a noise level: the scheduler's own value at its levels, linear in between."""
        return float(np.interp(sigma, self.sigmas, self.timesteps))

    def check_step(self, step: int) -> int:
        """The step as an int, after a check that it exists.

        Raises:
            IndexError: there is no such step. TypeError: not a whole number.
        """
        number = integer(step, "step")
        if not 0 <= number <= len(self):
            raise IndexError(
                f"got step {step!r} · expected 0 (data) to {len(self)} (noise) · steps count from data to noise"
            )
        return number

    def step_at(self, sigma: float) -> int:
        """The step whose level is nearest to `sigma`.

        Raises:
            ValueError: sigma outside [0, 1].
        """
        sigma = number(sigma, "sigma")
        if not 0 <= sigma <= 1:
            raise ValueError(f"got sigma={sigma:g} · expected a noise level in [0, 1], 0 = data")
        return int(np.argmin(np.abs(np.asarray(self.sigmas) - sigma)))
