"""Contrasts within scenes: the label effect, and how well scores put possible clips above impossible ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

CROSSED = (1, 1, -1, -1)  # signs of the clips A, B (possible), C and D (impossible)


def interaction(scores: Num[np.ndarray, "q r *rest"], signs: Sequence[int] = CROSSED) -> Float[np.ndarray, "q *rest"]:
    """(A + B - C - D) / 2 of each scene: what depends on possibility and, in a crossed scene, on neither half alone.

    Args:
        signs: +1 for each possible and -1 for each impossible clip; of a single pair (1, -1), which gives A - C.

    Raises:
        ValueError: as many signs as clips are needed, half of them +1.
    """
    check_signs(signs, scores.shape[1])
    total = np.zeros(scores[:, 0].shape)
    for i, sign in enumerate(signs):
        total = total + sign * scores[:, i]
    return total / (len(signs) / 2)


def check_signs(signs: Sequence[int], clips: int) -> None:
    """Refuses signs that are not +1 for one half of a scene's clips and -1 for the other.

    Raises:
        ValueError: not one sign per clip, other signs, or unequal numbers of them.
    """
    if len(signs) != clips or sum(signs) or {*signs} - {1, -1} or not clips:
        raise ValueError(
            f"got signs {tuple(signs)} for {clips} clips of a scene"
            " · expected one each, as many +1 as -1 · pass whole pairs"
        )


def d_prime(scores: Num[np.ndarray, "q r"], signs: Sequence[int] = CROSSED) -> float:
    """Mean interaction over its standard deviation across scenes; 0 where nothing interacts, NaN for a single scene.

    NaN where a score is.
    """
    return standardised(interaction(scores, signs))


def standardised(effects: Num[np.ndarray, " q"]) -> float:
    """Mean over standard deviation; 0 where all effects are 0, infinite where all are alike, NaN of a single one."""
    if not effects.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):  # log odds may be infinite
        return float(effects.mean() / effects.std(ddof=1)) if len(effects) > 1 else np.nan


def variance_parts(scores: Num[np.ndarray, "q 4"]) -> Float[np.ndarray, "q 4"]:
    """Sums of squares of crossed scenes about the mean of all clips: by scene, first half, second half, and label.

    A and C share the first half, A and D the second. The contrasts are orthogonal: the parts of a scene sum to its sum
    of squares. Worked example, a single scene A 4, B 2, C 1, D 1: the mean is 2 and the sum of squares 6. Scene 0;
    first half (4 + 1 - 2 - 1)² / 4 = 1; second half (4 + 1 - 2 - 1)² / 4 = 1; label (4 + 2 - 1 - 1)² / 4 = 4.

    Args:
        scores: of the clips A, B (possible), C and D (impossible) of each scene.
    """
    a, b, c, d = scores.astype(np.float64).T
    parts = [a + c - b - d, a + d - b - c, a + b - c - d]
    of_scene = a + b + c + d - 4 * scores.mean(dtype=np.float64)
    return np.stack([of_scene, *parts], axis=-1) ** 2 / 4


def pairwise_accuracy(scores: Num[np.ndarray, "q r"], signs: Sequence[int] = CROSSED) -> Float[np.ndarray, " q"]:
    """Fraction of the possible/impossible pairs of each scene that are in order; a tie counts one half.

    A scene with a NaN among its scores has NaN: it is neither in order nor out of it.

    Args:
        signs: +1 for each possible and -1 for each impossible clip: four pairs of a crossed scene, one of (1, -1).

    Raises:
        ValueError: as many signs as clips are needed, half of them +1.
    """
    check_signs(signs, scores.shape[1])
    sign = np.asarray(signs)
    possible, impossible = scores[:, sign > 0, None], scores[:, None, sign < 0]
    in_order = ((possible > impossible) + 0.5 * (possible == impossible)).mean((1, 2))
    return np.where(np.isnan(scores).any(1), np.nan, in_order)
