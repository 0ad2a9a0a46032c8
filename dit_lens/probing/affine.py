"""One logistic probe as an affine map of raw features, for a single labelling at a single strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dit_lens.probing.checks import check_classes
from dit_lens.probing.rotation import Rotation
from dit_lens.probing.solvers import logistic

# scikit-learn's default of 1e-4 leaves logits off by up to about 1%; this leaves about 1e-6 of them.
TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Affine:
    """Log odds = features @ weight + bias.

    Attributes:
        weight: (d,) in the units of the raw features; the scaler is folded in.
    """

    weight: Float[np.ndarray, " d"]
    bias: float

    @classmethod
    def fit(cls, features: Num[np.ndarray, "n d"], labels: Bool[np.ndarray, " n"], strength: float) -> Affine:
        """Standardised L2 logistic regression, converged, in float64; `strength` is scikit-learn's C.

        Where clips are at least as many as features, gradients need no rotation of them, whose eigenvectors would
        cost ten times as much as the fit. A rotation pays for many labellings or strengths, and for wide features.

        Raises:
            ValueError: a single class.
        """
        precise = features.astype(np.float64, copy=False)
        if precise.shape[0] < precise.shape[1]:
            rotation = Rotation.of(precise)
            return cls(*rotation.unturned(logistic(rotation, labels[:, None], (strength,))[0, :, 0]))
        check_classes(labels)
        scaler = StandardScaler().fit(precise)
        fitted = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=20_000).fit(scaler.transform(precise), labels)
        weight = fitted.coef_[0] / scaler.scale_
        return cls(weight, float(fitted.intercept_[0] - scaler.mean_ @ weight))

    def __call__(self, features: Num[np.ndarray, "i d"]) -> Float[np.ndarray, " i"]:
        """Log odds of other clips."""
        return features.astype(np.float64, copy=False) @ self.weight + self.bias
