"""Statistics over groups of clips, which are the observations, never single clips.

intervals: of means, ratios and shares. contrasts: scores of a scene's clips against its labels. nulls: labels that are
as likely as the true ones, and p-values. separation: every measure of one
score side by side. choosing: one of many scores.
"""

from __future__ import annotations

from dit_lens.stats.choosing import RULES, Rule, best_of, choose, order_of
from dit_lens.stats.contrasts import (
    CROSSED,
    check_signs,
    d_prime,
    interaction,
    pairwise_accuracy,
    standardised,
    variance_parts,
)
from dit_lens.stats.intervals import (
    DIFFERENCE,
    LEVEL,
    POSITIVE,
    R_SQUARED,
    SHARE,
    Bounds,
    mean_interval,
    ratio_error,
    ratio_interval,
    share_interval,
    standardised_interval,
)
from dit_lens.stats.nulls import (
    FLIPS,
    permutation_p,
    scored,
    selection_corrected_p,
    selection_threshold,
    sign_flip_p,
    sign_flips,
    swapped_labels,
)
from dit_lens.stats.separation import COUNTS, MEASURES, Separation, by_scene, separation, unknown

__all__ = [
    "COUNTS",
    "CROSSED",
    "DIFFERENCE",
    "FLIPS",
    "LEVEL",
    "MEASURES",
    "POSITIVE",
    "RULES",
    "R_SQUARED",
    "SHARE",
    "Bounds",
    "Rule",
    "Separation",
    "best_of",
    "by_scene",
    "check_signs",
    "choose",
    "d_prime",
    "interaction",
    "mean_interval",
    "order_of",
    "pairwise_accuracy",
    "permutation_p",
    "ratio_error",
    "ratio_interval",
    "scored",
    "selection_corrected_p",
    "selection_threshold",
    "separation",
    "share_interval",
    "sign_flip_p",
    "sign_flips",
    "standardised",
    "standardised_interval",
    "swapped_labels",
    "unknown",
    "variance_parts",
]
