"""The choice among many scores: a score that is NaN is never chosen."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num

Rule = Literal["one_error", "best"]
RULES: tuple[Rule, ...] = ("one_error", "best")
ROUNDING = 1e-9


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


def choose(
    scores: Num[np.ndarray, "*cells"], errors: Float[np.ndarray, "*cells"], rule: Rule = "one_error"
) -> tuple[int, ...]:
    """Where the chosen score is: the first within one standard error of the highest, or the highest itself.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3) does not depend on which of nearly equal scores is
    the highest, which rounding decides. Worked example: scores .60, .66, .665, .667 with standard errors of .01: the
    highest is the last; the second is the first that is .657 or more, and is chosen also where the third is highest.

    Args:
        scores: in the order of preference, the simplest or earliest first.
        errors: standard error of each score; NaN counts as 0.

    Raises:
        ValueError: all scores are NaN.
    """
    best = best_of(scores)
    if rule == "best":
        return best
    least = scores[best] - np.nan_to_num(errors[best]) - ROUNDING
    first = np.flatnonzero(np.ravel(scores) >= least)[0]
    return tuple(int(i) for i in np.unravel_index(first, scores.shape))
