"""Every measure of a score side by side: values worked out by hand, what is absent and why, and coverage of d'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from dit_lens.stats import (
    SHARE,
    Separation,
    mean_interval,
    ratio_interval,
    separation,
    standardised_interval,
    variance_parts,
)

ROLES = np.array(list("ABCD"))
LABELS = np.array([True, True, False, False])


def of_table(table: Sequence[Sequence[float]], **options: Any) -> Separation:
    """Crossed scenes, one row each with the scores of A to D; every scene is a group."""
    scenes = len(table)
    arguments = {"roles": np.tile(ROLES, scenes)} | options
    return separation(
        np.array(table, dtype=float).ravel(), np.tile(LABELS, scenes), np.repeat(np.arange(scenes), 4), **arguments
    )


def ends(interval: tuple[np.ndarray, ...]) -> tuple[float, ...]:
    return tuple(float(end) for end in interval)


def test_variance_by_hand() -> None:
    """The example of the docstring, and that the parts of any scenes sum to the sum of squares about the mean."""
    assert variance_parts(np.array([[4.0, 2.0, 1.0, 1.0]])).tolist() == [[0.0, 1.0, 1.0, 4.0]]
    # Two scenes at distance 4 and nothing else: each lies 2 from the mean, four clips each.
    assert variance_parts(np.array([[4.0] * 4, [0.0] * 4])).tolist() == [[16.0, 0, 0, 0]] * 2
    # First halves alone, second halves alone.
    assert variance_parts(np.array([[1.0, -1, 1, -1]])).tolist() == [[0, 4, 0, 0]]
    assert variance_parts(np.array([[1.0, -1, -1, 1]])).tolist() == [[0, 0, 4, 0]]
    scores = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32) + 5
    assert variance_parts(scores).sum() == pytest.approx(((scores - scores.mean(dtype=float)) ** 2).sum())


def test_measures_by_hand() -> None:
    """Three crossed scenes.

    A 4, B 2, C 1, D 1:    right 2 of 4; pairs 4 of 4; effect 3 - 1 = 2; A + B above.
    A 1, B -1, C 2, D -2:  right 2 of 4; pairs A-C no, A-D, B-D yes, B-C no: 2 of 4; effect 0 - 0 = 0; a tie.
    A 3, B 1, C -1, D -1:  right 4 of 4; pairs 4 of 4; effect 2 + 1 = 3; above.
    """
    table = [[4, 2, 1, 1], [1, -1, 2, -2], [3, 1, -1, -1]]
    got = of_table(table)
    assert (got.clips, got.groups, got.crossed, got.absent) == (12, 3, 3, {})
    assert (got.accuracy, got.low, got.high) == pytest.approx(
        ends(mean_interval(np.array([0.5, 0.5, 1]), bounds=SHARE))
    )
    ordered = ends(mean_interval(np.array([1, 0.5, 1]), bounds=SHARE))
    assert (got.pairwise, got.pairwise_low, got.pairwise_high) == pytest.approx(ordered)
    assert (got.relative, got.relative_low, got.relative_high) == pytest.approx(ordered)
    assert got.d_prime == pytest.approx((5 / 3) / np.std([2, 0, 3], ddof=1))
    # The label's squares: (2 * effect)² / 4. The total about the mean 10/12 of all twelve clips.
    squares = np.array([4.0, 0.0, 9.0])
    total = ((np.array(table) - 10 / 12) ** 2).sum(1)
    assert got.label_share == pytest.approx(13 / total.sum())
    assert (got.label_share, got.label_share_low, got.label_share_high) == pytest.approx(
        ends(ratio_interval(squares, total, bounds=SHARE))
    )


def test_what_is_a_sum_over_halves_is_no_part_of_the_relative_measure_and_all_of_the_variance() -> None:
    """A small label beside large scenes and halves: every scene is relatively right, and the share says how little."""
    rng = np.random.default_rng(0)
    scene, first, second = rng.normal(size=(3, 200, 1)) * [[[5]], [[2]], [[1]]]
    table = scene + first * [1, -1, 1, -1] + second * [1, -1, -1, 1] + 0.1 * np.array([1, 1, -1, -1])
    got = of_table(table.tolist())
    assert got.relative == 1 and 0.45 < got.accuracy < 0.55
    assert got.label_share == pytest.approx(0.01 / 30, rel=0.15)  # of 25 + 4 + 1
    noise = of_table(rng.normal(size=(400, 4)).tolist())
    assert noise.label_share == pytest.approx(1 / 4, abs=0.03) and abs(noise.relative - 0.5) < 0.1


def test_without_crossed_scenes_there_is_a_reason() -> None:
    pairs = separation(np.array([2.0, 1, 0, 3, 1, 0]), np.tile([True, False], 3), np.repeat(np.arange(3), 2))
    assert pairs.pairwise == pytest.approx(2 / 3) and np.isfinite([pairs.d_prime, pairs.d_prime_low]).all()
    assert np.isnan([pairs.relative, pairs.label_share]).all() and pairs.crossed == 0
    assert set(pairs.absent) == {"relative", "label_share"} and "crossed" in pairs.absent["relative"]
    single = separation(np.array([1.0, -1, 2, -2]), np.array([True, False, True, False]), np.arange(4))
    assert single.accuracy == 1 and np.isnan([single.pairwise, single.d_prime]).all()
    assert set(single.absent) == {"pairwise", "d_prime", "relative", "label_share"}
    # Four clips of a scene that is not crossed, another label than that of the roles, scores that are all equal.
    assert of_table([[4, 2, 1, 1]] * 3, roles=None).crossed == 0
    relabelled = separation(np.arange(8.0), np.tile([True, False], 4), np.repeat([0, 1], 4), roles=np.tile(ROLES, 2))
    assert relabelled.crossed == 0 and np.isfinite(relabelled.pairwise)
    assert "equal" in of_table([[1, 1, 1, 1]] * 3).absent["relative"]
    some = of_table([[4, 2, 1, 1]] * 3, roles=np.array([*"ABCD", *"ABCD", *"abcd"]))
    assert some.crossed == 2 and some.relative == 1


def test_scenes_of_one_group_are_one_observation() -> None:
    table = [[1, 1, -1, -1], [1, 1, -1, -1], [-1, -1, 1, 1]]
    together = separation(
        np.array(table, dtype=float).ravel(), np.tile(LABELS, 3), np.repeat(["x", "x", "y"], 4),
        np.repeat([0, 1, 2], 4), np.tile(ROLES, 3),
    )  # fmt: skip
    assert (together.accuracy, together.pairwise, together.relative, together.groups) == (0.5, 0.5, 0.5, 2)
    assert together.d_prime == 0 and of_table(table).accuracy == pytest.approx(2 / 3)


def test_the_relative_measure_is_never_without_the_labels_share() -> None:
    got = of_table([[4, 2, 1, 1], [3, 1, -1, -1]])
    for lacking in ("relative", "label_share"):
        with pytest.raises(ValueError, match="expected both or neither"):
            replace(got, **{lacking: np.nan})


def test_unknown_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN for 1 of 2 scores"):
        separation(np.array([1.0, np.nan]), np.array([True, False]), np.arange(2))


def test_the_interval_of_d_prime_by_hand() -> None:
    """Values 0 and 2, four times each: no cubes, and squares all alike, so that the normal error is the larger one."""
    values = np.array([0.0, 2.0] * 4)
    d = 1 / np.std(values, ddof=1)
    reach = student.ppf(0.975, 7) / np.sqrt(8)
    centre = np.sqrt(2) * np.arcsinh(d / np.sqrt(2))
    expected = [np.sqrt(2) * np.sinh((centre + side * reach) / np.sqrt(2)) for side in (-1, 1)]
    assert standardised_interval(values) == pytest.approx(expected)
    assert np.isnan(standardised_interval(np.ones(5))).all() and np.isnan(standardised_interval(np.ones(1))).all()


@pytest.mark.parametrize("d", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("groups", [12, 66])
def test_the_interval_of_d_prime_covers(d: float, groups: int) -> None:
    draws = np.random.default_rng(0).normal(size=(1500, groups)) + d
    low, high = np.array([standardised_interval(draw) for draw in draws]).T
    assert 0.935 < ((low <= d) & (d <= high)).mean() < 0.975


def test_infinite_scores_have_an_order_and_no_differences() -> None:
    """Log odds of a certain probe: pairs are in order, but there is no standard deviation to divide by."""
    scores, possible = np.array([np.inf, -np.inf, np.inf, np.inf]), np.array([True, False, True, False])
    measured = separation(scores, possible, np.array([0, 0, 1, 1]))
    assert (measured.accuracy, measured.pairwise) == (0.75, 0.75)
    assert np.isnan([measured.d_prime, measured.relative, measured.label_share]).all()
    assert measured.absent["d_prime"] == "some scores are infinite"
