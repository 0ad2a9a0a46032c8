"""R² of state variables read off views of clips by ridge regression, against what the latent frame alone tells."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from sklearn.pipeline import Pipeline

from analyses.decode_states import share
from dit_lens import stats
from dit_lens.probing import Grid, ridge

VARIABLES = {
    "position": "position (px)",
    "velocity": "velocity (px/frame)",
    "acceleration": "acceleration (px/frame²)",
    "incline": "incline angle (degrees)",
    "contact": "time to contact (frames)",
}
SIGHTS = ("seen", "hidden", "hidden, by the probe of the seen")
STRENGTHS = tuple(10.0**power for power in range(-6, 1))
FEW = 6  # quadruplets; a variable that fewer show is not scored
STILL = 1e-6  # what varies less is rounding


@dataclass(frozen=True, eq=False)
class Views:
    """Latent frames of clips in which the object is either in sight or hidden, one row each.

    Attributes:
        features: by place ("x_σ", "0", "1", ...), all tokens side by side and their mean.
        truth: by variable, NaN where a view has none.
        group: each view's quadruplet; frame: its latent frame; hidden: whether the object is.
    """

    features: Mapping[str, tuple[Float[np.ndarray, "v nd"], Float[np.ndarray, "v d"]]]
    truth: Mapping[str, Float[np.ndarray, "v t"]]
    group: np.ndarray
    frame: np.ndarray
    hidden: Bool[np.ndarray, " v"]

    def showing(self, variable: str, hidden: bool) -> np.ndarray:
        """Which views have this variable, with the object hidden or not."""
        told = self.truth[variable]
        return np.flatnonzero((self.hidden == hidden) & np.isfinite(told).all(1) & (told.shape[1] > 0))

    def only(self, variable: str, columns: np.ndarray) -> Views:
        """With these components of a variable."""
        return replace(self, truth={**self.truth, variable: self.truth[variable][:, columns]})


@dataclass(frozen=True, eq=False)
class Clock:
    """What the latent frame alone tells: the training mean of each (of all, for others)."""

    means: Mapping[int, Float[np.ndarray, " t"]]
    mean: Float[np.ndarray, " t"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "v t"], frame: np.ndarray) -> Clock:
        """The clock of these views."""
        return cls({int(f): values[frame == f].mean(0) for f in np.unique(frame)}, values.mean(0))

    def __call__(self, frame: np.ndarray) -> Float[np.ndarray, "v t"]:
        """The means of these frames."""
        return np.stack([self.means.get(int(f), self.mean) for f in frame])


@dataclass(frozen=True, eq=False)
class Reading:
    """A variable read off: the clock's, and by a probe what features beside their own clock add to it."""

    clock: Clock
    features: Clock
    pooling: int
    probe: Pipeline

    @classmethod
    def fit(cls, views: Views, variable: str, place: str, chosen: np.ndarray) -> Reading:
        """Of these views; pooling and strength are chosen out of fold."""
        frame, truth = views.frame[chosen], views.truth[variable][chosen]
        grid = Grid(STRENGTHS, folds=3, model="ridge", progress=False)
        clock, clocks = Clock.of(truth, frame), [Clock.of(x[chosen], frame) for x in views.features[place]]
        cells: dict[Hashable, np.ndarray] = {
            i: x[chosen] - own(frame) for i, (x, own) in enumerate(zip(views.features[place], clocks, strict=True))
        }
        left = truth - clock(frame)
        found = grid.scores(cells, left, views.group[chosen]).mean(-1)
        pooling, strength = (int(i) for i in np.unravel_index(found.argmax(), found.shape))
        return cls(clock, clocks[pooling], pooling, ridge(STRENGTHS[strength]).fit(cells[pooling], left))

    def __call__(self, views: Views, place: str, chosen: np.ndarray) -> Float[np.ndarray, "v t"]:
        """What clock and probe tell of these views."""
        frame = views.frame[chosen]
        read = np.asarray(self.probe.predict(views.features[place][self.pooling][chosen] - self.features(frame)))
        return self.clock(frame) + read.reshape(len(chosen), -1)


def score(train: Views, test: Views) -> xr.Dataset:
    """`good` and `whole` by sight, variable, place and test quadruplet, whose sums have R² as ratio; 0 where none."""
    groups, places = np.unique(test.group), list(train.features)
    good, whole = np.zeros((2, len(SIGHTS), len(VARIABLES), len(places), len(groups)))
    for (v, variable), (p, place) in product(enumerate(VARIABLES), enumerate(places)):
        columns = _varying(train, variable)
        here = test.only(variable, columns)
        for sight, parts in _shares(train.only(variable, columns), here, variable, place):
            rows = test.group[here.showing(variable, sight > 0)]
            sums = [np.bincount(np.searchsorted(groups, rows), part, len(groups)) for part in parts]
            good[sight, v, p], whole[sight, v, p] = sums
    names = ("sight", "variable", "place", "quadruplet")
    coords = {"sight": list(SIGHTS), "variable": list(VARIABLES), "place": places, "quadruplet": groups}
    return xr.Dataset({"good": (names, good), "whole": (names, whole)}, coords=coords)


def _varying(train: Views, variable: str) -> Bool[np.ndarray, " t"]:
    """Which components vary, in views of one latent frame, where the object is seen and where it is hidden."""
    columns = np.ones(train.truth[variable].shape[1], bool)
    for hidden in (False, True):
        if len(chosen := train.showing(variable, hidden)):
            told, frame = train.truth[variable][chosen], train.frame[chosen]
            left = told - Clock.of(told, frame)(frame)
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
        readings[hidden] = own = Reading.fit(train, variable, place, chosen)
        base = own.clock(test.frame[asked])
        left = train.truth[variable][chosen] - own.clock(train.frame[chosen])
        for sight, reading in [(hidden, readings[hidden])] + [(2, readings[0])] * hidden:
            if reading is not None:
                told = reading(test, place, asked) - base
                yield sight, share(test.truth[variable][asked] - base, told, left)


def scores(result: xr.Dataset) -> xr.Dataset:
    """R² with its 95% interval over the n quadruplets that show a variable, by all but these; NaN where not scored."""
    names = ("source", "route", "place")
    shape = tuple(result.sizes[name] for name in ("sight", "variable", *names))
    made, n = np.full((3, *shape), np.nan), np.zeros(shape[:2], int)
    parts = [result[name].transpose("sight", "variable", "quadruplet", *names).values for name in ("good", "whole")]
    for cell in np.ndindex(shape[:2]):
        shown = np.nan_to_num(parts[1][cell]).any((1, 2, 3))
        n[cell] = shown.sum()
        if shown.any():
            good, whole = (part[cell][shown] for part in parts)
            made[:, *cell] = stats.bootstrap_ratio(good, whole)
    dims = ("sight", "variable", *names)
    measured = {key: (dims, value) for key, value in zip(("score", "low", "high"), made, strict=True)}
    return xr.Dataset({**measured, "n": (dims[:2], n)}, coords={name: result[name] for name in dims})
