"""Intervals over groups: values worked by hand, coverage by simulation, and no certainty where groups are alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks.intervals import MEANS, METHODS, RATIOS, SHARE_METHODS, SHARES, coverage, coverage_of_auroc
from dit_lens.stats import DIFFERENCE, POSITIVE, R_SQUARED, SHARE, mean_interval, ratio_interval

REPETITIONS = 2000  # one standard error of a coverage of .95 is .005


def test_the_estimate_is_the_ratio_of_sums() -> None:
    estimate, low, high = ratio_interval(np.array([1.0, 2.0, 6.0]), np.array([2.0, 4.0, 6.0]))
    assert estimate == pytest.approx(9 / 12)
    assert estimate != pytest.approx(np.mean([1 / 2, 2 / 4, 6 / 6]))
    assert low < 9 / 12 < high


def test_of_symmetric_values_it_is_students_interval() -> None:
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]) + 7
    half = student.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
    assert [float(x) for x in mean_interval(values)] == pytest.approx([7, 7 - half, 7 + half])
    narrow = student.ppf(0.75, 4) * values.std(ddof=1) / 5**0.5
    assert [float(x) for x in mean_interval(values, level=0.5)] == pytest.approx([7, 7 - narrow, 7 + narrow])


def test_of_skewed_values_it_reaches_further_towards_the_long_tail() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 5.0])
    estimate, low, high = mean_interval(values)
    assert high - estimate > 2 * (estimate - low)
    mirrored = [float(x) for x in mean_interval(-values)]
    assert mirrored == pytest.approx([-float(estimate), -float(high), -float(low)])


def test_halls_cubic_is_undone_by_its_inverse() -> None:
    """At an end W + skewness / 3 W² + skewness² / 27 W³ + skewness / (6 n) is the quantile of Student's t / √n."""
    values = np.random.default_rng(0).exponential(size=15)
    estimate, *ends = (float(x) for x in mean_interval(values))
    n, spread = 15, values.std(ddof=1)
    skewness = n / ((n - 1) * (n - 2)) * (((values - estimate) / spread) ** 3).sum()
    for end, tail in zip(ends, (0.975, 0.025), strict=True):
        w = (estimate - end) / spread
        cubic = w + skewness / 3 * w**2 + skewness**2 / 27 * w**3 + skewness / (6 * n)
        assert cubic == pytest.approx(student.ppf(tail, n - 1) / n**0.5)


def test_a_ratio_that_is_the_same_in_all_groups_has_no_width() -> None:
    denominator = np.array([1.0, 5.0, 2.0, 7.0])
    assert [float(x) for x in ratio_interval(3 * denominator, denominator)] == pytest.approx([3, 3, 3])
    assert [float(x) for x in mean_interval(np.zeros(5))] == [0, 0, 0]


def test_a_share_by_hand() -> None:
    """Nine scenes with three of four clips right and nine with all: Student's t of the log odds of 7 / 8."""
    right = np.repeat([3.0, 4.0], 9)
    error = 0.125 * (18 / 17) ** 0.5 / 18**0.5
    reach = student.ppf(0.975, 17) * error / (7 / 8 * 1 / 8)
    expected = [7 / 8, *(1 / (1 + np.exp(-(np.log(7) + sign * reach))) for sign in (-1, 1))]
    assert [float(x) for x in ratio_interval(right, np.full(18, 4.0), bounds=SHARE)] == pytest.approx(expected)
    doubled = [float(x) for x in mean_interval(right / 4 * 2 - 1, bounds=DIFFERENCE)]
    assert doubled == pytest.approx([2 * x - 1 for x in expected])


@pytest.mark.parametrize("count", [2, 8, 12, 66])
def test_scenes_that_are_all_alike_are_no_certainty(count: int) -> None:
    least = 0.025 ** (1 / count)  # the interval of Clopper & Pearson for as many hits
    assert [float(x) for x in mean_interval(np.ones(count), bounds=SHARE)] == pytest.approx([1, least, 1])
    assert [float(x) for x in mean_interval(np.zeros(count), bounds=SHARE)] == pytest.approx([0, 0, 1 - least])
    half = [float(x) for x in mean_interval(np.full(count, 0.5), bounds=SHARE)]
    assert half == pytest.approx([0.5, least / 2, 1 - least / 2])
    thirds = ratio_interval(np.full(count, 1.0), np.full(count, 3.0), bounds=SHARE)  # no rounding makes it narrow
    assert float(thirds[2] - thirds[1]) == pytest.approx(1 - least)
    resampled = np.random.default_rng(0).choice(np.ones(count), (99, count)).mean(1)
    assert np.ptp(resampled) == 0  # positive control: a bootstrap has no width here


def test_an_interval_ends_at_its_bounds() -> None:
    skewed = np.array([0.0, 0.0, 0.1, 9.0])
    assert float(mean_interval(skewed)[1]) < 0 == float(mean_interval(skewed, bounds=POSITIVE)[1])
    assert float(mean_interval(1 - skewed)[2]) > 1 == float(mean_interval(1 - skewed, bounds=R_SQUARED)[2])
    with pytest.raises(ValueError, match=r"got 1 values outside \(0.0, 1.0\), such as 9 · expected shares"):
        mean_interval(skewed, bounds=SHARE)


def test_columns_do_not_depend_on_each_other_and_nan_stays_in_its_own() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.normal(size=(20, 3, 2)), rng.uniform(1, 2, size=(20, 3, 2))
    whole = ratio_interval(numerator, denominator)
    alone = ratio_interval(numerator[:, 1, 0], denominator[:, 1, 0])
    assert [x.shape for x in whole] == [(3, 2)] * 3
    assert [x[1, 0] for x in whole] == pytest.approx([float(x) for x in alone])
    broken = numerator.copy()
    broken[3, 0, 0], broken[4, 2, 1] = np.nan, np.inf
    for part, intact in zip(ratio_interval(broken, denominator), whole, strict=True):
        assert np.isnan(part[[0, 2], [0, 1]]).all()
        part[[0, 2], [0, 1]] = intact[[0, 2], [0, 1]]
        assert np.array_equal(part, intact)
    assert np.isnan(ratio_interval(np.ones(4), np.zeros(4))).all()


def test_clips_of_one_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1)).repeat(4, axis=1)
    _, low, high = ratio_interval(values.sum(1), np.full(30, 4.0))
    _, narrow_low, narrow_high = ratio_interval(values.ravel(), np.ones(120))
    assert high - low > 1.6 * (narrow_high - narrow_low)


def test_the_mean_of_a_single_group_has_no_interval_and_a_ratio_is_refused() -> None:
    estimate, low, high = mean_interval(np.array([[3.0, 1.0]]))
    assert estimate.tolist() == [3.0, 1.0] and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="at least 2 groups"):
        ratio_interval(np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="at least 2 groups"):
        mean_interval(np.ones((0, 3)))


@pytest.mark.parametrize("shapes", [((5,), (4,)), ((3, 2), (3, 5)), ((3, 3), (3,)), ((5, 2), (1, 2))], ids=str)
def test_different_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        ratio_interval(*(np.ones(shape) for shape in shapes))


# Coverage. Heavier tails than these are in the table that benchmarks/intervals.py prints.

HELD = 0.93  # of 95%, from 12 scenes on and with 8 too
COUNTS = (8, 12, 16, 30, 66)


@pytest.mark.parametrize("groups", COUNTS)
@pytest.mark.parametrize("kind", ["normal", "exponential", "lognormal .5"])
def test_intervals_of_means_cover(kind: str, groups: int) -> None:
    assert coverage(METHODS["stats"], MEANS[kind], groups, REPETITIONS)[0] >= HELD


@pytest.mark.parametrize("groups", COUNTS)
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_intervals_of_ratios_cover(kind: str, groups: int) -> None:
    assert coverage(METHODS["stats"], RATIOS[kind], groups, REPETITIONS)[0] >= (HELD if groups > 8 else 0.92)


@pytest.mark.parametrize("groups", COUNTS)
@pytest.mark.parametrize("kind", SHARES)
def test_intervals_of_accuracies_cover_near_the_ceiling_too(kind: str, groups: int) -> None:
    assert coverage(SHARE_METHODS["stats"], SHARES[kind], groups, REPETITIONS)[0] >= HELD


@pytest.mark.parametrize("area", [0.5, 0.7, 0.9, 0.95])
def test_intervals_of_auroc_cover(area: float) -> None:
    assert coverage_of_auroc(area, 12, 300)[0] >= HELD - 0.01  # one standard error is .013


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 16, 30])
@pytest.mark.parametrize("area", [0.7, 0.95])
def test_intervals_of_auroc_cover_with_any_number_of_scenes(area: float, groups: int) -> None:
    assert coverage_of_auroc(area, groups, 1000)[0] >= HELD


def test_the_bootstraps_do_not_cover() -> None:
    """Positive control of the simulation: the percentile bootstrap that this replaced, and BCa."""
    for name in ("percentile", "BCa"):
        assert coverage(METHODS[name], MEANS["exponential"], 12, REPETITIONS)[0] < 0.9
        assert coverage(METHODS[name], SHARES["whole scenes, .95"], 12, REPETITIONS)[0] < 0.6
    assert coverage(METHODS["percentile"], MEANS["normal"], 12, REPETITIONS)[0] < HELD
    assert coverage(METHODS["percentile"], RATIOS["skewed"], 12, REPETITIONS)[0] < 0.9
