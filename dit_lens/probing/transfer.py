"""Transfer of probes: trained on some clips, tested on another data set, property, seed, or any other clips."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

from dit_lens.probing.affine import Affine
from dit_lens.probing.controls import GRID
from dit_lens.probing.features import Features
from dit_lens.probing.grid import Grid


@dataclass(frozen=True, eq=False)
class Carried:
    """Log odds of other clips by a probe of the training clips.

    Attributes:
        cell, strength: the choice, by accuracy out of fold on the clips it was fitted on (see `Grid.rule`).
        inside: that accuracy, which is selected and so too high.
        logits: (j,) of the other clips.
    """

    cell: Hashable
    strength: float
    inside: float
    logits: Float[np.ndarray, " j"]


def carry(train: Features, test: Features, grid: Grid = GRID) -> Carried:
    """Log odds of other clips by a probe that `train` alone chose (cell and strength) and fitted.

    `probing.fit(train).logits(test)` is the same with a table; this is faster where many are needed.

    Args:
        test: other clips, in the cells of `train`; their labels are not used.
        grid: strengths and folds; "logistic".

    Raises:
        ValueError: other cells or widths than `train` has, a single label, or fewer groups than folds.
    """
    train.check_like(test, {*train.cells, *test.cells})
    labels = train.labels
    outputs = grid.outputs(train.cells, labels, train.groups)
    at, best = grid.chosen(outputs, labels, train.groups)
    inside = float(((outputs[at, best] > 0) == labels).mean())
    key, strength = list(train.cells)[at], grid.strengths[best]
    logits = Affine.fit(train.cells[key], labels, strength)(test.cells[key])
    return Carried(key, strength, inside, logits)


def transfer(
    clips: Features, domains: Shaped[np.ndarray, " i"] | str, grid: Grid = GRID
) -> dict[Hashable, Float[np.ndarray, " i"]]:
    """Log odds of every clip by a probe of each domain in turn, never fitted on the clip's group.

    A domain is a data set, a property, a seed of the data or of the model: what each clip belongs to. Groups are split
    before domains are looked at, so that a scene that occurs in several is never on both sides, and the accuracy in a
    domain of its probe can be held against that of the others' probes.

    Args:
        clips: of all domains.
        domains: which one each clip is of; or a column of `clips.clips`, such as "property".
        grid: as for `carry`; cell and strength are chosen by `grid.inner` folds inside the training clips.

    Raises:
        ValueError: see `carry`.
    """
    names = np.array(clips.clips[domains].tolist()) if isinstance(domains, str) else domains
    inner, logits = replace(grid, folds=grid.inner), {}
    for name in np.unique(names):
        logits[name.item()] = np.empty(len(clips))
        for train, test in grid.split(clips.groups):
            inside = train[names[train] == name]
            logits[name.item()][test] = carry(clips.at(inside), clips.at(test), inner).logits
    return logits
