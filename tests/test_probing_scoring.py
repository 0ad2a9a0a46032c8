"""Scores of log odds by hand, against scikit-learn and `dit_lens.stats`, and their intervals over groups."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dit_lens import stats
from dit_lens.probing import auroc, calibration_error, score
from dit_lens.probing.scoring import contrasts, pairs_in_order

QUADS = 40
POSSIBLE = np.tile([True, True, False, False], QUADS)
GROUP = np.repeat(np.arange(QUADS), 4)


@pytest.fixture
def logits() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=len(POSSIBLE)) + 0.8 * POSSIBLE + rng.normal(size=QUADS)[GROUP]


def test_of_quadruplets_they_are_those_of_stats(logits: np.ndarray) -> None:
    result, table = score(logits, POSSIBLE, GROUP), logits.reshape(-1, 4)
    right = ((table > 0) == POSSIBLE.reshape(-1, 4)).mean(1)
    assert [result.accuracy, result.low, result.high] == pytest.approx(
        [float(x) for x in stats.mean_interval(right, bounds=stats.SHARE)]
    )
    assert result.d_prime == pytest.approx(stats.d_prime(table)) and result.d_prime > 0.5
    assert result.pairwise == pytest.approx(stats.pairwise_accuracy(table).mean())
    assert result.auroc == pytest.approx(roc_auc_score(POSSIBLE, logits)) and result.absolute_error == 1 - result.auroc
    assert (result.clips, result.groups, result.chance) == (160, 40, 0.5)


def test_order_of_clips_and_names_of_groups_do_not_matter(logits: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(len(logits))
    named, roles = np.array([f"scene {g:03d}" for g in GROUP]), np.tile(list("ABCD"), QUADS)
    in_order = score(logits, POSSIBLE, GROUP, roles=roles)
    shuffled = score(logits[order], POSSIBLE[order], named[order], roles=roles[order])
    absent = [vars(scores).pop("absent") for scores in (in_order, shuffled)]
    assert absent == [{}, {}] and vars(shuffled) == pytest.approx(vars(in_order))


def test_intphys_errors_by_hand() -> None:
    # Three groups of a possible and an impossible clip: in order, tied, out of order.
    result = score(np.array([2.0, 1.0, 1.0, 1.0, 0.0, 3.0]), np.tile([True, False], 3), np.repeat([0, 1, 2], 2))
    assert result.relative_error == pytest.approx(1 / 3)  # a tie is no error
    assert result.pairwise == pytest.approx(0.5)
    # Over all clips: 2 beats 1 and 1 and not 3; 1 ties twice and loses; 0 loses thrice.
    assert result.auroc == pytest.approx((2 + 1 + 0) / 9) and result.absolute_error == pytest.approx(6 / 9)


def test_groups_may_have_any_number_of_clips_and_one_label() -> None:
    labels = np.array([True, False, False, False, True, True])
    scores, groups = np.array([3.0, 1.0, 2.0, 4.0, 0.0, 9.0]), np.array([0, 0, 0, 0, 1, 1])
    assert contrasts(scores, labels, groups) == pytest.approx([3 - 7 / 3])
    assert pairs_in_order(scores, labels, groups) == pytest.approx(2 / 3)
    apart = score(scores, labels, np.array([0, 1, 1, 1, 2, 2]))
    assert np.isnan([apart.d_prime, apart.pairwise, apart.relative_error]).all()
    assert apart.chance == pytest.approx(2 / 3)  # "possible" is right in two of three groups, each of which counts once


def test_the_interval_of_auroc_is_close_to_that_of_a_bootstrap_over_many_groups(logits: np.ndarray) -> None:
    rng, tables = np.random.default_rng(5), logits.reshape(-1, 4)
    drawn = [
        roc_auc_score(np.tile([1, 1, 0, 0], QUADS), tables[rng.integers(QUADS, size=QUADS)].ravel()) for _ in range(500)
    ]
    _, low, high = auroc(logits, POSSIBLE, GROUP)
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.02)


def test_clips_that_hang_together_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    shared = np.repeat(rng.normal(size=20), 10)  # ten like clips to a group, one label each
    labels = np.repeat(np.arange(20) % 2 == 0, 10)
    together, apart = (auroc(shared, labels, groups) for groups in (np.repeat(np.arange(20), 10), np.arange(200)))
    assert together[0] == apart[0] and together[2] - together[1] > 2 * (apart[2] - apart[1])


def test_who_states_true_chances_is_calibrated_and_who_boasts_is_not() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=20000)
    labels = rng.random(20000) < 1 / (1 + np.exp(-logits))
    assert calibration_error(logits, labels) < 0.02
    assert calibration_error(5 * logits, labels) > 0.15
    assert calibration_error(np.array([np.log(3.0)]), np.array([True])) == pytest.approx(0.25)


def test_unknown_labels_and_single_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="1 clips without a label"):
        score(np.zeros(3), np.array([True, False, None], object), np.arange(3))
    with pytest.raises(ValueError, match="at least 2 groups"):
        score(np.zeros(2), np.array([True, False]), np.zeros(2))
