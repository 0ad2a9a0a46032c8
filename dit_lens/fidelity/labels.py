"""Does fidelity itself know the label? If it did, what a probe reads off inverted states could be an artefact of it."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from dit_lens.fidelity.noise import noise_statistics
from dit_lens.trajectory import Trajectory


def predictors(trajectory: Trajectory, round_trip: xr.DataArray) -> dict[str, Float[np.ndarray, " b"]]:
    """What of an inversion could tell clips apart without any model state, one number per clip.

    Args:
        round_trip: relative error (step, clip) of the way back.
    """
    x = trajectory.latents.double().flatten(2)
    rises = torch.tensor(trajectory.schedule.sigmas[: len(x)], dtype=x.dtype, device=x.device).diff()
    speed = x.diff(dim=0).norm(dim=2) / rises[:, None]
    kurtosis = noise_statistics(trajectory.latents[-1]).value.sel(statistic="kurtosis")
    return {
        "round-trip error": round_trip.mean("step").values,
        "|v|": (speed * rises[:, None]).sum(0).cpu().numpy(),
        "|x_σ - x_0|": (x - x[0]).norm(dim=2)[1:].mean(0).cpu().numpy(),
        "noise kurtosis": kurtosis.mean("channel").values,
    }
