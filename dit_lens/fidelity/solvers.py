"""What a solver costs at a number of steps, and what it loses: there and back, of known noise, in half precision."""

from __future__ import annotations

import time
from dataclasses import dataclass

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens.clips import Clip
from dit_lens.conditioning import Conditions
from dit_lens.fidelity.images import reconstruction
from dit_lens.fidelity.paths import STARTS, known_noise, relative_error, round_trip
from dit_lens.flow import Solver
from dit_lens.inversion import Lens, Steps, invert
from dit_lens.trajectory import Trajectory

SOLVERS = {
    "Euler": Solver("euler"),
    "Euler, target time": Solver("euler", time_at="target"),
    "implicit Euler": Solver("implicit_euler"),
    "midpoint (RF-Solver)": Solver("midpoint"),
    "Heun": Solver("heun"),
    "FireFlow": Solver("fireflow"),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """What paths of clips are measured against.

    Attributes:
        exact: the noise of the clips by a fine solution of the ODE.
        known: noise of two or more clips for the sampler to start from.
        conditions: prompt and guidance of all paths; the lens's own conditioning unless given.
    """

    exact: Float[Tensor, "b c f h w"]
    known: Float[Tensor, "n c f h w"]
    conditions: Conditions | None = None


def solver_cell(
    lens: Lens,
    clips: list[Clip],
    truth: Truth,
    solver: Solver,
    steps: Steps,
    half: Lens | None = None,
) -> xr.Dataset:
    """Costs and errors of one solver on one schedule, means over clips.

    Args:
        half: the same model in another precision, if its drift is asked for.

    Returns:
        `evaluations` one way and `seconds` (to a clip); `error` (mean over steps), `error_at_data`, share of steps
        `converged`, `psnr` (comparison); relative distances of the recovered noise `to_exact`, to `known` noise (from)
        and, of `half`, `drift`.
    """
    began = time.perf_counter()
    conditions = truth.conditions or Conditions(lens.conditioning)
    path = invert(lens, clips, steps, solver, prompt=conditions.conditioning, guidance=conditions.guidance)
    seconds = (time.perf_counter() - began) / len(clips)
    error, back = round_trip(lens, path)
    known = known_noise(lens, truth.known, steps, solver, conditions=conditions)
    assert path.record is not None
    costs = {
        "evaluations": float(path.record.evaluations.sum("step").mean()),
        "seconds": seconds,
        "error": float(error.mean()),
        "error_at_data": float(error[0].mean()),
        "converged": float(path.record.converged.mean()),
        "psnr": reconstruction(lens, path, back, clips).mean("clip").psnr,
        "to_exact": float(relative_error(path.latents[-1], truth.exact).mean()),
        "known": ("from", known.error.sel(measure="latent").isel(step=-1).mean("clip").values),
    }
    drift = {} if half is None else {"drift": float(precision_drift(half, path).mean())}
    return xr.Dataset(costs | drift, coords={"from": list(STARTS)})


def precision_drift(half: Lens, path: Trajectory) -> Float[Tensor, " b"]:
    """How far from a trajectory's noise the same inversion ends in another precision of the model, relatively.

    Latents are float32 in both; the model is what is rounded.

    Args:
        half: the same model, loaded in that precision.
    """
    assert path.solver is not None
    again = invert(
        half, path.latent(0), path.schedule, path.solver, prompt=path.conditioning, guidance=path.guidance
    ).latents[-1]
    return relative_error(again, path.latents[-1].to(again))
