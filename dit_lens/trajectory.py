"""Trajectories: latents at every noise level between data and noise, and what made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens import results, tensor_file
from dit_lens.conditioning import Conditioning
from dit_lens.flow import Solver, Step

KIND = "dit_lens trajectory"
PLACES = ("step", "sigma", "told_sigma", "told_timestep")  # coordinates of a record


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
        solver: how one level was reached from the one before; None where no model was run.
        direction: "invert" (from data up), "sample" (from noise down) or "noising" (no model at all).
        clip_ids: one per clip.
        record: how each step went (see `record_of`); None where no model was run.
        facts: what made it: the model and its numerics; from a file, everything that `results.provenance` says.
    """

    latents: Float[Tensor, "s b c f h w"]
    schedule: Schedule
    conditioning: Conditioning
    solver: Solver | None
    direction: str
    clip_ids: tuple[str, ...] = field(default=())
    record: xr.Dataset | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        by = f" by {self.solver}" if self.solver else ""
        return (
            f"Trajectory({len(self)} clips, {self.direction}{by}, steps 0 to {len(self.latents) - 1} of"
            f" {len(self.schedule)}, latents {tuple(self.latents.shape)}{_unsolved(self.record)})"
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
        return replace(
            self,
            latents=self.latents[:, clips],
            conditioning=self.conditioning.of_clips(clips),
            clip_ids=self.clip_ids[clips],
            record=None if self.record is None else self.record.isel(clip=clips),
        )

    def save(self, path: str | Path) -> Path:
        """Writes HDF5, whole or not at all; every tensor comes back bit for bit, on the CPU."""
        tensors = {"latents": self.latents}
        tensors |= {f"conditioning/{name}": tensor for name, tensor in self.conditioning.tensors.items()}
        record = {} if self.record is None else self.record.variables
        tensors |= {f"record/{name}": torch.tensor(variable.values) for name, variable in record.items()}
        told = {
            "schedule": asdict(self.schedule),
            "solver": None if self.solver is None else asdict(self.solver),
            "direction": self.direction,
            "clip_ids": self.clip_ids,
            "prompt": self.conditioning.prompt,
            "record": {str(name): variable.dims for name, variable in record.items()},
            "provenance": json.loads(results.provenance(**self.facts)),
        }
        return tensor_file.write(Path(path), KIND, tensors, told)

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """The trajectory that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, damaged or no trajectory; names it.
        """
        tensors, told = tensor_file.read(Path(path), KIND)
        given = {
            name.removeprefix("conditioning/"): t for name, t in tensors.items() if name.startswith("conditioning")
        }
        kept = {name: (dims, tensors[f"record/{name}"].numpy()) for name, dims in told["record"].items()}
        return cls(
            tensors["latents"],
            Schedule(**{name: tuple(levels) for name, levels in told["schedule"].items()}),
            Conditioning(given, told["prompt"]),
            None if told["solver"] is None else Solver(**told["solver"]),
            told["direction"],
            tuple(told["clip_ids"]),
            xr.Dataset(kept).set_coords(PLACES) if kept else None,
            told["provenance"],
        )


def record_of(
    steps: Sequence[Step], schedule: Schedule, first: int, timestep: Callable[[float], float] | None = None
) -> xr.Dataset:
    """How the steps of an integration of b clips went, by the step that each arrived at.

    Args:
        first: where it began.
        timestep: what the model is fed at a level; as the schedule has it unless given.

    Returns:
        `evaluations` of the velocity, `residual` (NaN where nothing is solved) and `converged` (step, clip), with the
        `sigma` of each step and the `told_sigma`, `told_timestep` of the first evaluation on the way to it.
    """
    clips, fed = len(steps[0].x), timestep or schedule.timestep
    nothing, solved = np.full(clips, np.nan), np.ones(clips, dtype=bool)
    told = np.array([step.told[0] if step.told else np.nan for step in steps])
    residuals = [nothing if step.residual is None else step.residual.float().cpu().numpy() for step in steps]
    converged = [solved if step.converged is None else step.converged.cpu().numpy() for step in steps]
    places = [index if first == 0 else first - index for index in range(len(steps))]
    record = xr.Dataset(
        {
            "evaluations": (("step", "clip"), np.tile([[step.evaluations] for step in steps], clips)),
            "residual": (("step", "clip"), np.stack(residuals)),
            "converged": (("step", "clip"), np.stack(converged)),
        },
        coords={
            "step": places,
            "sigma": ("step", [schedule.sigmas[place] for place in places]),
            "told_sigma": ("step", told),
            "told_timestep": ("step", [np.nan if np.isnan(level) else fed(level) for level in told]),
        },
    )
    return record.sortby("step")


def _unsolved(record: xr.Dataset | None) -> str:
    if record is None or bool(record.converged.all()):
        return ""
    steps = record.step.values[~record.converged.values.all(axis=1)].tolist()
    return f", NOT CONVERGED at steps {steps}"
