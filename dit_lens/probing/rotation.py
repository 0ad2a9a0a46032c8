"""Standardised features in a basis of their own: n x d becomes n x min(n, d), and no L2-penalised fit can tell."""

from __future__ import annotations

from dataclasses import dataclass

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
        """The rotation these training clips call for, in float64."""
        precise = features.astype(np.float64, copy=False)
        scaler = StandardScaler().fit(precise)
        standard = np.asarray(scaler.transform(precise))
        wide = standard.shape[0] < standard.shape[1]
        energy, vectors = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
        # What is left out is rounding: a direction without length has no weight under a penalty.
        kept = energy > np.finfo(np.float64).eps * max(standard.shape) * max(energy.max(), 1e-300)
        energy, vectors = energy[kept], np.ascontiguousarray(vectors[:, kept])
        if wide:
            # The d x r axes themselves are never formed: they cost more than all that is asked of them.
            return cls(vectors * np.sqrt(energy), energy, standard, vectors / np.sqrt(energy), scaler)
        return cls(standard @ vectors, energy, None, vectors, scaler)

    def __call__(self, features: Float[np.ndarray, "i d"]) -> Float[np.ndarray, "i r"]:
        """Other clips in the same coordinates."""
        standard = np.asarray(self.scaler.transform(features.astype(np.float64, copy=False)))
        return (standard if self.basis is None else standard @ self.basis.T) @ self.turn
