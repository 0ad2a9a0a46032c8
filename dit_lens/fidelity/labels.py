"""Does fidelity itself know the label? If it did, what a probe reads off inverted states could be an artefact of it."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from sklearn.metrics import roc_auc_score

from dit_lens import stats
from dit_lens.fidelity.noise import noise_statistics
from dit_lens.trajectory import Trajectory

RESAMPLES = 500


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


def label_scores(score: Float[np.ndarray, "q 4"], seed: int = 0) -> dict[str, float]:
    """AUROC of a number for "possible" with its 95% interval over quadruplets, and how many pairs it orders.

    Args:
        score: of the clips A, B (possible), C, D (impossible) of each quadruplet.

    Raises:
        ValueError: fewer than two quadruplets.
    """
    if len(score) < 2:
        raise ValueError(f"got {len(score)} quadruplet · expected at least 2 · an interval needs several scenes")
    rng, label = np.random.default_rng(seed), np.array([1, 1, 0, 0])
    chosen = [np.arange(len(score)), *rng.integers(len(score), size=(RESAMPLES, len(score)))]
    values = [float(roc_auc_score(np.tile(label, len(score)), score[rows].ravel())) for rows in chosen]
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"auroc": values[0], "low": low, "high": high, "pairwise": float(stats.pairwise_accuracy(score).mean())}
