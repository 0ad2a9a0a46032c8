"""Ridge regression of an object's state from views of it (see `views`), scored by what it adds to the clock.

Predictions are scored against the mean of the latent frame, so that what time alone gives away counts for nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from sklearn.pipeline import Pipeline

from dit_lens.measures.probe_state import SIGHTS, VARIABLES
from dit_lens.probing import Grid, ridge
from dit_lens.stats import best_of
from dit_lens.toy.views import Views

STRENGTHS = tuple(10.0**power for power in range(-6, 1))
FEW = 6  # scenes; a variable that fewer show is not scored
STILL = 1e-6  # what varies less is rounding


def share(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Explained and total by view, the ratio of whose sums is the score: R² against the training mean, or accuracy."""
    if truth.dtype.kind == "U":
        return (truth == predicted).astype(float), np.ones(len(truth))
    variance = train.var(0)
    total = ((truth - train.mean(0)) ** 2 / variance).mean(1)
    return total - ((truth - predicted) ** 2 / variance).mean(1), total


@dataclass(frozen=True, eq=False)
class Clock:
    """Prediction from the latent frame alone: its training mean (the mean of all, for a frame without one)."""

    means: Mapping[int, Float[np.ndarray, " t"]]
    mean: Float[np.ndarray, " t"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "v t"], frame: np.ndarray) -> Clock:
        """The clock of these views."""
        return cls({int(f): values[frame == f].mean(0) for f in np.unique(frame)}, values.mean(0))

    def __call__(self, frame: np.ndarray) -> Float[np.ndarray, "v t"]:
        """The mean of each of these frames."""
        return np.stack([self.means.get(int(f), self.mean) for f in frame])


@dataclass(frozen=True, eq=False)
class Reading:
    """Predictor of a variable: its clock, plus a probe of the features minus their clock."""

    clock: Clock
    features: Clock
    pooling: int
    probe: Pipeline

    @classmethod
    def fit(cls, views: Views, variable: str, place: str, chosen: np.ndarray) -> Reading:
        """A reading fitted on these views; pooling and strength are chosen out of fold."""
        frame, truth = views.frame[chosen], views.truth[variable][chosen]
        grid = Grid(STRENGTHS, folds=3, model="ridge", progress=False)
        clock, clocks = Clock.of(truth, frame), [Clock.of(x[chosen], frame) for x in views.features[place]]
        cells: dict[Hashable, np.ndarray] = {
            i: x[chosen] - mean(frame) for i, (x, mean) in enumerate(zip(views.features[place], clocks, strict=True))
        }
        left = truth - clock(frame)
        scores = grid.scores(cells, left, views.group[chosen]).mean(-1)
        pooling, strength = best_of(scores)
        return cls(clock, clocks[pooling], pooling, ridge(STRENGTHS[strength]).fit(cells[pooling], left))

    def __call__(self, views: Views, place: str, chosen: np.ndarray) -> Float[np.ndarray, "v t"]:
        """Predictions of clock and probe for these views."""
        frame = views.frame[chosen]
        read = np.asarray(self.probe.predict(views.features[place][self.pooling][chosen] - self.features(frame)))
        return self.clock(frame) + read.reshape(len(chosen), -1)


def score(train: Views, test: Views) -> xr.Dataset:
    """`good` and `whole` by sight, variable, place and test scene, the ratio of whose sums is R²; 0 without views."""
    groups, places = np.unique(test.group), list(train.features)
    good, total = np.zeros((2, len(SIGHTS), len(VARIABLES), len(places), len(groups)))
    for (v, variable), (p, place) in product(enumerate(VARIABLES), enumerate(places)):
        columns = _varying(train, variable)
        scored = test.only(variable, columns)
        for sight, parts in _shares(train.only(variable, columns), scored, variable, place):
            rows = test.group[scored.showing(variable, sight > 0)]
            sums = [np.bincount(np.searchsorted(groups, rows), part, len(groups)) for part in parts]
            good[sight, v, p], total[sight, v, p] = sums
    names = ("sight", "variable", "place", "scene")
    coords = {"sight": list(SIGHTS), "variable": list(VARIABLES), "place": places, "scene": groups}
    return xr.Dataset({"good": (names, good), "whole": (names, total)}, coords=coords)


def _varying(train: Views, variable: str) -> Bool[np.ndarray, " t"]:
    """Which components vary, in views of one latent frame, where the object is seen and where it is hidden."""
    columns = np.ones(train.truth[variable].shape[1], bool)
    for hidden in (False, True):
        if len(chosen := train.showing(variable, hidden)):
            truth, frame = train.truth[variable][chosen], train.frame[chosen]
            left = truth - Clock.of(truth, frame)(frame)
            columns &= np.ptp(left, axis=0) > STILL
    return columns


def _shares(
    train: Views, test: Views, variable: str, place: str
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(index of the sight, two columns by test view whose sums have R² as ratio), of those that enough scenes show."""
    readings: list[Reading | None] = [None, None]
    for hidden in (0, 1):
        chosen, asked = train.showing(variable, bool(hidden)), test.showing(variable, bool(hidden))
        if min(len(np.unique(train.group[chosen])), len(np.unique(test.group[asked]))) < FEW:
            continue
        readings[hidden] = fitted = Reading.fit(train, variable, place, chosen)
        base = fitted.clock(test.frame[asked])
        left = train.truth[variable][chosen] - fitted.clock(train.frame[chosen])
        for sight, reading in [(hidden, readings[hidden])] + [(2, readings[0])] * hidden:
            if reading is not None:
                predicted = reading(test, place, asked) - base
                yield sight, share(test.truth[variable][asked] - base, predicted, left)
