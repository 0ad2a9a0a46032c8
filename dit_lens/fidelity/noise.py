"""Is recovered noise like the noise that a sampler starts from? Statistics of every channel with their expectation."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

AXES = {"frame": 2, "row": 3, "column": 4}


def noise_statistics(noise: Float[Tensor, "b c f h w"]) -> xr.Dataset:
    """Mean, std, excess kurtosis and lag-1 autocorrelations of each channel of each clip.

    Returns:
        `value` (statistic, clip, channel), and what Gaussian noise of this size would show: `expected` with its
        standard deviation `spread` (statistic), to first order in the number of values.
    """
    shape = dict(zip("bcfhw", noise.shape, strict=True))
    n = shape["f"] * shape["h"] * shape["w"]
    flat = noise.double().flatten(2)
    mean, std = flat.mean(2), flat.std(2)
    kurtosis = (flat - mean[..., None]).pow(4).mean(2) / flat.var(2, correction=0).square() - 3
    statistics = {
        "mean": (mean, 0.0, n**-0.5),
        "std": (std, 1 - 1 / (4 * n), (2 * n) ** -0.5),
        "kurtosis": (kurtosis, -6 / (n + 1), (24 / n) ** 0.5),
    }
    for name, axis in AXES.items():
        size = noise.shape[axis]
        if size > 1:
            pairs = n - n // size
            statistics[f"lag-1, {name}"] = (_autocorrelation(noise.double(), axis), -1 / n, pairs**-0.5)
    values, expected, spread = zip(*statistics.values(), strict=True)
    return xr.Dataset(
        {
            "value": (("statistic", "clip", "channel"), torch.stack(values).cpu().numpy()),
            "expected": ("statistic", np.array(expected)),
            "spread": ("statistic", np.array(spread)),
        },
        coords={"statistic": list(statistics)},
    )


def _autocorrelation(noise: Float[Tensor, "b c f h w"], axis: int) -> Float[Tensor, "b c"]:
    """Of neighbours along an axis, about the mean of the channel."""
    centred = noise - noise.mean((2, 3, 4), keepdim=True)
    size = noise.shape[axis]
    products = centred.narrow(axis, 0, size - 1) * centred.narrow(axis, 1, size - 1)
    return products.mean((2, 3, 4)) / centred.square().mean((2, 3, 4))
