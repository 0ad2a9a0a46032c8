"""Controls for a probe's accuracy: permuted labels, labels by scene, held-out properties, learning curves."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.base import clone

from dit_lens import stats
from dit_lens.probing.checks import check_classes, shown
from dit_lens.probing.estimators import decide
from dit_lens.probing.features import Features
from dit_lens.probing.grid import Grid
from dit_lens.probing.linear import FOLDS, STRENGTH, estimator

GRID = Grid((STRENGTH,), folds=FOLDS, progress=False)


@dataclass(frozen=True, eq=False)
class NullTest:
    """Scores of a grid beside those under permuted labels.

    A cell whose score, or any of whose null scores, is NaN has a NaN p-value, is never the best, and leaves the other
    cells' p-values as they would be without it.

    Attributes:
        cells, strengths: coordinates of the axes of the scores.
        observed: (cell, strength); null: (permutation, cell, strength).
    """

    cells: tuple[Hashable, ...]
    strengths: tuple[float, ...]
    observed: Float[np.ndarray, "cell s"]
    null: Float[np.ndarray, "p cell s"]

    @property
    def best(self) -> tuple[Hashable, float]:
        """Cell and strength of the highest score, the first of equals."""
        comparable = stats.scored(self.observed, self.null)
        cell, strength = stats.best_of(np.where(comparable, self.observed, np.nan))
        return self.cells[cell], self.strengths[strength]

    @property
    def p(self) -> float:
        """The chance of a best score as high as this under meaningless labels: corrected for the selection.

        NaN where no cell has a score.
        """
        return float(np.fmin.reduce(self.corrected, axis=None))

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
        return stats.selection_threshold(self.null[:, stats.scored(self.observed, self.null)], level)

    def only(self, cell: Hashable) -> NullTest:
        """The test of one cell chosen beforehand, corrected for the choice of strength only."""
        at = self.cells.index(cell)
        return NullTest((cell,), self.strengths, self.observed[[at]], self.null[:, [at]])


def null_labels(features: Features, count: int, seed: int = 0) -> Bool[np.ndarray, "p i"]:
    """`count` labellings that are as likely as the true one where labels mean nothing.

    Where every scene (or else every group) has as many possible as impossible clips, these trade places in each scene
    (or group) or not: see `stats.swapped_labels`. Where every group has a single label, whole groups draw their labels
    from those of all groups, without replacement.

    Raises:
        ValueError: neither holds; a shuffle within scenes is no null where clips of a scene share frames.
    """
    labels, (names, of_clip) = features.labels, np.unique(features.groups, return_inverse=True)
    for units in (features.scenes, features.groups):
        if not _imbalance(labels, units).any():
            return stats.swapped_labels(labels, units, count, seed)
    share = np.bincount(of_clip, labels) / np.bincount(of_clip)
    if np.isin(share, (0, 1)).all():
        rng = np.random.default_rng(seed)
        return np.stack([rng.permutation(share > 0)[of_clip] for _ in range(count)])
    uneven = np.unique(features.scenes)[_imbalance(labels, features.scenes) != 0].tolist()
    raise ValueError(
        f"got {len(uneven)} scenes with unequal numbers of possible and impossible clips ({shown(uneven)}), and groups"
        f" with both labels among the {len(names)} · expected equal numbers in every scene or group, or one label for"
        " every group · leave these scenes out, or set permutations to 0"
    )


def permutation_test(features: Features, grid: Grid = GRID, count: int = 200, seed: int = 0) -> NullTest:
    """The whole grid again under permuted labels, all permutations in one fit per cell and fold.

    Raises:
        ValueError: see `null_labels` and `Grid.outputs`.
    """
    labels = np.column_stack([features.labels, null_labels(features, count, seed).T])
    scores = grid.scores(features.cells, labels, features.groups)
    return NullTest(tuple(features.cells), grid.strengths, scores[..., 0], np.moveaxis(scores[..., 1:], -1, 0))


def scene_labels(groups: np.ndarray, seed: int = 0) -> Bool[np.ndarray, " i"]:
    """A control task (Hewitt & Liang 2019): random labels, one for each scene, half of the scenes each.

    A probe that recognises scenes solves it: accuracy above chance is a leak under grouped folds, and the accuracy of
    memory alone under folds that split scenes.
    """
    scenes, of_clip = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).permutation(np.arange(len(scenes)) % 2 == 0)[of_clip]


def leave_one_property_out(
    features: Features, cell: Hashable | None = None, model: Any = None
) -> Float[np.ndarray, " i"]:
    """Each clip's log odds by a probe fitted on other properties, and on no group of the clip's property.

    Args:
        cell: which features; needed where there are several cells.
        model: any two-class estimator, cloned; `estimator()` unless given.

    Raises:
        ValueError: a single property, or groups so shared that nothing is left to train on; several cells and no
            choice among them.
    """
    x, labels, groups = _of_cell(features, cell), features.labels, features.groups
    properties, logits = features.properties, np.empty(len(features))
    for held_out_property in np.unique(properties):
        test = properties == held_out_property
        train = ~np.isin(groups, groups[test])
        if not train.any():
            raise ValueError(
                f"got no scene without property {held_out_property!r} · expected scenes of other properties to train on"
                " · pass scenes of several properties"
            )
        check_classes(labels[train])
        fresh: Any = clone(model or estimator())
        logits[test] = decide(fresh.fit(x[train], labels[train]), x[test])
    return logits


def learning_curve(
    features: Features,
    groups: Sequence[int],
    seeds: Sequence[int] = range(5),
    cell: Hashable | None = None,
    model: Any = None,
) -> Float[np.ndarray, "groups seed"]:
    """Accuracy by number of training groups, tested on one held-out fifth of the groups for all numbers.

    The groups of a smaller number are among those of a larger one. A seed draws both the fifth and the order.

    Args:
        groups: how many groups to train on, one row of the result each.
        cell: which features; needed where there are several cells.
        model: any two-class estimator, cloned; `estimator()` unless given.

    Raises:
        ValueError: more training groups asked for than four fifths.
    """
    x, labels, of_clip = _of_cell(features, cell), features.labels, features.groups
    names = np.unique(of_clip)
    room = len(names) - len(names) // 5
    if not len(groups) or not 0 < min(groups) <= max(groups) <= room or len(names) < 5:
        raise ValueError(
            f"got {tuple(groups)} training groups of {len(names)} · expected numbers from 1 to {room}, and 5 or more"
            " groups · a fifth of the groups is held out for scoring"
        )
    reached = np.empty((len(groups), len(seeds)))
    for column, seed in enumerate(seeds):
        order = np.random.default_rng(seed).permutation(names)
        test = np.isin(of_clip, order[room:])
        for row, number in enumerate(groups):
            train = np.isin(of_clip, order[:number])
            check_classes(labels[train])
            fresh: Any = clone(model or estimator())
            fresh.fit(x[train], labels[train])
            reached[row, column] = ((decide(fresh, x[test]) > 0) == labels[test]).mean()
    return reached


def _imbalance(labels: Bool[np.ndarray, " i"], units: Shaped[np.ndarray, " i"]) -> Float[np.ndarray, " unit"]:
    """Possible minus impossible clips of each unit, in sorted order."""
    return np.bincount(np.unique(units, return_inverse=True)[1], np.where(labels, 1.0, -1.0))


def _of_cell(features: Features, cell: Hashable | None) -> Float[np.ndarray, "i d"]:
    """The features of a cell, or of the only one, in float64."""
    if cell is None and len(features.cells) > 1:
        raise ValueError(
            f"got {len(features.cells)} cells and no chosen cell · expected one · pass cell=, a key along"
            f" {features.dims}"
        )
    key = next(iter(features.cells)) if cell is None else features.check_key(cell)
    return features.cells[key].astype(np.float64, copy=False)
