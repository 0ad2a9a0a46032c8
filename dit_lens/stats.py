"""Intervals over groups: scenes are resampled, never single clips."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

RESAMPLES = 2000


def bootstrap_ratio(
    numerator: Num[np.ndarray, "g *rest"],
    denominator: Num[np.ndarray, "..."],
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """Ratio of sums over groups, with the percentile interval of a bootstrap over groups (Efron 1979).

    A mean over groups is the ratio to a denominator of ones. All groups are kept: a ratio of means is stable where
    the mean of ratios is not.

    Args:
        numerator, denominator: one row per group.
        level: coverage.

    Returns:
        estimate, low, high.

    Raises:
        ValueError: fewer than two groups, or the shapes differ.
    """
    groups = len(numerator)
    if groups < 2 or numerator.shape != denominator.shape:
        raise ValueError(
            f"got shapes {numerator.shape} and {denominator.shape} · expected equal shapes of at least 2 groups"
            " · an interval needs several scenes"
        )
    counts = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = np.tensordot(counts, numerator, 1) / np.tensordot(counts, denominator, 1)
        estimate = numerator.sum(0) / denominator.sum(0)
        tail = 100 * (1 - level) / 2
        low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    return np.asarray(estimate), np.asarray(low), np.asarray(high)


def interaction(
    scores: Num[np.ndarray, "q 4 *rest"],
) -> Float[np.ndarray, "q *rest"]:
    """(A + B - C - D) / 2 of each quadruplet: what depends on possibility and on neither half alone."""
    return (scores[:, 0] + scores[:, 1] - scores[:, 2] - scores[:, 3]) / 2


def d_prime(scores: Num[np.ndarray, "q 4"]) -> float:
    """Mean interaction over its standard deviation across quadruplets; 0 where nothing interacts."""
    contrast = interaction(scores)
    return float(contrast.mean() / contrast.std(ddof=1)) if contrast.any() else 0.0


def pairwise_accuracy(scores: Num[np.ndarray, "q 4"]) -> Float[np.ndarray, " q"]:
    """Fraction of the four possible/impossible pairs of each quadruplet that are in order; a tie counts one half."""
    possible, impossible = scores[:, :2, None], scores[:, None, 2:]
    return ((possible > impossible) + 0.5 * (possible == impossible)).mean((1, 2))
