"""Permutation nulls within quadruplets, and p-values against them; a NaN cell has no p-value.

A cell whose score, or any of whose null scores, is NaN has a NaN p-value, and leaves those of the other cells as they
would be without it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

FLIPS = 2000


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


def scored(observed: Num[np.ndarray, "*cells"], null: Num[np.ndarray, "p ..."]) -> Bool[np.ndarray, "*cells"]:
    """Which cells have a score, and one under every permutation: those that can be compared.

    Raises:
        ValueError: no permutation, or another number of cells in the null.
    """
    if not len(null) or null.shape[1:] != observed.shape:
        raise ValueError(
            f"got a null of shape {null.shape} for scores of shape {observed.shape} · expected one row for each"
            " permutation, with a score for every cell · permute all cells together, at least 19 times for p = .05"
        )
    return ~(np.isnan(observed) | np.isnan(null).any(0))


def permutation_p(observed: Num[np.ndarray, "*cells"], null: Num[np.ndarray, "p ..."]) -> Float[np.ndarray, "*cells"]:
    """Chance of a score as high under permuted labels, cell by cell; the observed labelling counts as one of them.

    Never 0: (1 + hits) / (1 + p) is exact (Phipson & Smyth 2010).

    Raises:
        ValueError: see `scored`.
    """
    comparable = scored(observed, null)
    return np.where(comparable, (1 + (null >= observed).sum(0)) / (1 + len(null)), np.nan)


def selection_corrected_p(
    observed: Num[np.ndarray, "*cells"], null: Num[np.ndarray, "p ..."]
) -> Float[np.ndarray, "*cells"]:
    """Chance that the best of all cells scores as high under permuted labels (max-T of Westfall & Young 1993).

    Holds for a cell that was chosen for its score, whatever the cells' dependence; the smallest is the p-value of the
    best cell. The null must hold the same labelling for all cells in each row.

    Raises:
        ValueError: see `scored`.
    """
    comparable = scored(observed, null)
    highest = null[:, comparable].max(1, initial=-np.inf)
    hits = (highest[(...,) + (None,) * observed.ndim] >= observed).sum(0)
    return np.where(comparable, (1 + hits) / (1 + len(null)), np.nan)


def sign_flips(
    effects: Float[np.ndarray, "q cells"], seed: int = 0
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, "flips cells"]]:
    """The t of each cell, and its t where signs of quadruplets are flipped at random: the null of no sign.

    Possible and impossible clips of a quadruplet trade places: under the null its contrast has either sign. Of a cell
    where all effects are 0 the t is 0; where an effect is NaN or infinite it is NaN.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS, len(effects)))
    finite = np.isfinite(effects).all(0)
    filled = np.where(finite, effects, 0.0)
    square = (filled**2).mean(0)

    def studentised(mean: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.nan_to_num(mean * np.sqrt((len(effects) - 1) / (square - mean**2).clip(0)))
        return np.where(finite, t, np.nan)

    return studentised(filled.mean(0)), studentised(signs @ filled / len(effects))


def sign_flip_p(effects: Float[np.ndarray, "q cells"], seed: int = 0) -> Float[np.ndarray, " cells"]:
    """Chance that the largest |t| of all cells is as large under flipped signs (see `sign_flips`)."""
    t, null = sign_flips(effects, seed)
    return selection_corrected_p(np.abs(t), np.abs(null))


def selection_threshold(null: Num[np.ndarray, "p *cells"], level: float = 0.05) -> float:
    """The score that the best cell must exceed for a selection-corrected p-value of at most `level`.

    Cells with a NaN are left out; NaN where none is left.

    Raises:
        ValueError: too few permutations for such a level.
    """
    rank = int(np.floor(level * (1 + len(null)) + 1e-9))
    if rank < 1:
        raise ValueError(
            f"got {len(null)} permutations for level {level} · expected at least {int(np.ceil(1 / level)) - 1}"
            " · permute more often"
        )
    complete = ~np.isnan(null).any(0)
    return float(np.sort(null[:, complete].max(1))[-rank]) if complete.any() else np.nan
