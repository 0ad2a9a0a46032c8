"""Records: evaluations, residual and convergence of each step of an integration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from dit_lens.flow import Step
from dit_lens.trajectory.schedule import Schedule

PLACES = ("step", "sigma", "fed_sigma", "fed_timestep")  # coordinates of a record


def record_of(
    steps: Sequence[Step], schedule: Schedule, first: int, timestep: Callable[[float], float] | None = None
) -> xr.Dataset:
    """Evaluations, residual and convergence of an integration of b clips, indexed by the step that each arrived at.

    Args:
        first: the step that it started from.
        timestep: the timestep of a noise level; by default that of the schedule.

    Returns:
        `evaluations` of the velocity, `residual` (NaN for explicit solvers) and `converged` (step, clip), with the
        `sigma` of each step, and `fed_sigma`, `fed_timestep`: level and timestep of its first evaluation.
    """
    clips, fed = len(steps[0].x), timestep or schedule.timestep
    nothing, solved = np.full(clips, np.nan), np.ones(clips, dtype=bool)
    levels = np.array([step.levels[0] if step.levels else np.nan for step in steps])
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
            "fed_sigma": ("step", levels),
            "fed_timestep": ("step", [np.nan if np.isnan(level) else fed(level) for level in levels]),
        },
    )
    return record.sortby("step")


def unsolved(record: xr.Dataset | None) -> str:
    """A note that names the steps that did not converge; empty where all did."""
    if record is None or bool(record.converged.all()):
        return ""
    steps = record.step.values[~record.converged.values.all(axis=1)].tolist()
    return f", NOT CONVERGED at steps {steps}"
