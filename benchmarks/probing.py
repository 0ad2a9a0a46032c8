"""Seconds of a probe grid beside plain scikit-learn: `python -m benchmarks.probing`.

One cell, grouped folds, several strengths. Plain: StandardScaler and LogisticRegression (lbfgs, same tolerance) refit
for each fold, strength and labelling. Rounds alternate between the two in one process; medians, and the largest
difference of any out-of-fold logit. Permuted labels are timed on `--plain-permutations` of them by scikit-learn and
told for all, since its refits do not share anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.probing import Grid
from dit_lens.stats import swapped_labels


@dataclass(frozen=True)
class Config:
    """Options."""

    clips: int = 512
    """How many; a multiple of 4."""
    width: int = 1536
    """Features of a clip."""
    planted: float = 0.3
    """Shift of ten features by possibility, in their standard deviations."""
    permutations: int = 100
    """Labellings of the second comparison."""
    plain_permutations: int = 5
    """Of these, how many scikit-learn is timed on."""
    solver: str = "lbfgs"
    """Of scikit-learn."""
    rounds: int = 3
    """Turns."""
    seed: int = 0
    """Of features and labels."""


@dataclass(frozen=True)
class Problem:
    """Features of one cell, labels, quadruplets."""

    features: np.ndarray
    possible: np.ndarray
    quadruplets: np.ndarray

    @classmethod
    def of(cls, config: Config) -> Problem:
        """Features with a spectrum that falls as 1 / rank, as activations' does."""
        rng = np.random.default_rng(config.seed)
        mixing = rng.normal(size=(config.width, config.width)) / np.arange(1, config.width + 1)[:, None]
        possible = np.tile([True, True, False, False], config.clips // 4)
        features = rng.normal(size=(config.clips, config.width)) @ mixing
        features[:, :10] += config.planted * features[:, :10].std(0) * np.where(possible, 1, -1)[:, None]
        return cls(features, possible, np.repeat(np.arange(config.clips // 4), 4))

    def fast(self, grid: Grid, labels: np.ndarray) -> np.ndarray:
        """(s, i, t) by the grid."""
        return grid.outputs({0: self.features}, labels, self.quadruplets)[0]

    def plain(self, grid: Grid, labels: np.ndarray, solver: str) -> np.ndarray:
        """(s, i, t) by scikit-learn."""
        logits = np.empty((len(grid.strengths), *labels.shape))
        for train, test in grid.split(self.quadruplets):
            for at, strength in enumerate(grid.strengths):
                for column in range(labels.shape[1]):
                    logistic = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000, solver=solver)  # type: ignore
                    fitted = make_pipeline(StandardScaler(), logistic).fit(self.features[train], labels[train, column])
                    logits[at, test, column] = fitted.decision_function(self.features[test])
        return logits


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds, and what came back."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def compare(config: Config, problem: Problem, labels: np.ndarray, plain: int) -> str:
    """One line: medians of both in turns, their ratio for all labellings, and how far apart the logits are."""
    grid = Grid(progress=False)
    turns = [
        (
            timed(lambda: problem.fast(grid, labels)),
            timed(lambda: problem.plain(grid, labels[:, :plain], config.solver)),
        )
        for _ in range(config.rounds)
    ]
    fast = float(np.median([ours[0] for ours, _ in turns]))
    slow = float(np.median([theirs[0] for _, theirs in turns])) * labels.shape[1] / plain
    apart = max(np.abs(ours[1][..., :plain] - theirs[1]).max() for ours, theirs in turns)
    highest = np.abs(turns[0][1][1]).max()
    return (
        f"{labels.shape[1]:4d} labellings: grid {fast:.2f} s, scikit-learn ({config.solver}) {slow:.2f} s,"
        f" {slow / fast:.1f} x; logits apart {apart:.1e} of {highest:.1f}"
    )


def main(config: Config) -> None:
    """Prints one line for the true labels and one for permuted ones."""
    problem, grid = Problem.of(config), Grid()
    print(f"{config.clips} clips, {config.width} features, {grid.folds} folds, strengths {grid.strengths}")
    print(compare(config, problem, problem.possible[:, None], 1))
    swapped = swapped_labels(problem.possible, problem.quadruplets, config.permutations, config.seed).T
    print(compare(config, problem, swapped, config.plain_permutations))


if __name__ == "__main__":
    main(tyro.cli(Config))
