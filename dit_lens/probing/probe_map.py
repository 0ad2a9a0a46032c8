"""One call from features to a table, a map, a null, and the frozen probe of the chosen cell."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from dit_lens import stats
from dit_lens.metrics import Readout
from dit_lens.probing.affine import Affine
from dit_lens.probing.controls import NullTest, permutation_test
from dit_lens.probing.features import Features
from dit_lens.probing.grid import Grid
from dit_lens.probing.linear import FOLDS, STRENGTH, Probe
from dit_lens.probing.scoring import Scores, score
from dit_lens.probing.tables import Key


def fit(
    features: Features,
    *,
    cell: Hashable | None = None,
    strengths: tuple[float, ...] = (STRENGTH,),
    folds: int = FOLDS,
    rule: stats.Rule = "one_error",
    permutations: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> ProbeMap:
    """Logistic probes of possible against impossible clips in every cell, and one cell chosen out of fold.

    Every cell is scored out of fold, with each group on one side of every split; one is chosen there, and its probe is
    fitted on all clips. Measure its accuracy on other clips, or against the null of the same choice.

        probes = probing.fit(train, permutations=200)   # Features of 50 cells (step, block), 1320 clips of 330 scenes
        probes                      # The best of 50 cells is step 14, block 5: accuracy 0.605 [0.573, 0.636] ...
        probes.table().head()       # cells, best first, with intervals and p corrected for the choice among all 50
        probes.scores(test)         # Scores(accuracy=0.56, d_prime=0.95, ...) on clips that neither chose nor trained
        probes.logit                # the frozen probe as a metric: patch_heads(..., metric=probes.logit)

    Args:
        features: clips with labels (see `Features.labelled`).
        cell: the cell to take; unless given, the one that `rule` chooses by accuracy out of fold.
        strengths: inverse penalties to choose from, scikit-learn's C; the choice is made together with the cell.
        folds: grouped folds.
        rule: "one_error" takes the first cell within one standard error over groups of the most accurate, so that
            rounding does not decide between cells that read equally well; "best" the most accurate one.
        permutations: labellings of the null, at least 19 for p = .05; 0 for no null. 200 of them cost about as much as
            fitting the grid 20 times.
        seed: of the null.
        progress: a bar over cells.

    Raises:
        ValueError: an unknown label or a single class, fewer groups than folds, a cell that is not there, or labels
            that cannot be permuted (see `controls.null_labels`).
    """
    grid = Grid(tuple(strengths), folds=folds, rule=rule, progress=progress)
    chosen = None if cell is None else features.check_key(cell)
    labels, keys = features.labels, list(features.cells)
    outputs = grid.outputs(features.cells, labels, features.groups)
    candidates = list(range(len(keys))) if chosen is None else [keys.index(chosen)]
    place, strength = grid.chosen(outputs[candidates], labels, features.groups)
    best = candidates[place]
    null = permutation_test(features, grid, permutations, seed) if permutations else None
    return ProbeMap(features, grid, keys[best], grid.strengths[strength], chosen is None, outputs[:, strength], null)


@dataclass(frozen=True, eq=False, repr=False)
class ProbeMap:
    """Probes of every cell of some features, and the chosen cell: the result of `fit`.

    Logits are converged to about 1e-6 of their spread. scikit-learn at its default tolerance, as in `estimator` and
    `Probe.fit`, stays within about 1e-2 of them, so that a few clips per thousand may fall on the other side of 0.

    Attributes:
        features: the clips that the probes are fitted on.
        grid: folds and strengths.
        cell, strength: the choice.
        selected: whether the cell was chosen by its accuracy; else it was requested.
        logits_out_of_fold: (cell, i) of each training clip by probes fitted on other groups, at `strength`.
        null: scores of the whole grid under permuted labels, where permutations were requested.
    """

    features: Features
    grid: Grid
    cell: Key
    strength: float
    selected: bool
    logits_out_of_fold: Float[np.ndarray, "cell i"]
    null: NullTest | None
    _fits: dict[tuple[Key, str | None], Affine] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        """One sentence that says which cell, how accurate, and how much better than chance."""
        accuracy, low, high = (float(x[list(self.features.cells).index(self.cell)]) for x in self._accuracies)
        cell = ", ".join(f"{dim} {value}" for dim, value in zip(self.features.dims, self.cell, strict=True))
        subject = f"{self._chosen_as} is {cell}"
        null = f"{len(self.null.null)} permuted labellings" if self.null else ""
        chance = f", p = {self.p:.3g} by {null}{' for the best cell' * self.selected}" if self.null else ""
        return (
            f"{subject}: accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}] out of fold on {len(self.features)} clips of"
            f" {len(np.unique(self.features.groups))} groups{chance}."
        )

    @property
    def _chosen_as(self) -> str:
        cells, accuracies = list(self.features.cells), self._accuracies[0]
        if not self.selected:
            return "The cell"
        if accuracies[cells.index(self.cell)] >= accuracies.max():
            return f"The best of {len(cells)} cells"
        return f"The first of {len(cells)} cells within one standard error of the best"

    @property
    def accuracy(self) -> Float[xr.DataArray, "*dims"]:
        """Share of clips on the right side of 0, out of fold, by cell."""
        return self.features.over_cells(self._accuracies[0]).rename("accuracy")

    @property
    def accuracy_interval(self) -> Float[xr.DataArray, "*dims bound"]:
        """95% intervals over groups, by cell (see `stats.ratio_interval`).

        It is biased upward for the cell that was chosen for its accuracy: see `p`, or test on other clips.
        """
        bounds = np.stack(self._accuracies[1:], axis=-1)
        return self.features.over_cells(bounds, {"bound": ["low", "high"]}).rename("accuracy_interval")

    @property
    def p(self) -> float:
        """Chance that the chosen cell scores as high where labels mean nothing; NaN without permutations.

        Corrected for the choice among cells and strengths (against the most accurate of all, under every labelling);
        for a requested cell, among strengths alone.
        """
        if self.null is None:
            return np.nan
        null = self.null if self.selected else self.null.only(self.cell)
        return float(null.corrected[null.cells.index(self.cell), self.grid.strengths.index(self.strength)])

    def table(self) -> pd.DataFrame:
        """Cells with accuracy, its 95% interval, and p corrected for the choice among all; best first."""
        rows = pd.DataFrame(list(self.features.cells), columns=list(self.features.dims))
        rows["accuracy"], rows["low"], rows["high"] = self._accuracies
        at = self.grid.strengths.index(self.strength)
        rows["p"] = np.nan if self.null is None else self.null.corrected[:, at]
        return rows.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)

    @cached_property
    def probe(self) -> Probe | None:
        """The frozen probe of the chosen cell, fitted on all clips; None where the features are no activation.

        By scikit-learn's solver at its default tolerance; `logits` are of the same problem, solved further.
        """
        reads, frames = self.features.reads(*self.cell), self.features.parts if self.features.parts > 1 else None
        if reads is None:
            return None
        x, labels, groups = self.features.cells[self.cell], self.features.labels, self.features.groups
        return Probe.fit(x, labels, groups, reads, frames, self.grid.folds, self.strength)

    @property
    def logit(self) -> Readout:
        """The metric (velocity, cache) -> (b,) of the frozen probe, differentiable.

        Raises:
            ValueError: the features are no activation.
        """
        if self.probe is None:
            raise ValueError(
                f"got features {self.features.name!r} with point {self.features.point!r} · expected activations of a"
                " hook point, by step and block · a metric needs an activation to read; use logits(test) instead"
            )
        return self.probe.logit

    def logits(self, test: Features, cell: Hashable | None = None) -> Float[xr.DataArray, " clip"]:
        """Log odds of other clips by the probe of the chosen cell (or of another), fitted on all training clips.

        Raises:
            ValueError: there is no such cell, or the other clips were not read as the training clips were.
        """
        key = self.cell if cell is None else self.features.check_key(cell)
        return _by_clip(self._values(test, key), test)

    def all_logits(self, test: Features) -> Float[xr.DataArray, "clip *dims"]:
        """Log odds of other clips by the probe of every cell.

        Raises:
            ValueError: see `logits`.
        """
        values = np.stack([self._values(test, key) for key in self.features.cells])
        grid = self.features.over_cells(values, {"clip": test.clips.id.tolist()})
        return grid.transpose("clip", ...).assign_coords(_by_clip(values[0], test).coords).rename("logit")

    def scores(self, test: Features, cell: Hashable | None = None) -> Scores:
        """Accuracy and every other measure (see `scoring.Scores`) on other clips, with intervals over their groups.

        Raises:
            ValueError: see `logits` and `scoring.score`; an unknown label among the other clips.
        """
        return score(self.logits(test, cell).values, test.labels, test.groups, test.scenes, test.crossed_roles)

    def left_out(self, test: Features) -> Float[xr.DataArray, " clip"]:
        """Log odds of each property's clips by a probe fitted on all other properties, at the chosen cell.

        Where the training clips have a single property, the probe is theirs. The cell was chosen with all properties.

        Raises:
            ValueError: see `logits`.
        """
        return self._by_property(test, lambda law: (self.cell, law if self._laws - {law} else None))

    def chosen_by_property(self, test: Features) -> Float[xr.DataArray, " clip"]:
        """Log odds of each property's clips at the cell that the training clips of this property choose.

        The probe is fitted on the training clips of all properties. A property without any is read at `cell`.

        Raises:
            ValueError: see `logits`.
        """
        return self._by_property(test, lambda law: (self.best_cell(law), None))

    def best_cell(self, law: str) -> Key:
        """The cell that the clips of one property choose out of fold, by the rule of the grid."""
        of_law = self.features.properties == law
        return self._choose(list(self.features.cells), of_law) if of_law.any() else self.cell

    def cell_of(self, **values: Any) -> Key:
        """The cell that all clips choose out of fold among some: `cell_of(step=14)`, by the rule of the grid.

        Raises:
            ValueError: an unknown dimension, or values that no cell has.
        """
        return self._choose(list(self.features.select(**values).cells), np.ones(len(self.features), bool))

    def _choose(self, among: Sequence[Key], clips: Bool[np.ndarray, " i"]) -> Key:
        rows = [list(self.features.cells).index(key) for key in among]
        outputs, single = self.logits_out_of_fold[rows][:, None, clips], replace(self.grid, strengths=(self.strength,))
        return among[single.chosen(outputs, self.features.labels[clips], self.features.groups[clips])[0]]

    @property
    def _right(self) -> Bool[np.ndarray, "cell i"]:
        return (self.logits_out_of_fold > 0) == self.features.labels

    @cached_property
    def _accuracies(self) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
        """Accuracy and the ends of its interval."""
        of_clip = np.unique(self.features.groups, return_inverse=True)[1]
        right = np.stack([np.bincount(of_clip, row) for row in self._right], axis=-1)
        counts = np.broadcast_to(np.bincount(of_clip)[:, None], right.shape)
        return stats.ratio_interval(right, counts, bounds=stats.SHARE)

    @property
    def _laws(self) -> set[str]:
        return set(self.features.properties.tolist())

    def _affine(self, key: Key, without: str | None) -> Affine:
        """The probe of a cell, fitted on all training clips or on all but those of one property."""
        if (key, without) not in self._fits:
            train = np.ones(len(self.features), bool) if without is None else self.features.properties != without
            x, labels = self.features.cells[key], self.features.labels
            self._fits[key, without] = Affine.fit(x[train], labels[train], self.strength)
        return self._fits[key, without]

    def _values(self, test: Features, key: Key, without: str | None = None) -> Float[np.ndarray, " i"]:
        self.features.check_like(test, [key])
        return self._affine(key, without)(test.cells[key])

    def _by_property(self, test: Features, probe: Callable[[str], tuple[Key, str | None]]) -> xr.DataArray:
        values, laws = np.empty(len(test)), test.properties
        for law in np.unique(laws):
            of_law = laws == law
            values[of_law] = self._values(test, *probe(law.item()))[of_law]
        return _by_clip(values, test)


def _by_clip(values: Float[np.ndarray, " i"], clips: Features) -> Float[xr.DataArray, " clip"]:
    """One number per clip, with the metadata of the clips as coordinates."""
    columns = {column: ("clip", clips.clips[column].tolist()) for column in ("scene", "group", "role", "property")}
    return xr.DataArray(values, {"clip": clips.clips.id.tolist(), **columns}, "clip", "logit")
