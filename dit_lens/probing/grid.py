"""Probes over a grid of cells: every strength and labelling from one rotation per cell and fold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from joblib import Parallel, delayed
from sklearn.model_selection import GroupKFold
from tqdm.auto import tqdm

from dit_lens.probing.rotation import Rotation
from dit_lens.probing.solvers import Fit, logistic, ridge, with_intercept

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Cells = Mapping[Hashable, np.ndarray]


def accuracy(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Fraction of clips on the right side of 0; targets (i, t), logits (..., i, t) -> (..., t)."""
    return ((logits > 0) == (targets > 0)).mean(-2)


def r_squared(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 - residual / total sum of squares; targets (i, t), predicted (..., i, t) -> (..., t)."""
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    return 1 - ((predicted - targets) ** 2).sum(-2) / total


MODELS: dict[str, tuple[Fit, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "logistic": (logistic, accuracy),
    "ridge": (ridge, r_squared),
}


@dataclass(frozen=True, eq=False)
class Nested:
    """Outputs by probes whose cell and strength were chosen inside the training folds.

    Attributes:
        outputs: (i, t) of each clip by the chosen probe of its fold; (i,) for one labelling.
        cell, strength: (folds, t) the choice, as an index into the cells and the strengths; (folds,) for one labelling.
    """

    outputs: Float[np.ndarray, "i *t"]
    cell: Int[np.ndarray, "folds *t"]
    strength: Int[np.ndarray, "folds *t"]


@dataclass(frozen=True)
class Grid:
    """Linear probes over cells (block, step, hook point, pooling: any key) with grouped folds.

    Attributes:
        strengths: inverse penalties; scikit-learn's C, and 1 / alpha of ridge.
        folds, inner: grouped folds outside and, where something is chosen, inside.
        model: "logistic" for labels, "ridge" for continuous state.
        n_jobs: cells at once, in joblib's sense.
        progress: a bar over cells.
    """

    strengths: tuple[float, ...] = STRENGTHS
    folds: int = 5
    inner: int = 4
    model: Literal["logistic", "ridge"] = "logistic"
    n_jobs: int = 1
    progress: bool = True

    def outputs(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Float[np.ndarray, "cell s i *t"]:
        """Out-of-fold logits (or predicted states) of every cell and strength.

        Args:
            cells: key -> (i, d) features; d may differ between cells.
            targets: (i,), or (i, t) for several labellings or states at once.
            groups: (i,) clips of one group (a scene, a quadruplet) are never on both sides.

        Raises:
            ValueError: a cell, the targets and the groups differ in their number of clips; a fold with one class.
        """
        wide = _checked(cells, targets, groups)
        return _like(targets, np.stack(list(self._over(cells, self._outputs, wide, groups))))

    def scores(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Float[np.ndarray, "cell s *t"]:
        """Accuracy (or R²) out of fold of every cell and strength; keeps no logits, for many labellings."""
        wide = _checked(cells, targets, groups)
        return _like(targets, np.stack(list(self._over(cells, self._scores, wide, groups))))

    def nested(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Nested:
        """Outputs by probes chosen inside the training folds, over cells and strengths together.

        The choice goes by the score of inner grouped folds; of equal scores the first cell and strength is taken.
        """
        wide = _checked(cells, targets, groups)
        found = list(self._over(cells, self._both, wide, groups))
        outside, inside = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
        best = rearrange(inside, "cell folds s t -> folds t (cell s)").argmax(-1)
        cell, strength = np.divmod(best, len(self.strengths))
        chosen = np.empty(wide.shape)
        for fold, (_, test) in enumerate(self.split(groups)):
            for at in range(wide.shape[1]):
                chosen[test, at] = outside[cell[fold, at], strength[fold, at], test, at]
        return Nested(_like(targets, chosen), _like(targets, cell), _like(targets, strength))

    def split(self, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(train, test) clips of each fold; depends on the groups alone."""
        return list(GroupKFold(self.folds).split(groups, groups=groups))

    def _over(self, cells: Cells, function: Callable, targets: np.ndarray, groups: np.ndarray) -> Iterable:
        jobs = (delayed(function)(features, targets, groups) for features in cells.values())
        done = Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs)
        return tqdm(done, total=len(cells), desc="cells", disable=not self.progress)

    def _fold(self, features: np.ndarray, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        rotation = Rotation.of(features[train])
        weights = MODELS[self.model][0](rotation, targets[train], self.strengths)
        return with_intercept(rotation(features[test])) @ weights

    def _outputs(self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        outputs = np.empty((len(self.strengths), *targets.shape))
        for train, test in self.split(groups):
            outputs[:, test] = self._fold(features, targets, train, test)
        return outputs

    def _scores(self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        return MODELS[self.model][1](targets, self._outputs(features, targets, groups))

    def _both(self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs outside, (s, i, t), and for each outer fold the scores inside its training clips, (folds, s, t)."""
        inner = replace(self, folds=self.inner)
        inside = [inner._scores(features[train], targets[train], groups[train]) for train, _ in self.split(groups)]
        return self._outputs(features, targets, groups), np.stack(inside)


def _checked(cells: Cells, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    counts = {len(targets), len(groups), *(len(features) for features in cells.values())}
    if not cells or len(counts) != 1 or targets.ndim > 2:
        raise ValueError(
            f"got {len(cells)} cells, targets of shape {targets.shape} and numbers of clips {sorted(counts)}"
            " · expected cells, targets and groups of the same clips · select the clips they share"
        )
    return targets[:, None] if targets.ndim == 1 else targets


def _like(targets: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Without the axis of labellings where one labelling was given."""
    return found[..., 0] if targets.ndim == 1 else found
