"""Intervals over groups, contrasts of quadruplets, pairwise accuracy and nulls, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.stats import (
    bootstrap_ratio,
    d_prime,
    interaction,
    pairwise_accuracy,
    permutation_p,
    selection_corrected_p,
    selection_threshold,
    sign_flip_p,
    swapped_labels,
)


def test_the_estimate_is_the_ratio_of_sums() -> None:
    estimate, low, high = bootstrap_ratio(np.array([1.0, 2.0, 6.0]), np.array([2.0, 4.0, 6.0]))
    assert estimate == pytest.approx(9 / 12)
    assert estimate != pytest.approx(np.mean([1 / 2, 2 / 4, 6 / 6]))
    assert low == pytest.approx(1 / 2) and high == pytest.approx(1.0)


def test_over_a_denominator_of_ones_it_is_the_mean() -> None:
    values = np.array([1.0, 2.0, 6.0])
    estimate, low, high = bootstrap_ratio(values, np.ones(3))
    assert estimate == pytest.approx(3.0)
    assert low < 3.0 < high and values.min() <= low and high <= values.max()


def test_a_ratio_that_is_the_same_in_all_groups_has_no_width() -> None:
    denominator = np.array([1.0, 5.0, 2.0, 7.0])
    estimate, low, high = bootstrap_ratio(3 * denominator, denominator)
    assert estimate == pytest.approx(3) and low == pytest.approx(3) and high == pytest.approx(3)


def test_two_groups_by_hand() -> None:
    # Resamples of {0, 1}: means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    values = np.array([0.0, 1.0])
    assert [float(x) for x in bootstrap_ratio(values, np.ones(2), level=0.95)] == [0.5, 0.0, 1.0]
    assert [float(x) for x in bootstrap_ratio(values, np.ones(2), level=0.3)] == [0.5, 0.5, 0.5]


def test_columns_are_resampled_together_and_told_apart() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.normal(size=(20, 3, 2)), rng.uniform(1, 2, size=(20, 3, 2))
    together = bootstrap_ratio(numerator, denominator)
    alone = bootstrap_ratio(numerator[:, 1, 0], denominator[:, 1, 0])
    assert [x.shape for x in together] == [(3, 2)] * 3
    assert [x[1, 0] for x in together] == pytest.approx([float(x) for x in alone])


def test_intervals_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    one, same, other = (bootstrap_ratio(values, np.ones(20), seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one[1] != other[1]


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = {0.5: 0, 0.95: 0}
    for _ in range(200):
        denominator = rng.uniform(1, 3, 40)
        numerator = 2 * denominator + rng.normal(size=40)
        for level in covered:
            _, low, high = bootstrap_ratio(numerator, denominator, level=level)
            covered[level] += bool(low <= 2 <= high)
    assert 0.89 <= covered[0.95] / 200 <= 0.99
    assert 0.38 <= covered[0.5] / 200 <= 0.60


def test_clips_of_one_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1)).repeat(4, axis=1)
    _, low, high = bootstrap_ratio(values.sum(1), np.full(30, 4.0))
    _, narrow_low, narrow_high = bootstrap_ratio(values.ravel(), np.ones(120))
    assert high - low > 1.6 * (narrow_high - narrow_low)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 groups"):
        bootstrap_ratio(np.ones(1), np.ones(1))


@pytest.mark.parametrize("shapes", [((5,), (4,)), ((3, 2), (3, 5)), ((3, 3), (3,)), ((5, 2), (1, 2))], ids=str)
def test_different_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        bootstrap_ratio(*(np.ones(shape) for shape in shapes))


def test_interaction_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert interaction(scores).tolist() == [1.0, -2.0]
    assert interaction(np.stack([scores, 2 * scores], axis=-1)).tolist() == [[1.0, 2.0], [-2.0, -4.0]]


def test_interaction_is_blind_to_each_half_alone() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(-9, 9, (2, 50, 2))
    halves = np.stack([first[:, 0] + second[:, 0], first[:, 1] + second[:, 1]], axis=1)
    crossed = np.stack([first[:, 0] + second[:, 1], first[:, 1] + second[:, 0]], axis=1)
    scores = np.concatenate([halves, crossed], axis=1)
    assert not interaction(scores).any()
    assert (interaction(scores + np.array([1, 1, 0, 0])) == 1).all()


def test_d_prime_by_hand() -> None:
    # Interactions 1, 2, 3: mean 2, standard deviation 1.
    scores = np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]])
    assert d_prime(scores) == pytest.approx(2.0)
    assert d_prime(-scores) == pytest.approx(-2.0)
    assert d_prime(5 * scores + 7) == pytest.approx(2.0)


def test_d_prime_of_scores_that_do_not_interact_is_zero() -> None:
    additive = np.array([[1.0, 4.0, 2.0, 3.0], [5.0, 6.0, 5.0, 6.0]])
    assert not interaction(additive).any()
    assert d_prime(additive) == 0.0


@pytest.mark.parametrize(
    ("scores", "accuracy"),
    [
        ([2, 2, 1, 1], 1.0),
        ([1, 1, 2, 2], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([3, 1, 2, 2], 0.5),
        ([3, 2, 2, 1], 3.5 / 4),
        ([4, 1, 3, 0], 3 / 4),
    ],
)
def test_pairwise_accuracy_counts_a_tie_one_half(scores: list[int], accuracy: float) -> None:
    assert pairwise_accuracy(np.array([scores])).tolist() == [accuracy]


def test_pairwise_accuracy_is_per_quadruplet() -> None:
    assert pairwise_accuracy(np.array([[2.0, 2, 1, 1], [1, 1, 2, 2]])).tolist() == [1.0, 0.0]


def test_swapped_labels_trade_whole_quadruplets() -> None:
    quadruplets = np.array([3, 7, 3, 7, 3, 7, 7, 3])
    possible = np.array([1, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
    swapped = swapped_labels(possible, quadruplets, 400)
    traded = swapped != possible
    for name in (3, 7):
        of_one = traded[:, quadruplets == name]
        assert (of_one == of_one[:, :1]).all()
    assert {tuple(row) for row in traded[:, :2]} == {(a, b) for a in (False, True) for b in (False, True)}
    assert 0.42 < traded.mean() < 0.58
    assert np.array_equal(swapped, swapped_labels(possible, quadruplets, 400))
    assert not np.array_equal(swapped, swapped_labels(possible, quadruplets, 400, seed=1))


def test_quadruplets_without_balance_have_nothing_to_swap() -> None:
    with pytest.raises(ValueError, match="got 1 of 2 quadruplets"):
        swapped_labels(np.array([True, False, True, True]), np.array([0, 0, 1, 1]), 5)


def test_permutation_p_by_hand() -> None:
    null = np.array([[0.1, 0.9], [0.5, 0.6], [0.7, 0.2]])
    assert permutation_p(np.array([0.5, 1.0]), null).tolist() == [3 / 4, 1 / 4]
    # The largest of each row: .9, .6, .7.
    assert selection_corrected_p(np.array([0.5, 1.0]), null).tolist() == [1.0, 1 / 4]
    assert selection_corrected_p(np.array([0.65, 0.8]), null).tolist() == [3 / 4, 2 / 4]


def test_correction_only_raises_p_and_is_nothing_for_one_cell() -> None:
    rng = np.random.default_rng(0)
    observed, null = rng.normal(size=(4, 3)), rng.normal(size=(50, 4, 3))
    corrected, alone = selection_corrected_p(observed, null), permutation_p(observed, null)
    assert corrected.shape == (4, 3) and (corrected >= alone).all() and (corrected > alone).any()
    one = selection_corrected_p(observed[:1, 0], null[:, :1, 0])
    assert one == pytest.approx(alone[:1, 0])


def test_the_best_of_many_cells_keeps_its_level_only_when_corrected() -> None:
    rng = np.random.default_rng(0)
    corrected, naive = [], []
    for _ in range(400):
        shared = rng.normal(size=(100, 1))
        scores = rng.normal(size=(100, 20)) + shared  # cells depend on each other; row 0 is observed
        corrected.append(selection_corrected_p(scores[0], scores[1:]).min())
        naive.append(permutation_p(scores[0], scores[1:]).min())
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(corrected) <= level) == pytest.approx(level, abs=3 * (level * (1 - level) / 400) ** 0.5)
    assert np.mean(np.array(naive) <= 0.05) > 0.25


def test_above_the_threshold_is_significant_and_at_it_is_not() -> None:
    null = np.random.default_rng(0).normal(size=(99, 6))
    threshold = selection_threshold(null, 0.05)
    above, at = np.full(6, threshold + 1e-9), np.full(6, threshold)
    assert selection_corrected_p(above, null).max() <= 0.05 < selection_corrected_p(at, null).min()
    with pytest.raises(ValueError, match="at least 19"):
        selection_threshold(null[:10], 0.05)


def test_signs_of_few_quadruplets_by_hand() -> None:
    """Of three effects of 1, 2 and 3 flips of sign leave |t| as large in 2 of 8 cases: all one way."""
    effects = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    p = sign_flip_p(effects)
    assert p[0] == pytest.approx(2 / 8, abs=0.03) and p[1] == 1


def test_an_effect_is_told_from_the_largest_of_many_without_one() -> None:
    noise = np.random.default_rng(0).standard_normal((30, 200))
    assert sign_flip_p(noise).min() > 0.05
    assert (sign_flip_p(noise + np.eye(1, 200) * 2)[[0]] < 0.01).all()
