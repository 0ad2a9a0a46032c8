"""The best of many scores: a score that is NaN is never among the best."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Num


def order_of(scores: Num[np.ndarray, "*cells"]) -> Int[np.ndarray, " known"]:
    """Flat indices of the cells by falling score, the first of equals first; those that are NaN are left out.

    Raises:
        ValueError: all scores are NaN.
    """
    flat = np.ravel(scores)
    numbers = np.flatnonzero(~np.isnan(flat))
    if not len(numbers):
        raise ValueError(
            f"got scores of shape {scores.shape} without a number · expected at least one to choose"
            " · a cell is NaN where any of its scenes is"
        )
    return numbers[np.argsort(-flat[numbers].astype(float), kind="stable")]


def best_of(scores: Num[np.ndarray, "*cells"]) -> tuple[int, ...]:
    """Where the highest score is, the first of equals; a NaN is never the highest.

    Raises:
        ValueError: all scores are NaN.
    """
    return tuple(int(i) for i in np.unravel_index(order_of(scores)[0], scores.shape))
