"""Variance-preserving diffusion models as flows: their noise levels, velocities and clean estimates.

Such a model takes x = a·data + s·noise at a timestep, where a² = ᾱ and s² = 1 - ᾱ. Divided by a + s, x is the flow's
(1 - sigma)·data + sigma·noise at sigma = s / (a + s), and the model's output o gives noise - data:

- v-prediction (o = a·noise - s·data): noise - data = (s - a) x + (a + s) o;
- epsilon-prediction (o = noise): noise - data = -x / a + (a + s) / a o.

Example: ᾱ = 0.36 gives a = 0.6, s = 0.8 and sigma = 0.8 / 1.4 = 0.571. With data 1 and noise 2, x = 0.6 + 1.6 = 2.2 and
x / 1.4 = 1.571 = 0.429·1 + 0.571·2. A v-prediction model gives o = 0.6·2 - 0.8·1 = 0.4, and 0.2·2.2 + 1.4·0.4 = 1,
which is noise - data; an epsilon model gives o = 2, and -2.2 / 0.6 + 1.4 / 0.6·2 = 1 as well.

Noise levels are those of a diffusers scheduler. Between two timesteps the log signal-to-noise ratio log ᾱ / (1 - ᾱ) =
-2 logit(sigma) is interpolated linearly; sigma itself where the later timestep has no signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.families.conventions import ROOT, VELOCITY
from dit_lens.families.parts import Part, argument, read_only, upcast
from dit_lens.hook_points import HookPoint

SITES = ROOT, VELOCITY
TIMESTEP = argument("timestep")


@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of a scheduler.

    Attributes:
        alphas: ᾱ at every timestep from 0, descending.
        prediction: what the model predicts, "v_prediction" or "epsilon".
    """

    alphas: np.ndarray
    prediction: str

    @cached_property
    def sigmas(self) -> np.ndarray:
        """The flow's noise level at every timestep from 0, ascending."""
        return (1 - self.alphas) ** 0.5 / (self.alphas**0.5 + (1 - self.alphas) ** 0.5)

    @classmethod
    def of(cls, scheduler: Any) -> Levels:
        """The levels of a diffusers scheduler.

        Raises:
            TypeError: a scheduler without ᾱ (a flow's, for example), or with another prediction.
        """
        alphas, prediction = getattr(scheduler, "alphas_cumprod", None), scheduler.config.get("prediction_type")
        if alphas is None or prediction not in ("v_prediction", "epsilon"):
            raise TypeError(
                f"got a {type(scheduler).__name__} of prediction {prediction!r} · expected alphas_cumprod, and"
                " v_prediction or epsilon · load the model's own scheduler"
            )
        return cls(alphas.double().cpu().numpy(), prediction)

    def check(self, scheduler: Any) -> None:
        """Raises TypeError if a pipeline's scheduler has other noise levels or another prediction than these."""
        levels = Levels.of(scheduler)
        same = levels.alphas.shape == self.alphas.shape and np.allclose(levels.alphas, self.alphas, atol=1e-4)
        if not same or levels.prediction != self.prediction:
            raise TypeError(
                f"got a {type(scheduler).__name__} of {levels.prediction} whose noise levels are not the model's own"
                f" · expected {self.prediction} and those of its training · load the model's own scheduler"
            )

    def to_timestep(self, sigma: float) -> float:
        """The timestep at a noise level, between the integers of training; 0 below the lowest level of training."""
        level = np.clip(sigma, self.sigmas[0], self.sigmas[-1])
        below = min(int(np.searchsorted(self.sigmas, level, "right")), len(self.sigmas) - 1) - 1
        low, high = self.sigmas[below : below + 2]
        if high < 1:
            low, high, level = _logit(low), _logit(high), _logit(level)
        return float(below + (level - low) / (high - low))

    def to_sigma(self, timestep: Tensor) -> Float[Tensor, " b"]:
        """The noise level of a timestep."""
        return torch.as_tensor(self._sigma(timestep), dtype=torch.float32, device=timestep.device)

    def noise_levels(self, pipeline: Any, steps: int, **arguments: Any) -> tuple[float, ...]:
        """Noise levels of a schedule of so many steps: 0 (data), then those of the pipeline's scheduler, ascending.

        Args:
            **arguments: for the scheduler's `set_timesteps`.
        """
        scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)  # a copy: set_timesteps changes it
        scheduler.set_timesteps(steps, **arguments)
        return (0.0, *self._sigma(scheduler.timesteps.flip(0)).tolist())

    def as_fed(self, latent: Tensor, timestep: float) -> Tensor:
        """The model's input latent from a flow's latent of any shape: the latent times a + s."""
        return unit_variance(latent, float(self._sigma(torch.tensor(timestep, dtype=torch.float64))))

    def velocity(
        self, latent: Float[Tensor, "b c f h w"], output: Float[Tensor, "b c f h w"], timestep: Tensor
    ) -> Float[Tensor, "b c f h w"]:
        """The velocity, noise - data, from the input latent and the output, in float32 or wider."""
        of_latent, of_output = self._slopes(timestep)
        return of_latent * upcast(latent) + of_output * upcast(output)

    def points(self, latent: Part, output: Part) -> list[HookPoint]:
        """`hook_velocity` and `hook_x0`, from the parts of inputs and output that are latent and prediction."""

        def velocity(root: tuple, out: Any) -> Tensor:
            return self.velocity(latent.get(root), output.get(out), TIMESTEP.get(root))

        def write(new: Tensor, old: Tensor, root: tuple, out: Any) -> Any:
            raw = output.get(out)
            _, of_output = self._slopes(TIMESTEP.get(root))
            return output.put((upcast(raw) + (new - old) / of_output).type_as(raw), out)

        def clean(root: tuple, out: Any) -> Tensor:
            a, s = (_wide(x) for x in self._amplitudes(TIMESTEP.get(root)))
            return (upcast(latent.get(root)) - s * velocity(root, out)) / (a + s)

        axes = "b c f h w"
        return [HookPoint("hook_velocity", axes, SITES, velocity, write), read_only("hook_x0", axes, SITES, clean)]

    def _amplitudes(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes a and s of data and noise in the input latent, (b,) each."""
        sigma = self._sigma(timestep)
        root = np.hypot(1 - sigma, sigma)
        a, s = (torch.as_tensor(x / root, dtype=torch.float32, device=timestep.device) for x in (1 - sigma, sigma))
        return a, s

    def _sigma(self, timestep: Tensor) -> np.ndarray:
        """Noise levels of timesteps of any shape, in float64."""
        time = np.clip(timestep.cpu().double().numpy(), 0, len(self.sigmas) - 1)
        below = np.minimum(time.astype(int), len(self.sigmas) - 2)
        low, high, share = self.sigmas[below], self.sigmas[below + 1], time - below
        silent = high == 1  # no signal
        mean = (1 - share) * _logit(low) + share * _logit(np.where(silent, low, high))
        return np.where(silent, low + share * (high - low), 1 / (1 + np.exp(-mean)))

    def _slopes(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of latent and output whose sum is the velocity."""
        a, s = (_wide(x) for x in self._amplitudes(timestep))
        return (s - a, a + s) if self.prediction == "v_prediction" else (-1 / a, (a + s) / a)


def unit_variance(latent: Tensor, sigma: float) -> Tensor:
    """The latent a·data + s·noise with a² + s² = 1, from the flow's (1 - sigma)·data + sigma·noise."""
    return latent / math.hypot(1 - sigma, sigma)


def _logit(sigma: Any) -> Any:
    return np.log(sigma) - np.log1p(-sigma)


def _wide(x: Tensor) -> Float[Tensor, "b 1 1 1 1"]:
    return x.view(-1, 1, 1, 1, 1)
