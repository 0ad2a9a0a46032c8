"""Scores of log odds against labels: by clip, within groups, and over all clips; groups have any number of clips.

What compares clips of a scene is computed by `dit_lens.stats.separation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import expit

from dit_lens import stats
from dit_lens.probing.checks import check_groups, check_labels, check_logits, check_rows

Logits = Float[np.ndarray, " i"]
Labels = Bool[np.ndarray, " i"]
Groups = Shaped[np.ndarray, " i"]


@dataclass(frozen=True)
class Scores(stats.Separation):
    """How well a score predicts a label, with 95% intervals over groups: `stats.Separation`, and further measures.

    Attributes:
        auroc, auroc_low, auroc_high: a possible clip of any group above an impossible one of any.
        relative_error: scenes whose impossible clips score higher on average (IntPhys, Riochet et al. 2021).
        calibration: see `calibration_error`.
        chance: share of the more frequent label, the accuracy of always answering with it.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    relative_error: float
    calibration: float
    chance: float

    @property
    def absolute_error(self) -> float:
        """The absolute error of IntPhys, 1 - AUROC."""
        return 1 - self.auroc


def score(
    logits: Logits,
    labels: np.ndarray,
    groups: Groups,
    scenes: Groups | None = None,
    roles: Groups | None = None,
) -> Scores:
    """How well log odds, or any score that is higher where a clip is more likely possible, predict a label.

    Args:
        groups: (i,) one independent observation each, for the intervals.
        scenes: (i,) the clips that are compared with each other (d', pairs in order, relative error); the groups
            by default.
        roles: (i,) "A" to "D" of the clips of crossed scenes, for the relative measure (see `stats.separation`).

    Raises:
        ValueError: see `check_labels`; NaN among the scores; or fewer than two groups.
    """
    truth = _checked(logits, labels, groups)
    scenes = groups if scenes is None else scenes
    inside = stats.separation(logits, truth, groups, scenes, roles)
    area, effects = auroc(logits, truth, groups), contrasts(logits, truth, scenes)
    share = stats.separation(np.ones(len(truth)), truth, groups, scenes).accuracy  # of always answering "possible"
    return Scores(
        **vars(inside),
        auroc=area[0],
        auroc_low=area[1],
        auroc_high=area[2],
        relative_error=float((effects < 0).mean()) if len(effects) and np.isfinite(logits).all() else np.nan,
        calibration=calibration_error(logits, truth),
        chance=max(share, 1 - share),
    )


def auroc(scores: Logits, labels: np.ndarray, groups: Groups) -> tuple[float, float, float]:
    """How often a possible clip scores above an impossible one (a tie counts one half), and its 95% interval.

    The number of such pairs is a sum over pairs of groups. The error is that of the groups' parts in it (Obuchowski
    1997), and the interval that of a share: Student's t of its log odds. Simulated coverage is .94 or more from 8
    groups on, up to an area of .95. Where it is 0 or 1, each group counts in one comparison of two groups.

    Raises:
        ValueError: see `check_labels`; NaN among the scores; or fewer than two groups.
    """
    labels = _checked(scores, labels, groups)
    names, of_clip = np.unique(groups, return_inverse=True)
    place, count = np.eye(len(names))[of_clip], len(names)
    high, low = scores[labels][:, None], scores[~labels]
    wins = place[labels].T @ ((high > low) + 0.5 * (high == low)) @ place[~labels]
    possible, impossible = place[labels].sum(0), place[~labels].sum(0)
    pairs = possible.sum() * impossible.sum()
    area = wins.sum() / pairs
    won = wins.sum(1) - area * possible * impossible.sum() + wins.sum(0) - area * impossible * possible.sum()
    error = np.sqrt(count / (count - 1) * (won**2).sum()) / pairs
    independent = int(min((possible > 0).sum(), (impossible > 0).sum(), count // 2))
    ends = stats.share_interval(np.asarray(area), np.asarray(error), count, independent)
    return float(area), float(ends[0]), float(ends[1])


def contrasts(scores: Logits, labels: Labels, groups: Groups) -> Float[np.ndarray, " g"]:
    """Mean of the possible minus mean of the impossible clips of each group that has both."""
    effects = stats.by_scene(scores, labels, groups)[0]
    return effects[~np.isnan(effects)]


def pairs_in_order(scores: Logits, labels: Labels, groups: Groups) -> float:
    """Mean over groups of the share of possible/impossible pairs in order; NaN where no group has both."""
    check_logits(scores)
    shares = stats.by_scene(scores, labels, groups)[1]
    return float(np.nanmean(shares)) if not np.isnan(shares).all() else np.nan


def calibration_error(logits: Logits, labels: Labels, bins: int = 10) -> float:
    """Expected calibration error: |predicted chance - observed share| over equal bins (Naeini et al. 2015)."""
    check_logits(logits)
    stated = expit(logits)
    at = np.minimum((stated * bins).astype(int), bins - 1)
    gaps = np.bincount(at, stated - labels, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


def _checked(logits: Logits, labels: np.ndarray, groups: Groups) -> Labels:
    """The labels as booleans.

    Raises:
        ValueError: other numbers of clips, a label that is no boolean, a single class, NaN, or a single group.
    """
    check_logits(logits)
    check_groups(groups, 2)
    check_rows(scores=logits, labels=labels, groups=groups)
    return check_labels(labels)
