"""Gaussian noise with the mean and covariance of features: a control for their first two moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
        """The Gaussian matched to the features of at least two clips.

        Raises:
            ValueError: fewer than two clips.
        """
        if len(features) < 2:
            raise ValueError(
                f"got features of {len(features)} clips · expected at least 2, to estimate a covariance · pass more"
                " clips"
            )
        mean = features.mean(0)
        return cls(mean, (features - mean) / np.sqrt(len(features) - 1))

    def draw(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count d"]:
        """Independent draws, one row each."""
        return self.mean + rng.standard_normal((count, len(self.root))) @ self.root
