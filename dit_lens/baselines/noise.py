"""Gaussian noise with the mean and covariance of given features: what their first two moments are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class MatchedNoise:
    """A Gaussian with the mean and the covariance of `features`, drawn without ever forming the covariance.

    Attributes:
        mean: (d,).
        root: (i, d) with root' root the covariance (divisor i - 1), also where there are fewer clips than features.
    """

    mean: Float[np.ndarray, " d"]
    root: Float[np.ndarray, "i d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "i d"]) -> MatchedNoise:
        """Matched to features of two clips or more.

        Raises:
            ValueError: fewer.
        """
        if len(features) < 2:
            raise ValueError(f"got features of {len(features)} clips · expected at least 2 · a covariance needs them")
        mean = features.mean(0)
        return cls(mean, (features - mean) / np.sqrt(len(features) - 1))

    def draw(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count d"]:
        """Independent draws, one row each."""
        return self.mean + rng.standard_normal((count, len(self.root))) @ self.root


def noise_like(features: Mapping[str, xr.DataArray], seed: int = 0) -> dict[str, xr.DataArray]:
    """Noise in place of the features of every split, in each cell matched to that cell's training clips.

    Args:
        features: by split, one of them "train"; (quadruplet, role, step, block, feature) as of `capture_pooled`.
        seed: of the draws.
    """
    rng, noise = np.random.default_rng(seed), {part: seen.copy(deep=True) for part, seen in features.items()}
    train = features["train"]
    for step, block in np.ndindex(train.sizes["step"], train.sizes["block"]):
        fitted = MatchedNoise.of(train.values[:, :, step, block].reshape(-1, train.sizes["feature"]))
        for made in noise.values():
            drawn = fitted.draw(made.sizes["quadruplet"] * made.sizes["role"], rng)
            made.values[:, :, step, block] = drawn.reshape(-1, made.sizes["role"], made.sizes["feature"])
    return noise
