"""How well a score separates possible from impossible clips: every measure, side by side, of the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from dit_lens.stats.contrasts import standardised, variance_parts
from dit_lens.stats.intervals import SHARE, mean_interval, ratio_interval, standardised_interval

CROSSED_ROLES = ("A", "B", "C", "D")  # possible, possible, impossible, impossible
NO_PAIRS = "no scene has both labels"
NOT_CROSSED = "no scene is known to be crossed (C and D the halves of A and B exchanged)"
ALL_EQUAL = "all scores are equal"
INFINITE = "some scores are infinite"
BY_DIFFERENCES: tuple[str, ...] = ("relative", "label_share", "d_prime")


@dataclass(frozen=True)
class Separation:
    """Measures of how a score predicts a label, with 95% intervals over groups, each of which counts once.

    `relative` compares sums of two clips, in which all that is a sum over halves cancels: it can be near 1 although the
    label decides next to nothing of a single clip's score. It is never without `label_share`, which says how much.

    Attributes:
        accuracy, low, high: share of clips on the right side of 0.
        pairwise: possible/impossible pairs of a scene in order, a tie counting one half. In a crossed scene each of
            the four pairs shares a half.
        relative: crossed scenes with A + B above C + D, a tie counting one half.
        label_share: what part of the score's variance over all clips of crossed scenes the label has; the rest is that
            of scenes and halves (see `contrasts.variance_parts`). Scores drawn at random have 1/4.
        d_prime: mean over groups of (possible - impossible) over its standard deviation.
        clips, groups, crossed: numbers of clips, of groups, and of crossed scenes.
        absent: why a measure is NaN, by its name.
    """

    accuracy: float
    low: float
    high: float
    pairwise: float
    pairwise_low: float
    pairwise_high: float
    relative: float
    relative_low: float
    relative_high: float
    label_share: float
    label_share_low: float
    label_share_high: float
    d_prime: float
    d_prime_low: float
    d_prime_high: float
    clips: int
    groups: int
    crossed: int
    absent: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if np.isnan(self.relative) != np.isnan(self.label_share):
            raise ValueError(
                f"got relative {self.relative:.3f} and label's share {self.label_share:.3f} · expected both or neither"
                " · the relative measure means little without the label's share of the variance"
            )


COUNTS = ("clips", "groups", "crossed")
MEASURES = tuple(part.name for part in fields(Separation) if part.name != "absent")
MEASURED = ("accuracy", "pairwise", "relative", "label_share", "d_prime")


def unknown(reason: str) -> Separation:
    """Nothing measured, and the reason."""
    return _of([np.nan] * (len(MEASURES) - len(COUNTS)) + [0] * len(COUNTS), dict.fromkeys(MEASURED, reason))


def _of(values: Sequence[Any], absent: Mapping[str, str]) -> Separation:
    """Values in the order of `MEASURES`."""
    return Separation(**dict(zip(MEASURES, values, strict=True)), absent=absent)


def separation(
    scores: Num[np.ndarray, " i"],
    labels: Bool[np.ndarray, " i"],
    groups: Shaped[np.ndarray, " i"],
    scenes: Shaped[np.ndarray, " i"] | None = None,
    roles: Shaped[np.ndarray, " i"] | None = None,
) -> Separation:
    """Every measure of the same scores, log odds or anything that is higher where a clip is more likely possible.

    Args:
        labels: which clips are possible.
        groups: one independent observation each.
        scenes: the clips that are compared with each other; the groups by default.
        roles: "A" to "D" of the clips of crossed scenes, any other text elsewhere; None where no scene is crossed.
            Scenes that lack a role, or whose labels are not those of the roles, are not compared as crossed ones.

    Raises:
        ValueError: NaN among the scores.
    """
    scenes = groups if scenes is None else scenes
    if unknown := int(np.isnan(scores).sum()):
        raise ValueError(f"got NaN for {unknown} of {len(scores)} scores · expected numbers · leave these clips out")
    names, of_clip = np.unique(scenes, return_inverse=True)
    group_of = np.unique(groups, return_inverse=True)[1][np.unique(scenes, return_index=True)[1]]
    right = np.bincount(of_clip, (scores > 0) == labels) / np.bincount(of_clip)
    effects, in_order = by_scene(scores, labels, scenes)
    table = _crossed(scores, labels, of_clip, roles, len(names))
    if np.isfinite(scores).all():
        relative, share, absent = _relative(table, group_of)
        effect = over_groups(effects, group_of)
        absent |= dict.fromkeys(("pairwise", "d_prime"), NO_PAIRS) if not len(effect) else {}
    else:  # they have an order, and no differences
        relative = share = (np.nan,) * 3
        effect = effects[:0]
        absent = dict.fromkeys(BY_DIFFERENCES, INFINITE)
    values: list[Any] = [
        *_mean(over_groups(right, group_of)),
        *_mean(over_groups(in_order, group_of)),
        *relative,
        *share,
    ]
    values += [standardised(effect), *standardised_interval(effect)] if len(effect) else [np.nan] * 3
    values += [len(scores), int(group_of.max()) + 1, int(np.isfinite(table).all(1).sum())]
    return _of(values, absent)


def by_scene(
    scores: Num[np.ndarray, " i"], labels: Bool[np.ndarray, " i"], scenes: Shaped[np.ndarray, " i"]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Mean of the possible minus mean of the impossible clips of each scene, and the share of their pairs in order.

    Scenes are in sorted order; a tie counts one half; NaN of a scene without both labels.
    """
    order, first = np.argsort(scenes, kind="stable"), np.unique(np.sort(scenes), return_index=True)[1]
    effects, in_order = np.full((2, len(first)), np.nan)
    for number, rows in enumerate(np.split(order, first[1:])):
        high, low = scores[rows[labels[rows]]], scores[rows[~labels[rows]]]
        if len(high) and len(low):
            with np.errstate(invalid="ignore"):  # of two infinite scores
                effects[number] = high.mean() - low.mean()
            in_order[number] = ((high[:, None] > low) + 0.5 * (high[:, None] == low)).mean()
    return effects, in_order


def over_groups(values: Float[np.ndarray, "q *rest"], group_of: Int[np.ndarray, " q"]) -> Float[np.ndarray, "g *rest"]:
    """Means over the scenes of each group that have a number; groups without any are left out."""
    known = ~np.isnan(values if values.ndim == 1 else values.sum(1))
    names, of_scene = np.unique(group_of[known], return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, of_scene, values[known])
    return (sums.T / np.bincount(of_scene, minlength=len(names))).T


def _relative(
    table: Float[np.ndarray, "q 4"], group_of: Int[np.ndarray, " q"]
) -> tuple[tuple[float, ...], tuple[float, ...], dict[str, str]]:
    """The relative measure and the label's share, each with its interval; and why they are absent."""
    known, nothing = np.isfinite(table).all(1), (np.nan,) * 3
    if not known.any():
        return nothing, nothing, dict.fromkeys(("relative", "label_share"), NOT_CROSSED)
    parts = np.full((len(table), 4), np.nan)
    parts[known] = variance_parts(table[known])
    squares = over_groups(parts, group_of)
    if not squares.sum():
        return nothing, nothing, dict.fromkeys(("relative", "label_share"), ALL_EQUAL)
    effect = table[:, :2].sum(1) - table[:, 2:].sum(1)
    above = np.where(known, (effect > 0) + 0.5 * (effect == 0), np.nan)
    share, total = squares[:, -1], squares.sum(1)
    if len(share) < 2:
        return _mean(over_groups(above, group_of)), (float(share[0] / total[0]), np.nan, np.nan), {}
    ends = ratio_interval(share, total, bounds=SHARE)
    return _mean(over_groups(above, group_of)), tuple(float(end) for end in ends), {}


def _mean(values: Float[np.ndarray, " g"]) -> tuple[float, float, float]:
    """Mean over groups of a share, with its interval; NaN of none."""
    if not len(values):
        return np.nan, np.nan, np.nan
    mean, low, high = mean_interval(values, bounds=SHARE)
    return float(mean), float(low), float(high)


def _crossed(
    scores: Num[np.ndarray, " i"],
    labels: Bool[np.ndarray, " i"],
    of_clip: Int[np.ndarray, " i"],
    roles: Shaped[np.ndarray, " i"] | None,
    scenes: int,
) -> Float[np.ndarray, "q 4"]:
    """Scores of A, B, C and D of each scene; NaN where it is not crossed or has other labels."""
    table = np.full((scenes, len(CROSSED_ROLES)), np.nan)
    if roles is not None:
        for column, role in enumerate(CROSSED_ROLES):
            rows = (roles == role) & (labels == (column < 2))
            table[of_clip[rows], column] = scores[rows]
    return table
