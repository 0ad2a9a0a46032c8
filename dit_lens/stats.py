"""Intervals over groups, where scenes are resampled and never single clips; permutation nulls within quadruplets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

RESAMPLES = 2000
FLIPS = 2000


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


def swapped_labels(
    possible: Bool[np.ndarray, " i"], quadruplets: Shaped[np.ndarray, " i"], count: int, seed: int = 0
) -> Bool[np.ndarray, "p i"]:
    """`count` labellings in which each quadruplet's possible and impossible clips have traded places, or not.

    Where labels mean nothing, these are as likely as the true ones. Labels shuffled freely among the clips of a
    crossed quadruplet are not: two clips with the same first half could both be possible.

    Raises:
        ValueError: a quadruplet without as many possible as impossible clips, which has nothing to trade.
    """
    names, of_clip = np.unique(quadruplets, return_inverse=True)
    balance = np.bincount(of_clip, np.where(possible, 1, -1))
    if balance.any():
        raise ValueError(
            f"got {int((balance != 0).sum())} of {len(names)} quadruplets with unequal numbers of possible and"
            " impossible clips · expected as many of each · pass whole quadruplets"
        )
    traded = np.random.default_rng(seed).random((count, len(names))) < 0.5
    return possible ^ traded[:, of_clip]


def permutation_p(
    observed: Num[np.ndarray, "*cells"], null: Num[np.ndarray, "p *cells"]
) -> Float[np.ndarray, "*cells"]:
    """Chance of a score as high under permuted labels, cell by cell; the observed labelling counts as one of them.

    Never 0: (1 + hits) / (1 + p) is exact (Phipson & Smyth 2010).
    """
    return (1 + (null >= observed).sum(0)) / (1 + len(null))


def selection_corrected_p(
    observed: Num[np.ndarray, "*cells"], null: Num[np.ndarray, "p *cells"]
) -> Float[np.ndarray, "*cells"]:
    """Chance that the best of all cells scores as high under permuted labels (max-T of Westfall & Young 1993).

    Holds for a cell that was chosen for its score, whatever the cells' dependence; the smallest is the p-value of the
    best cell. The null must hold the same labelling for all cells in each row.
    """
    highest = null.reshape(len(null), -1).max(1)
    return (1 + (highest[(...,) + (None,) * observed.ndim] >= observed).sum(0)) / (1 + len(null))


def sign_flips(
    effects: Float[np.ndarray, "q cells"], seed: int = 0
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, "flips cells"]]:
    """The t of each cell, and its t where signs of quadruplets are flipped at random: the null of no sign.

    Possible and impossible clips of a quadruplet trade places: under the null its contrast has either sign. Of a cell
    where all effects are 0 the t is 0.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS, len(effects)))
    square = (effects**2).mean(0)

    def studentised(mean: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(mean * np.sqrt((len(effects) - 1) / (square - mean**2).clip(0)))

    return studentised(effects.mean(0)), studentised(signs @ effects / len(effects))


def sign_flip_p(effects: Float[np.ndarray, "q cells"], seed: int = 0) -> Float[np.ndarray, " cells"]:
    """Chance that the largest |t| of all cells is as large under flipped signs (see `sign_flips`)."""
    t, null = sign_flips(effects, seed)
    return selection_corrected_p(np.abs(t), np.abs(null))


def selection_threshold(null: Num[np.ndarray, "p *cells"], level: float = 0.05) -> float:
    """The score that the best cell must exceed for a selection-corrected p-value of at most `level`.

    Raises:
        ValueError: too few permutations for such a level.
    """
    highest = np.sort(null.reshape(len(null), -1).max(1))[::-1]
    rank = int(np.floor(level * (1 + len(null)) + 1e-9))
    if rank < 1:
        raise ValueError(
            f"got {len(null)} permutations for level {level} · expected at least {int(np.ceil(1 / level)) - 1}"
            " · permute more often"
        )
    return float(highest[rank - 1])
