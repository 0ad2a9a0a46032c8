"""Records: how the steps of an integration went."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from dit_lens.flow import Step
from dit_lens.trajectory.schedule import Schedule

PLACES = ("step", "sigma", "told_sigma", "told_timestep")  # coordinates of a record


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


def unsolved(record: xr.Dataset | None) -> str:
    """What is to be said of steps that did not converge: nothing where all did."""
    if record is None or bool(record.converged.all()):
        return ""
    steps = record.step.values[~record.converged.values.all(axis=1)].tolist()
    return f", NOT CONVERGED at steps {steps}"
