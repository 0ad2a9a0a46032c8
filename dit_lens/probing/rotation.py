"""Standardised features in their principal axes: n x d becomes n x min(n, d); L2-penalised fits are unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.preprocessing import StandardScaler


@dataclass(frozen=True, eq=False)
class Rotation:
    """Principal axes of standardised training clips.

    An L2 penalty does not change under a rotation, and a weight outside the span of the training clips would only
    cost: the fit in these coordinates is the fit in d, exactly. It holds for the clips that made the rotation, so
    every fold has its own; labels play no part, so strengths and permuted labels share it.

    Attributes:
        train: (n, r) the training clips; its columns are orthogonal and have mean 0.
        energy: (r,) squared length of each column.
        basis: (n, d) the standardised training clips where they are fewer than features, else nothing.
        turn: from products with the basis, or from standardised features, to the r coordinates.
    """

    train: Float[np.ndarray, "n r"]
    energy: Float[np.ndarray, " r"]
    basis: Float[np.ndarray, "n d"] | None
    turn: Float[np.ndarray, "_ r"]
    scaler: StandardScaler

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> Rotation:
        """The rotation to the principal axes of these training clips, in float64."""
        precise = features.astype(np.float64, copy=False)
        scaler = StandardScaler().fit(precise)
        standard = np.asarray(scaler.transform(precise))
        wide = standard.shape[0] < standard.shape[1]
        energy, vectors = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
        # What is left out is rounding: a direction without length has no weight under a penalty.
        nonzero = energy > np.finfo(np.float64).eps * max(standard.shape) * max(energy.max(), 1e-300)
        energy, vectors = energy[nonzero], np.ascontiguousarray(vectors[:, nonzero])
        if wide:
            # The d x r axes themselves are never formed: they cost more than all that is asked of them.
            return cls(vectors * np.sqrt(energy), energy, standard, vectors / np.sqrt(energy), scaler)
        return cls(standard @ vectors, energy, None, vectors, scaler)

    def __call__(self, features: Float[np.ndarray, "i d"]) -> Float[np.ndarray, "i r"]:
        """Other clips in the same coordinates."""
        standard = np.asarray(self.scaler.transform(features.astype(np.float64, copy=False)))
        return (standard if self.basis is None else standard @ self.basis.T) @ self.turn

    def unturned(self, weights: Float[np.ndarray, " r+1"]) -> tuple[Float[np.ndarray, " d"], float]:
        """Weight and bias for raw features, from weights in these coordinates with the intercept last."""
        turned = self.turn @ weights[:-1]
        standard = turned if self.basis is None else self.basis.T @ turned
        scaler: Any = self.scaler
        weight = standard / scaler.scale_
        return weight, float(weights[-1] - scaler.mean_ @ weight)
