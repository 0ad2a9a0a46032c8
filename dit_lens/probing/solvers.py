"""L2-penalised fits of many labellings at once, in coordinates where the penalty and the features are both diagonal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from dit_lens.probing.checks import check_classes
from dit_lens.probing.rotation import Rotation

TOLERANCE = 1e-11
NEWTON_STEPS = 100
CG_STEPS = 400
FORCING = 0.01
HALVINGS = 30

Array = np.ndarray
Fit = Callable[[Rotation, Array, Sequence[float]], Array]


def with_intercept(rotated: Float[Array, "i r"]) -> Float[Array, "i r+1"]:
    """Rotated clips with a last column of ones: outputs are this times the weights."""
    return np.column_stack([rotated, np.ones(len(rotated))])


def ridge(rotation: Rotation, targets: Float[Array, "n t"], strengths: Sequence[float]) -> Float[Array, "s r+1 t"]:
    """Weights, intercept last, that minimise sum (y - z w - b)² + |w|² / strength, in closed form.

    scikit-learn's `alpha` is 1 / strength.
    """
    mean = targets.mean(0)
    projected = rotation.train.T @ (targets - mean)
    fitted = [projected / (rotation.energy[:, None] + 1 / strength) for strength in strengths]
    return np.stack([np.vstack([weight, mean]) for weight in fitted])


def logistic(rotation: Rotation, labels: Array, strengths: Sequence[float]) -> Float[Array, "s r+1 t"]:
    """Weights, intercept last, that minimise sum log loss + |w|² / (2 strength), one column per labelling (n, t).

    `strength` is scikit-learn's C. Each strength starts from the solution of the next weaker one.

    Raises:
        ValueError: a labelling with a single class; its intercept would be infinite.
    """
    targets = np.asarray(labels, dtype=np.float64)
    check_classes(targets)
    solved = np.zeros((len(strengths), len(rotation.energy) + 1, targets.shape[1]))
    weights = solved[0]
    for at in np.argsort(strengths):
        weights = _Newton(rotation, 1 / strengths[at]).solve(targets, weights)
        solved[at] = weights
    return solved


@dataclass(frozen=True, eq=False)
class _Newton:
    """Newton's method, its steps by conjugate gradients, each column alone (Nocedal & Wright 2006, algorithm 7.1).

    With equal weights on the clips the Hessian is diagonal in rotated coordinates; that diagonal preconditions.
    """

    rotation: Rotation
    penalty: float

    def solve(self, targets: Float[Array, "n t"], start: Float[Array, "r+1 t"]) -> Float[Array, "r+1 t"]:
        """The minimum of each column, to a mean gradient of `TOLERANCE`; a warning where that is not reached."""
        weights, design = start.copy(), with_intercept(self.rotation.train)
        active = np.arange(targets.shape[1])
        for _ in range(NEWTON_STEPS):
            chances = expit(design @ weights[:, active])
            gradient = design.T @ (chances - targets[:, active]) + self._shrink(weights[:, active])
            open_ = np.abs(gradient).max(0) > TOLERANCE * len(targets)
            if not open_.any():
                return weights
            active, gradient, chances = active[open_], gradient[:, open_], chances[:, open_]
            step = self._step(design, chances * (1 - chances), gradient)
            weights[:, active] += self._lengths(design, targets[:, active], weights[:, active], step, gradient) * step
        warnings.warn(
            f"{len(active)} labellings not at tolerance after {NEWTON_STEPS} steps", ConvergenceWarning, stacklevel=2
        )
        return weights

    def _shrink(self, weights: Array) -> Array:
        shrunk = self.penalty * weights
        shrunk[-1] = 0
        return shrunk

    def _step(self, design: Array, curvature: Array, gradient: Array) -> Array:
        """-H⁻¹ gradient, to a residual of `FORCING`: enough for Newton to gain two digits a step."""
        scale = np.vstack([np.multiply.outer(self.rotation.energy, curvature.mean(0)) + self.penalty, curvature.sum(0)])
        step, residual = np.zeros_like(gradient), -gradient
        direction = residual / scale
        size = (residual * direction).sum(0)
        goal = FORCING**2 * size
        for _ in range(CG_STEPS):
            moving = size > goal
            if not moving.any():
                break
            bent = design.T @ (curvature * (design @ direction)) + self._shrink(direction)
            length = np.where(moving, size / np.where(moving, (direction * bent).sum(0), 1), 0)
            step, residual = step + length * direction, residual - length * bent
            previous, size = size, np.where(moving, (residual**2 / scale).sum(0), size)
            direction = residual / scale + np.where(moving, size / np.where(moving, previous, 1), 0) * direction
        return step

    def _lengths(self, design: Array, targets: Array, weights: Array, step: Array, gradient: Array) -> Array:
        """Per column the first of 1, 1/2, 1/4 ... that fulfils Armijo's condition (sufficient decrease)."""
        slope, before = (step * gradient).sum(0), self._loss(design, targets, weights)
        lengths = np.ones(weights.shape[1])
        for _ in range(HALVINGS):
            after = self._loss(design, targets, weights + lengths * step)
            # At the minimum the loss is flat to rounding, which must not stop the step.
            high = after > before + 1e-4 * lengths * slope + 1e-12 * np.abs(before)
            if not high.any():
                break
            lengths = np.where(high, lengths / 2, lengths)
        return lengths

    def _loss(self, design: Array, targets: Array, weights: Array) -> Array:
        margins = design @ weights
        return (np.logaddexp(0, margins) - targets * margins).sum(0) + (weights * self._shrink(weights)).sum(0) / 2
