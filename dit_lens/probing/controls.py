"""What a probe's accuracy is to be held against: permuted labels, labels by scene, unseen properties, fewer scenes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.base import clone

from dit_lens import stats
from dit_lens.probing.estimators import decide
from dit_lens.probing.grid import Cells, Grid
from dit_lens.probing.linear import check_labels, estimator


@dataclass(frozen=True, eq=False)
class NullTest:
    """Scores of a grid beside those under permuted labels.

    Attributes:
        cells, strengths: what the axes of the scores count.
        observed: (cell, strength); null: (permutation, cell, strength).
    """

    cells: tuple[Hashable, ...]
    strengths: tuple[float, ...]
    observed: Float[np.ndarray, "cell s"]
    null: Float[np.ndarray, "p cell s"]

    @property
    def best(self) -> tuple[Hashable, float]:
        """Cell and strength of the highest score."""
        cell, strength = np.unravel_index(self.observed.argmax(), self.observed.shape)
        return self.cells[cell], self.strengths[strength]

    @property
    def p(self) -> float:
        """The chance of a best score as high as this where labels mean nothing: corrected for the selection."""
        return float(self.corrected.min())

    @property
    def corrected(self) -> Float[np.ndarray, "cell s"]:
        """p-values against the maximum over the whole grid."""
        return stats.selection_corrected_p(self.observed, self.null)

    @property
    def uncorrected(self) -> Float[np.ndarray, "cell s"]:
        """p-values of each probe against itself: right for one chosen beforehand, wrong for the best."""
        return stats.permutation_p(self.observed, self.null)

    def threshold(self, level: float = 0.05) -> float:
        """The score that the best of the grid exceeds by chance with probability `level`."""
        return stats.selection_threshold(self.null, level)


def permutation_test(
    grid: Grid, cells: Cells, possible: np.ndarray, quadruplets: np.ndarray, count: int = 200, seed: int = 0
) -> NullTest:
    """The whole grid again under labels swapped within quadruplets, all permutations in one fit per cell and fold.

    Raises:
        ValueError: see `check_labels` and `stats.swapped_labels`.
    """
    labels = check_labels(possible)
    swapped = stats.swapped_labels(labels, quadruplets, count, seed)
    scores = grid.scores(cells, np.column_stack([labels, swapped.T]), quadruplets)
    return NullTest(tuple(cells), grid.strengths, scores[..., 0], np.moveaxis(scores[..., 1:], -1, 0))


def scene_labels(groups: np.ndarray, seed: int = 0) -> Bool[np.ndarray, " i"]:
    """A control task (Hewitt & Liang 2019): random labels, one for each scene, half of the scenes each.

    Whoever recognises scenes solves it: above chance under grouped folds is a leak, and under folds that split
    scenes it is what memory alone would reach.
    """
    scenes, of_clip = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).permutation(np.arange(len(scenes)) % 2 == 0)[of_clip]


def leave_one_property_out(
    features: np.ndarray, possible: np.ndarray, groups: np.ndarray, properties: np.ndarray, model: Any = None
) -> Float[np.ndarray, " i"]:
    """Each clip's log odds by a probe fitted on other properties, and on no scene of the clip's property.

    Args:
        properties: (i,) what each clip violates or would violate.
        model: any two-class estimator, cloned; `estimator()` unless given.

    Raises:
        ValueError: a single property, or scenes so shared that nothing is left to train on.
    """
    labels, logits = check_labels(possible), np.empty(len(possible))
    for held in np.unique(properties):
        test = properties == held
        train = ~np.isin(groups, groups[test])
        if not train.any():
            raise ValueError(
                f"got no scene without property {held!r} · expected scenes of other properties to train on"
                " · pass clips of several properties, each scene with one"
            )
        fresh: Any = clone(model or estimator())
        logits[test] = decide(fresh.fit(features[train], labels[train]), features[test])
    return logits


def learning_curve(
    features: np.ndarray,
    possible: np.ndarray,
    groups: np.ndarray,
    scenes: Sequence[int],
    seeds: Sequence[int] = range(5),
    model: Any = None,
) -> Float[np.ndarray, "scenes seed"]:
    """Accuracy by number of training scenes, on a fifth of the scenes that is the same for all numbers.

    The scenes of a smaller number are among those of a larger one. A seed draws both the fifth and the order.

    Raises:
        ValueError: more training scenes asked for than four fifths.
    """
    labels, names = check_labels(possible), np.unique(groups)
    room = len(names) - len(names) // 5
    if max(scenes) > room or len(names) < 5:
        raise ValueError(f"got {max(scenes)} training scenes of {len(names)} · expected at most {room} of 5 or more")
    reached = np.empty((len(scenes), len(seeds)))
    for column, seed in enumerate(seeds):
        order = np.random.default_rng(seed).permutation(names)
        test = np.isin(groups, order[room:])
        for row, number in enumerate(scenes):
            train = np.isin(groups, order[:number])
            fresh: Any = clone(model or estimator())
            fresh.fit(features[train], labels[train])
            reached[row, column] = ((decide(fresh, features[test]) > 0) == labels[test]).mean()
    return reached
