"""Probes over a grid of cells: every strength and labelling from one rotation per cell and fold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from joblib import Parallel, delayed
from sklearn.model_selection import GroupKFold
from tqdm.auto import tqdm

from dit_lens.probing.affine import Affine
from dit_lens.probing.checks import (
    check_features,
    check_finite,
    check_groups,
    check_labels,
    check_logits,
    check_strengths,
)
from dit_lens.probing.rotation import Rotation
from dit_lens.probing.solvers import Fit, logistic, ridge, with_intercept
from dit_lens.stats import Rule, choose, ratio_error

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Cells = Mapping[Hashable, np.ndarray]


def accuracy(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Fraction of clips on the right side of 0; targets (i, t), logits (..., i, t) -> (..., t).

    Raises:
        ValueError: NaN among the logits.
    """
    check_logits(logits)
    return ((logits > 0) == (targets > 0)).mean(-2)


def r_squared(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 - residual / total sum of squares; targets (i, t), predicted (..., i, t) -> (..., t).

    NaN of a target that is the same for all clips.
    """
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    varies = np.ptp(targets, axis=0) > 0
    return np.where(varies, 1 - ((predicted - targets) ** 2).sum(-2) / np.where(varies, total, 1), np.nan)


def standard_error(
    model: str, targets: np.ndarray, outputs: np.ndarray, groups: np.ndarray
) -> Float[np.ndarray, "*cells t"]:
    """Standard error over groups of the score of a model (accuracy, R²); targets (i, t), outputs (..., i, t)."""
    of_clip = np.unique(groups, return_inverse=True)[1]
    by_clip = ((outputs > 0) == (targets > 0)) if model == "logistic" else (outputs - targets) ** 2
    weight = np.ones(targets.shape) if model == "logistic" else (targets - targets.mean(0)) ** 2
    scenes, outcomes = int(of_clip.max()) + 1, targets.shape[1]
    parts = [np.zeros((scenes, *x.shape[:-2], outcomes)) for x in (by_clip, weight)]
    for part, values in zip(parts, (by_clip, weight), strict=True):
        np.add.at(part, of_clip, np.moveaxis(values, -2, 0))
    over, under = parts
    wide = under.reshape(len(under), *(1,) * (over.ndim - 2), under.shape[-1])
    return ratio_error(over, np.broadcast_to(wide, over.shape))


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
        rule: how a cell and a strength are chosen: "one_error", the first cell, and in it the strongest penalty, whose
            score is within one standard error over groups of the best; or "best" (see `stats.choose`).
        n_jobs: cells at once, in joblib's sense.
        progress: a bar over cells.
    """

    strengths: tuple[float, ...] = STRENGTHS
    folds: int = 5
    inner: int = 4
    model: Literal["logistic", "ridge"] = "logistic"
    rule: Rule = "one_error"
    n_jobs: int = 1
    progress: bool = True

    def outputs(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Float[np.ndarray, "cell s i *t"]:
        """Out-of-fold logits (or predicted states) of every cell and strength.

        Args:
            cells: key -> (i, d) features; d may differ between cells.
            targets: (i,), or (i, t) for several labellings or states at once.
            groups: (i,) clips of one group (a scene, a quadruplet) are never on both sides.

        Raises:
            ValueError: a cell, the targets and the groups differ in their number of clips; non-finite features;
                labels that are no booleans, or states that are not finite; fewer groups than folds; a fold with one
                class.
        """
        wide = self._checked(cells, targets, groups)
        return _like(targets, np.stack(list(self._over(cells, self._outputs, wide, groups))))

    def scores(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Float[np.ndarray, "cell s *t"]:
        """Accuracy (or R²) out of fold of every cell and strength; keeps no logits, for many labellings."""
        wide = self._checked(cells, targets, groups)
        return _like(targets, np.stack(list(self._over(cells, self._scores, wide, groups))))

    def nested(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> Nested:
        """Outputs by probes chosen inside the training folds, over cells and strengths together.

        The choice goes by the score of inner grouped folds (see `rule`).
        """
        wide = self._checked(cells, targets, groups)
        results = list(self._over(cells, self._outputs_and_inner_scores, wide, groups))
        outside, inside = np.stack([result[0] for result in results]), np.stack([result[1] for result in results])
        folds = range(inside.shape[1])
        chosen = [[self.choose(*inside[:, f, :, :, at].swapaxes(0, 1)) for at in range(wide.shape[1])] for f in folds]
        cell, strength = np.moveaxis(np.array(chosen), -1, 0)
        outputs = np.empty(wide.shape)
        for fold, (_, test) in enumerate(self.split(groups)):
            for at in range(wide.shape[1]):
                outputs[test, at] = outside[cell[fold, at], strength[fold, at], test, at]
        return Nested(_like(targets, outputs), _like(targets, cell), _like(targets, strength))

    def chosen(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> tuple[int, int]:
        """The cell and strength that out-of-fold outputs (cell, s, i) of one labelling choose, as indices (see `rule`).

        Raises:
            ValueError: no cell has a score.
        """
        wide, results = targets[:, None], outputs[..., None]
        errors = standard_error(self.model, wide, results, groups)
        return self.choose(MODELS[self.model][1](wide, results)[..., 0], errors[..., 0])

    def choose(self, scores: Float[np.ndarray, "cell s"], errors: Float[np.ndarray, "cell s"]) -> tuple[int, int]:
        """The cell and strength that scores with their standard errors choose, as indices (see `rule`)."""
        strongest_first = np.argsort(self.strengths, kind="stable")
        cell, place = choose(scores[:, strongest_first], errors[:, strongest_first], self.rule)
        return cell, int(strongest_first[place])

    def split(self, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(train, test) clips of each fold; depends on the groups alone.

        Raises:
            ValueError: fewer groups than folds.
        """
        check_groups(groups, self.folds)
        return list(GroupKFold(self.folds).split(groups, groups=groups))

    def _over(self, cells: Cells, function: Callable, targets: np.ndarray, groups: np.ndarray) -> Iterable:
        jobs = (delayed(function)(features, targets, groups) for features in cells.values())
        done = Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs)
        return tqdm(done, total=len(cells), desc="cells", disable=not self.progress)

    def _fold(self, features: np.ndarray, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        alone = self.model == "logistic" and len(self.strengths) * targets.shape[1] == 1
        if alone and len(train) >= features.shape[1]:
            fitted = Affine.fit(features[train], targets[train, 0], self.strengths[0])
            return fitted(features[test])[None, :, None]
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

    def _outputs_and_inner_scores(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Out-of-fold outputs (s, i, t), and inner scores with their errors, by outer fold (folds, 2, s, t)."""
        inner, inside = replace(self, folds=self.inner), list[np.ndarray]()
        for train, _ in self.split(groups):
            outputs = inner._outputs(features[train], targets[train], groups[train])
            errors = standard_error(self.model, targets[train], outputs, groups[train])
            inside.append(np.stack([MODELS[self.model][1](targets[train], outputs), errors]))
        return self._outputs(features, targets, groups), np.stack(inside)

    def _checked(self, cells: Cells, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The targets as (i, t): booleans for "logistic", finite numbers for "ridge"."""
        counts = {len(targets), len(groups), *(len(features) for features in cells.values())}
        if not cells or len(counts) != 1 or targets.ndim > 2:
            raise ValueError(
                f"got {len(cells)} cells, targets of shape {targets.shape} and numbers of clips {sorted(counts)} ·"
                " expected cells, targets and groups of the same clips · select the clips that they share"
            )
        check_features(cells)
        check_strengths(self.strengths)
        wide = targets[:, None] if targets.ndim == 1 else targets
        if self.model == "logistic":
            return wide if wide.dtype == bool else check_labels(wide).reshape(wide.shape)
        check_finite("states", wide)
        return wide


def _like(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values without the axis of labellings if there is a single labelling."""
    return values[..., 0] if targets.ndim == 1 else values
