"""What log odds tell of a label: by clip, inside groups, and over all clips; for groups of any number of clips.

Of quadruplets (two possible clips, two impossible ones) `d_prime` and `pairwise` are those of `dit_lens.stats`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import expit

from dit_lens import stats
from dit_lens.probing.linear import check_labels

Logits = Float[np.ndarray, " i"]
Labels = Bool[np.ndarray, " i"]
Groups = Shaped[np.ndarray, " i"]


@dataclass(frozen=True)
class Scores:
    """How well a score tells a label, with 95% intervals of a bootstrap over groups.

    Attributes:
        accuracy, low, high: clips on the right side of 0.
        d_prime: mean over groups of (possible - impossible) over its standard deviation.
        pairwise: possible/impossible pairs of a group in order; a tie counts one half.
        auroc, auroc_low, auroc_high: a possible clip of any group above an impossible one of any.
        relative_error: groups whose impossible clips score higher on average (IntPhys, Riochet et al. 2021).
        calibration: see `calibration_error`.
        chance: share of the commoner label, the accuracy of who knows no more.
        clips, groups: their numbers. Where no group has both labels, what is within groups is NaN.
    """

    accuracy: float
    low: float
    high: float
    d_prime: float
    pairwise: float
    auroc: float
    auroc_low: float
    auroc_high: float
    relative_error: float
    calibration: float
    chance: float
    clips: int
    groups: int

    @property
    def absolute_error(self) -> float:
        """1 - AUROC: what IntPhys calls so."""
        return 1 - self.auroc


def score(logits: Logits, labels: np.ndarray, groups: Groups, seed: int = 0) -> Scores:
    """All that is told of a label by log odds of it, or by any score that is higher where it is more likely.

    Args:
        seed: of the bootstrap.

    Raises:
        ValueError: see `check_labels`; or fewer than two groups.
    """
    known, of_clip = check_labels(labels), np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(of_clip).astype(float)
    right = np.bincount(of_clip, (logits > 0) == known)
    area, inside = auroc(logits, known, groups, seed), contrasts(logits, known, groups)
    share = float(known.mean())
    return Scores(
        *(float(part) for part in stats.bootstrap_ratio(right, counts, seed=seed)),
        d_prime=_ratio(inside),
        pairwise=pairs_in_order(logits, known, groups),
        auroc=area[0],
        auroc_low=area[1],
        auroc_high=area[2],
        relative_error=float((inside < 0).mean()) if len(inside) else np.nan,
        calibration=calibration_error(logits, known),
        chance=max(share, 1 - share),
        clips=len(known),
        groups=len(counts),
    )


def auroc(scores: Logits, labels: Labels, groups: Groups, seed: int = 0) -> tuple[float, float, float]:
    """How often a possible clip scores above an impossible one (a tie counts one half), and its 95% interval.

    The number of such pairs is a sum over pairs of groups, so that a resample of groups weighs a table of these.
    """
    names, of_clip = np.unique(groups, return_inverse=True)
    place, count = np.eye(len(names))[of_clip], len(names)
    high, low = scores[labels][:, None], scores[~labels]
    wins = place[labels].T @ ((high > low) + 0.5 * (high == low)) @ place[~labels]
    sizes = place[labels].sum(0), place[~labels].sum(0)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=stats.RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may be without one of the labels
        areas = ((drawn @ wins) * drawn).sum(1) / ((drawn @ sizes[0]) * (drawn @ sizes[1]))
    ends = np.nanpercentile(areas, [2.5, 97.5])
    return float(wins.sum() / (sizes[0].sum() * sizes[1].sum())), float(ends[0]), float(ends[1])


def contrasts(scores: Logits, labels: Labels, groups: Groups) -> Float[np.ndarray, " g"]:
    """Mean of the possible minus mean of the impossible clips of each group that has both."""
    return np.array([high.mean() - low.mean() for high, low in _sides(scores, labels, groups)])


def pairs_in_order(scores: Logits, labels: Labels, groups: Groups) -> float:
    """Mean over groups of the share of possible/impossible pairs in order; NaN where no group has both."""
    shares = [
        ((high[:, None] > low) + 0.5 * (high[:, None] == low)).mean() for high, low in _sides(scores, labels, groups)
    ]
    return float(np.mean(shares)) if shares else np.nan


def calibration_error(logits: Logits, labels: Labels, bins: int = 10) -> float:
    """Mean distance of the stated chance from the share that is so, over bins of equal width (Naeini et al. 2015)."""
    stated = expit(logits)
    at = np.minimum((stated * bins).astype(int), bins - 1)
    gaps = np.bincount(at, stated - labels, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


def _sides(scores: Logits, labels: Labels, groups: Groups) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of the possible and of the impossible clips of each group that has both."""
    of_groups = [groups == name for name in np.unique(groups)]
    split = [(scores[own & labels], scores[own & ~labels]) for own in of_groups]
    return [(high, low) for high, low in split if len(high) and len(low)]


def _ratio(contrast: Float[np.ndarray, " g"]) -> float:
    """Mean over standard deviation; 0 where nothing differs, NaN for fewer than two."""
    if len(contrast) < 2:
        return np.nan
    return float(contrast.mean() / contrast.std(ddof=1)) if contrast.any() else 0.0
