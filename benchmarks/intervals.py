"""How often 95% intervals over scenes cover, by method and number of scenes: `python -m benchmarks.intervals`.

Each number is the share of simulated data sets whose interval holds the true value, beside the median width. Methods:
what `dit_lens.stats` does ("stats"), and what it was chosen over: the percentile bootstrap (Efron 1979), the same with
its tails as far out as Student's t has them (Hesterberg 2015), BCa (Efron 1987), the bootstrap of t, and Student's t.
Two minutes of one core; `--repetitions 500` for a look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import tyro
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from dit_lens.measures.columns import aligned
from dit_lens.probing import auroc
from dit_lens.stats import SHARE, ratio_interval

RESAMPLES = 2000
GROUPS = (8, 12, 16, 30, 66)
TAILS = (0.025, 0.975)

Array = np.ndarray
Method = Callable[[Array, Array], tuple[Array, Array, Array]]
Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Array, Array]]


@dataclass(frozen=True)
class Data:
    """Simulated data sets as (group, data set) numerators and denominators, and the ratio of their expectations."""

    draw: Draw
    truth: float


# Methods, all of ratios of sums over groups.


def resampled(numerator: Array, denominator: Array) -> Array:
    """(resample, data set) ratios; all data sets share the resampled groups."""
    counts = _counts(len(numerator))
    return (counts @ numerator) / (counts @ denominator)


def percentile(numerator: Array, denominator: Array, tails: tuple[float, float] = TAILS) -> tuple[Array, Array, Array]:
    """Quantiles of the resampled ratios."""
    low, high = np.quantile(resampled(numerator, denominator), tails, axis=0)
    return numerator.sum(0) / denominator.sum(0), low, high


def expanded(numerator: Array, denominator: Array) -> tuple[Array, Array, Array]:
    """Quantiles further out, by as much as Student's t is wider than the normal of the biased variance."""
    size = len(numerator)
    tail = float(ndtr((size / (size - 1)) ** 0.5 * student.ppf(TAILS[0], size - 1)))
    return percentile(numerator, denominator, (tail, 1 - tail))


def bias_corrected(numerator: Array, denominator: Array) -> tuple[Array, Array, Array]:
    """BCa: quantiles moved by the bias of the resamples and the skewness of the jackknife."""
    drawn, estimate = np.sort(resampled(numerator, denominator), axis=0), numerator.sum(0) / denominator.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = ndtri(((drawn < estimate) + 0.5 * (drawn == estimate)).mean(0))
        left_out = (numerator.sum(0) - numerator) / (denominator.sum(0) - denominator)
        off = left_out.mean(0) - left_out
        skewness = (off**3).sum(0) / (6 * (off**2).sum(0) ** 1.5)
        moved = [ndtr(bias + (bias + z) / (1 - skewness * (bias + z))) for z in ndtri(TAILS)]
    at = [np.nan_to_num(q * RESAMPLES).astype(int).clip(0, RESAMPLES - 1) for q in moved]
    low, high = (np.take_along_axis(drawn, i[None], 0)[0] for i in at)
    return estimate, low, high


def studentised(numerator: Array, denominator: Array) -> tuple[Array, Array, Array]:
    """The bootstrap of t, by the linearised error of each resample; endless where too many resamples have no spread."""
    estimate, counts, size = numerator.sum(0) / denominator.sum(0), _counts(len(numerator)), len(numerator)
    above, below = counts @ numerator / size, counts @ denominator / size
    ratio = above / below
    squares = (
        counts @ numerator**2 - 2 * ratio * (counts @ (numerator * denominator)) + ratio**2 * (counts @ denominator**2)
    )
    error = np.sqrt((squares / size).clip(0) / (size - 1)) / np.abs(below)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.nan_to_num((ratio - estimate) / error, nan=0.0, posinf=1e9, neginf=-1e9)
    low, high = np.quantile(drawn, TAILS, axis=0)
    spread = _error(numerator, denominator)
    return estimate, estimate - high * spread, estimate - low * spread


def students(numerator: Array, denominator: Array) -> tuple[Array, Array, Array]:
    """Student's t with the linearised error."""
    estimate = numerator.sum(0) / denominator.sum(0)
    reach = student.ppf(TAILS[1], len(numerator) - 1) * _error(numerator, denominator)
    return estimate, estimate - reach, estimate + reach


def _counts(size: int) -> Array:
    return np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(float)


def _error(numerator: Array, denominator: Array) -> Array:
    residuals = (numerator - numerator.sum(0) / denominator.sum(0) * denominator) / denominator.mean(0)
    return residuals.std(0, ddof=1) / len(residuals) ** 0.5


METHODS: dict[str, Method] = {
    "stats": ratio_interval,
    "percentile": percentile,
    "expanded": expanded,
    "BCa": bias_corrected,
    "bootstrap t": studentised,
    "Student's t": students,
}
SHARE_METHODS: dict[str, Method] = METHODS | {"stats": partial(ratio_interval, bounds=SHARE)}

# Data.


def values(draw: Callable[[np.random.Generator, tuple[int, int]], Array], truth: float) -> Data:
    """Numbers of which the mean is asked."""

    def pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        return draw(rng, shape), np.ones(shape)

    return Data(pair, truth)


def ratios(denominator: Callable[[np.random.Generator, tuple[int, int]], Array], skewed: bool) -> Data:
    """Half the denominator and what is added to it: normal, or exponential and as large as the denominator."""

    def pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        below = denominator(rng, shape)
        added = below * (rng.exponential(size=shape) - 1) if skewed else 0.7 * rng.normal(size=shape)
        return 0.5 * below + added, below

    return Data(pair, 0.5)


def clips(right: float, alike: float, size: int = 4) -> Data:
    """Shares of clips that are right, by scene; `alike` is the correlation of two clips of one scene."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        if alike in (0, 1):
            return rng.binomial(1 if alike else size, right, shape) / (1 if alike else size)
        total = 1 / alike - 1
        return rng.binomial(size, rng.beta(right * total, (1 - right) * total, shape)) / size

    return values(draw, right)


MEANS = {
    "normal": values(lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": values(lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal .5": values(lambda rng, shape: np.exp(0.5 * rng.normal(size=shape)), float(np.exp(0.125))),
    "lognormal 1": values(lambda rng, shape: np.exp(rng.normal(size=shape)), float(np.exp(0.5))),
    "t, 3 degrees": values(lambda rng, shape: rng.standard_t(3, size=shape), 0.0),
    "one in five": values(lambda rng, shape: 0.2 * rng.normal(size=shape) + (rng.random(shape) < 0.2), 0.2),
}
RATIOS = {
    "normal": ratios(lambda rng, shape: rng.uniform(1, 3, shape), skewed=False),
    "skewed": ratios(lambda rng, shape: rng.uniform(1, 3, shape), skewed=True),
    "skewed, over a gamma": ratios(lambda rng, shape: rng.gamma(2, size=shape), skewed=True),
}
SHARES = {
    "independent, .7": clips(0.7, 0),
    "independent, .9": clips(0.9, 0),
    "independent, .95": clips(0.95, 0),
    "correlated, .9": clips(0.9, 0.3),
    "correlated, .95": clips(0.95, 0.3),
    "whole scenes, .9": clips(0.9, 1),
    "whole scenes, .95": clips(0.95, 1),
}


def coverage(method: Method, data: Data, groups: int, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """Share of data sets whose interval holds the truth, and the median width."""
    numerator, denominator = data.draw(np.random.default_rng(seed + groups), (groups, repetitions))
    _, low, high = method(numerator, denominator)
    slack = 1e-9  # of shares that are the truth to rounding
    return float(((low <= data.truth + slack) & (data.truth - slack <= high)).mean()), float(np.median(high - low))


def coverage_of_auroc(area: float, groups: int, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """The same of `probing.auroc`: two possible and two impossible clips to a scene, and what a scene has in common."""
    rng, labels = np.random.default_rng(seed + groups), np.tile([True, True, False, False], groups)
    apart, names = 2**0.5 * ndtri(area), np.repeat(np.arange(groups), 4)
    ends = []
    for _ in range(repetitions):
        noise = rng.normal(size=4 * groups) + np.repeat(rng.normal(size=groups), 4)
        ends.append(auroc(noise / 2**0.5 + apart * labels, labels, names)[1:])
    low, high = np.array(ends).T
    return float(((low <= area) & (area <= high)).mean()), float(np.median(high - low))


def table(title: str, kinds: Mapping[str, Data], methods: Mapping[str, Method], repetitions: int) -> str:
    """Coverage (and median width) by kind and number of groups, and method."""
    rows = [[title, "scenes", *methods]]
    for kind, data in kinds.items():
        for groups in GROUPS:
            results = (coverage(method, data, groups, repetitions) for method in methods.values())
            rows.append([kind, f"{groups}", *(f"{share:.3f} ({width:.2f})" for share, width in results)])
    return "\n".join(aligned(rows))


@dataclass(frozen=True)
class Config:
    """Options."""

    repetitions: int = 4000
    """Data sets of each kind; a tenth of these for AUROC, one by one."""


def main(config: Config) -> None:
    """Prints the tables."""
    print(table("means", MEANS, METHODS, config.repetitions), end="\n\n")
    print(table("ratios", RATIOS, METHODS, config.repetitions), end="\n\n")
    print(table("accuracies", SHARES, SHARE_METHODS, config.repetitions), end="\n\n")
    rows = [["AUROC", "scenes", "stats"]]
    for area in (0.5, 0.7, 0.9, 0.95):
        for groups in GROUPS:
            share, width = coverage_of_auroc(area, groups, config.repetitions // 10)
            rows.append([f"{area:g}", f"{groups}", f"{share:.3f} ({width:.2f})"])
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
