"""Train here, test there: on another data set, property, seed, or on any other clips."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from dit_lens.probing.grid import MODELS, Cells, Grid
from dit_lens.probing.linear import FOLDS, STRENGTH, check_labels
from dit_lens.probing.rotation import Rotation
from dit_lens.probing.solvers import with_intercept

GRID = Grid((STRENGTH,), folds=FOLDS, progress=False)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Clips with features by cell, labels, and the groups that stay on one side of every split."""

    cells: Cells
    labels: Bool[np.ndarray, " i"]
    groups: Shaped[np.ndarray, " i"]

    def at(self, clips: Int[np.ndarray, " j"]) -> Labelled:
        """Some of the clips."""
        return Labelled({key: x[clips] for key, x in self.cells.items()}, self.labels[clips], self.groups[clips])


@dataclass(frozen=True, eq=False)
class Carried:
    """What a probe of some clips says of others.

    Attributes:
        cell, strength: the choice, by accuracy out of fold on the clips it was fitted on; the first of equals.
        inside: that accuracy, which is selected and so too high.
        logits: (j,) of the other clips.
    """

    cell: Hashable
    strength: float
    inside: float
    logits: Float[np.ndarray, " j"]


def carry(train: Labelled, cells: Cells, grid: Grid = GRID) -> Carried:
    """Log odds of other clips by a probe that `train` alone chose (cell and strength) and fitted.

    Args:
        cells: features (j, d) of the other clips, in the cells of `train`.
        grid: strengths and folds; "logistic".

    Raises:
        ValueError: other cells or widths than `train` has, a single label, or fewer groups than folds.
    """
    labels = check_labels(train.labels)
    widths, others = ({key: x.shape[1] for key, x in part.items()} for part in (train.cells, cells))
    if widths != others:
        raise ValueError(
            f"got {len(others)} cells of widths {sorted(set(others.values()))} · expected the {len(widths)} that the"
            f" probe was fitted on, of widths {sorted(set(widths.values()))} · read both by the same model and pooling"
        )
    if len(np.unique(train.groups)) < grid.folds:
        raise ValueError(
            f"got {len(np.unique(train.groups))} groups to train on · expected at least {grid.folds}, one for each fold"
        )
    inside = grid.scores(train.cells, labels, train.groups)
    at, best = np.unravel_index(inside.argmax(), inside.shape)
    key, strength = list(train.cells)[at], grid.strengths[best]
    rotation = Rotation.of(train.cells[key])
    weights = MODELS[grid.model][0](rotation, labels[:, None], (strength,))[0]
    logits = (with_intercept(rotation(cells[key])) @ weights)[:, 0]
    return Carried(key, strength, float(inside.max()), logits)


def transfer(
    clips: Labelled, domains: Shaped[np.ndarray, " i"], grid: Grid = GRID
) -> dict[Hashable, Float[np.ndarray, " i"]]:
    """Log odds of every clip by a probe of each domain in turn, never fitted on the clip's own group.

    A domain is a data set, a property, a seed of the data or of the model: what each clip belongs to. Groups are split
    before domains are looked at, so that a scene that occurs in several is never on both sides, and what is told of a
    domain by its own probe can be held against what the others tell.

    Args:
        clips: of all domains.
        domains: which one each clip is of.
        grid: as for `carry`; cell and strength are chosen by `grid.inner` folds inside the training clips.

    Raises:
        ValueError: see `carry`.
    """
    inner, found = replace(grid, folds=grid.inner), {}
    for name in np.unique(domains):
        logits = np.empty(len(domains))
        for train, test in grid.split(clips.groups):
            own = train[domains[train] == name]
            logits[test] = carry(clips.at(own), clips.at(test).cells, inner).logits
        found[name.item()] = logits
    return found
