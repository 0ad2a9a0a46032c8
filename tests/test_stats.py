"""Contrasts of quadruplets, pairwise accuracy and nulls, against numbers worked by hand; no NaN is ever the best."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.stats import (
    best_of,
    choose,
    d_prime,
    interaction,
    order_of,
    pairwise_accuracy,
    permutation_p,
    ratio_error,
    selection_corrected_p,
    selection_threshold,
    sign_flip_p,
    swapped_labels,
)


def test_interaction_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert interaction(scores).tolist() == [1.0, -2.0]
    assert interaction(np.stack([scores, 2 * scores], axis=-1)).tolist() == [[1.0, 2.0], [-2.0, -4.0]]


def test_of_single_pairs_the_interaction_is_the_difference() -> None:
    pairs = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 0.0]])
    assert interaction(pairs, (1, -1)).tolist() == [2.0, 0.0, 1.0]
    assert d_prime(pairs, (1, -1)) == pytest.approx(1.0)  # mean 1, standard deviation 1
    assert pairwise_accuracy(pairs, (1, -1)).tolist() == [1.0, 0.5, 1.0]
    assert np.isnan(d_prime(pairs[:1], (1, -1))) and d_prime(pairs[1:2], (1, -1)) == 0
    with pytest.raises(ValueError, match="as many \\+1 as -1"):
        interaction(pairs, (1, 1))
    with pytest.raises(ValueError, match="2 clips"):
        interaction(pairs)


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
    single = selection_corrected_p(observed[:1, 0], null[:, :1, 0])
    assert single == pytest.approx(alone[:1, 0])


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


def test_a_cell_with_a_nan_has_no_p_and_leaves_the_others_theirs() -> None:
    rng = np.random.default_rng(0)
    observed, null = rng.normal(size=6) + 1, rng.normal(size=(99, 6))
    for broken_score, broken_null in ((True, False), (False, True), (True, True)):
        with_nan, null_nan = observed.copy(), null.copy()
        with_nan[2] = np.nan if broken_score else 9.0
        null_nan[17, 2] = np.nan if broken_null else 9.0
        rest = np.arange(6) != 2
        for p_value in (permutation_p, selection_corrected_p):
            p, without = p_value(with_nan, null_nan), p_value(observed[rest], null[:, rest])
            assert np.isnan(p[2]) and p[rest].tolist() == without.tolist()
        if broken_null:
            assert selection_threshold(null_nan) == selection_threshold(null[:, rest])
        # Positive control: compared as it is, NaN is beaten by no permutation and has the smallest p of all.
        if broken_score:
            assert ((1 + (null_nan >= with_nan).sum(0)) / 100)[2] == 0.01
    assert np.isnan(selection_threshold(np.full((99, 2), np.nan)))


def test_effects_with_a_nan_have_no_t_and_leave_the_others_theirs() -> None:
    effects = np.random.default_rng(0).normal(size=(12, 5)) + 1
    broken = effects.copy()
    broken[3, 1], broken[0, 4] = np.nan, np.inf
    p, rest = sign_flip_p(broken), [0, 2, 3]
    assert np.isnan(p[[1, 4]]).all() and p[rest].tolist() == sign_flip_p(effects[:, rest]).tolist()


def test_a_nan_is_never_the_best() -> None:
    scores = np.array([[0.2, np.nan], [0.9, 0.9]])
    assert best_of(scores) == (1, 0) and order_of(scores).tolist() == [2, 3, 0]
    assert scores.argmax() == 1  # positive control: the NaN
    with pytest.raises(ValueError, match="without a number · expected at least one to choose"):
        best_of(np.full(3, np.nan))


def test_a_scene_with_a_nan_is_neither_in_order_nor_out_of_it() -> None:
    scores = np.array([[2.0, 2, 1, 1], [2.0, 2, 1, np.nan]])
    assert pairwise_accuracy(scores)[0] == 1 and np.isnan(pairwise_accuracy(scores)[1])
    assert np.isnan(d_prime(scores)) and np.isnan(interaction(scores)[1])


@pytest.mark.parametrize(
    ("observed", "null"),
    [(np.zeros(3), np.zeros((9, 1))), (np.zeros(3), np.zeros((0, 3))), (np.zeros(()), np.zeros((9, 1)))],
)
def test_a_null_of_other_cells_or_none_is_refused(observed: np.ndarray, null: np.ndarray) -> None:
    for p_value in (permutation_p, selection_corrected_p):
        with pytest.raises(ValueError, match=r"got a null of shape .* · expected one row for each permutation"):
            p_value(observed, null)


def test_the_first_within_one_standard_error_by_hand() -> None:
    """The example of the docstring; the choice stays where rounding exchanges the two highest."""
    scores, errors = np.array([0.60, 0.66, 0.665, 0.667]), np.full(4, 0.01)
    assert choose(scores, errors) == (1,) and choose(scores, errors, "best") == (3,)
    exchanged = scores + np.array([0, 0, 0.003, 0])
    assert choose(exchanged, errors) == (1,) and choose(exchanged, errors, "best") == (2,)
    assert choose(scores, 0 * errors) == choose(scores, np.full(4, np.nan)) == (3,)
    assert choose(np.array([np.nan, 0.5, 0.7]), np.array([0.1, 0.1, 0.3])) == (1,)  # the error of the best one counts
    assert choose(np.array([[0.5, 0.7], [0.69, 0.71]]), np.full((2, 2), 0.05)) == (0, 1)
    with pytest.raises(ValueError, match="without a number"):
        choose(np.array([np.nan]), np.array([0.1]))


def test_the_standard_error_of_a_ratio_by_hand() -> None:
    """Right 4, 2, 3 of 4 clips: the error of the mean of 1, 1/2, 3/4; of one group there is none."""
    right, counts = np.array([4.0, 2.0, 3.0]), np.full(3, 4.0)
    assert ratio_error(right, counts) == pytest.approx(0.25 / 3**0.5)
    assert np.isnan(ratio_error(right[:1], counts[:1]))
