"""Nulls, control tasks, transfer and learning curves say what they should of noise and of what is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from dit_lens.probing import (
    DifferenceOfMeans,
    Features,
    Grid,
    NullTest,
    learning_curve,
    leave_one_property_out,
    null_labels,
    permutation_test,
    scene_labels,
)

QUADS, WIDTH = 30, 6
QUADRUPLET = np.repeat(np.arange(QUADS), 4)
POSSIBLE = np.tile([True, True, False, False], QUADS)
SIGN = np.where(POSSIBLE, 1, -1)
PROPERTY = np.array(["colour", "shape", "place"])[QUADRUPLET % 3]
GRID = Grid(strengths=(1e-2,), folds=3, progress=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(len(POSSIBLE), WIDTH))


def planted(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    x = noise(rng)
    x[:, 0] += strength * SIGN
    return x


def features(cells, groups: np.ndarray = QUADRUPLET, labels=POSSIBLE, properties: np.ndarray = PROPERTY) -> Features:
    keyed = {(key,): x for key, x in cells.items()}
    return Features.of_arrays(keyed, labels, groups, ("cell",), properties)


def test_a_planted_cell_stands_out_of_the_corrected_null(rng: np.random.Generator) -> None:
    cells = {at: noise(rng) for at in range(5)} | {("blocks.3", 12): planted(rng)}
    test = permutation_test(features(cells), GRID, count=99)
    assert test.best == ((("blocks.3", 12),), 1e-2)
    assert test.p == pytest.approx(1 / 100) == test.corrected[5, 0]
    assert test.observed.max() > test.threshold() > 0.5
    assert (test.corrected[:5] > 0.05).all()
    assert test.null.shape == (99, 6, 1)
    np.testing.assert_array_equal(test.observed, GRID.scores(cells, POSSIBLE, QUADRUPLET))


def test_on_noise_the_corrected_p_is_uniform_and_the_uncorrected_one_is_not(rng: np.random.Generator) -> None:
    corrected, uncorrected = [], []
    for seed in range(50):
        cells = {at: noise(rng) for at in range(7)}
        test = permutation_test(features(cells), replace(GRID, folds=2), count=39, seed=seed)
        corrected.append(test.p)
        uncorrected.append(test.uncorrected.min())
    # 50 draws: a fraction of q has standard deviation sqrt(q (1 - q) / 50). Ties of accuracies push p up a little.
    for level in (0.1, 0.25, 0.5, 0.75):
        assert np.mean(np.array(corrected) <= level) < level + 2.5 * (level * (1 - level) / 50) ** 0.5
    assert 0.45 < np.mean(corrected) < 0.7 and min(corrected) < 0.15
    assert np.mean(np.array(uncorrected) <= 0.1) > 0.35


def test_weak_but_real_is_found_more_often_than_noise(rng: np.random.Generator) -> None:
    weak = [permutation_test(features({0: planted(rng, 0.6), 1: noise(rng)}), GRID, 39).p for _ in range(8)]
    assert np.median(weak) < 0.1


def test_scene_labels_are_constant_in_scenes_and_balanced() -> None:
    labels = scene_labels(QUADRUPLET, seed=3)
    assert (labels.reshape(QUADS, 4) == labels.reshape(QUADS, 4)[:, :1]).all()
    assert labels.sum() == len(labels) / 2
    assert (labels != scene_labels(QUADRUPLET, seed=4)).any()


def test_the_control_task_tells_a_leak(rng: np.random.Generator) -> None:
    scene = {0: rng.normal(size=(QUADS, 60))[QUADRUPLET] + 0.1 * rng.normal(size=(len(QUADRUPLET), 60))}
    labels = np.column_stack([scene_labels(QUADRUPLET, seed) for seed in range(20)])
    grid = replace(GRID, strengths=(1.0,))
    assert grid.scores(scene, labels, QUADRUPLET).mean() < 0.55
    assert grid.scores(scene, labels, np.arange(len(QUADRUPLET)) % 20).mean() > 0.95


def test_what_properties_share_transfers_and_what_is_their_own_does_not(rng: np.random.Generator) -> None:
    shared, specific = planted(rng, 2.0), noise(rng)
    for axis, name in enumerate(np.unique(PROPERTY)):
        specific[:, axis] += 2.0 * SIGN * (name == PROPERTY)

    def reached(x: np.ndarray) -> float:
        return float(((leave_one_property_out(features({0: x})) > 0) == POSSIBLE).mean())

    assert reached(shared) > 0.9
    assert reached(specific) < 0.65
    within = Grid(strengths=(1e-2,), progress=False).scores({0: specific}, POSSIBLE, QUADRUPLET)
    assert within.max() > 0.7


def test_a_held_property_and_its_scenes_are_not_trained_on(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, rows_fitted = noise(rng), []
    x[:, 0] = np.arange(len(x))
    fit = DifferenceOfMeans.fit
    monkeypatch.setattr(
        DifferenceOfMeans, "fit", lambda self, z, y: (rows_fitted.append(z[:, 0].astype(int)), fit(self, z, y))[1]
    )
    leave_one_property_out(features({0: x}), model=DifferenceOfMeans())
    assert len(rows_fitted) == 3
    for held, trained in zip(np.unique(PROPERTY), rows_fitted, strict=True):
        assert held not in PROPERTY[trained]
        assert len(trained) == (held != PROPERTY).sum()


def test_nothing_to_train_on_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="got no scene without property"):
        leave_one_property_out(features({0: noise(rng)}, properties=np.full(len(POSSIBLE), "colour")))


def test_more_groups_teach_more_and_noise_teaches_nothing(rng: np.random.Generator) -> None:
    curve = learning_curve(features({0: planted(rng, 1.0)}), (2, 24), range(6))
    assert curve.shape == (2, 6)
    assert curve[1].mean() > curve[0].mean() and curve[1].mean() > 0.75
    flat = learning_curve(features({0: noise(rng)}), (2, 24), range(6))
    assert 0.38 < flat[1].mean() < 0.62
    constant = learning_curve(features({0: noise(rng)}), (4,), range(2), model=DummyClassifier())
    assert (constant == 0.5).all()


def test_more_groups_than_there_are_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"got \(25,\) training groups of 30 · expected numbers from 1 to 24"):
        learning_curve(features({0: noise(rng)}), (25,))


def test_which_of_several_cells_must_be_said(rng: np.random.Generator) -> None:
    two = features({0: noise(rng), 1: planted(rng, 3.0)})
    for control in (leave_one_property_out, lambda clips: learning_curve(clips, (4,))):
        with pytest.raises(ValueError, match="got 2 cells and no chosen cell"):
            control(two)
    assert ((leave_one_property_out(two, cell=1) > 0) == POSSIBLE).mean() > 0.95
    assert learning_curve(two, (24,), cell=(1,)).mean() > 0.95 > learning_curve(two, (24,), cell=0).mean()


def test_a_nan_score_has_no_p_is_never_best_and_leaves_the_others_alone() -> None:
    observed, null = np.array([[0.7], [0.9], [0.5]]), np.random.default_rng(0).uniform(0.4, 0.8, (99, 3, 1))
    whole = NullTest(("a", "b", "c"), (1.0,), observed, null)
    assert whole.best == ("b", 1.0) and whole.p == pytest.approx(0.01)
    without = NullTest(("a", "c"), (1.0,), observed[[0, 2]], null[:, [0, 2]])
    observed[1], null_with_nan = np.nan, null.copy()
    null_with_nan[3, 1] = np.nan
    for broken in (
        NullTest(whole.cells, (1.0,), observed, null),
        NullTest(whole.cells, (1.0,), whole.observed, null_with_nan),
    ):
        assert broken.best == ("a", 1.0) == without.best
        assert np.isnan(broken.corrected[1, 0]) and np.isnan(broken.uncorrected[1, 0])
        np.testing.assert_array_equal(broken.corrected[[0, 2]], without.corrected)
        assert broken.p == without.p > 0.1 and broken.threshold() == without.threshold()
    nothing = NullTest(("a",), (1.0,), np.array([[np.nan]]), null[:, :1])
    with pytest.raises(ValueError, match="without a number"):
        _ = nothing.best


def test_a_cell_chosen_beforehand_pays_for_no_other() -> None:
    # Hand-worked: cell b is beaten by its null once in four, by the maximum over both cells thrice.
    observed, null = (
        np.array([[0.5], [0.6]]),
        np.array([[[0.4], [0.7]], [[0.9], [0.1]], [[0.8], [0.2]], [[0.1], [0.1]]]),
    )
    test = NullTest(("a", "b"), (1.0,), observed, null)
    assert test.only("b").p == pytest.approx(2 / 5) and test.corrected[1, 0] == pytest.approx(4 / 5)


def test_labels_trade_places_in_scenes_else_in_groups_else_between_groups() -> None:
    x = {0: np.zeros((24, 1))}
    groups = np.repeat(np.arange(6), 4)
    crossed = np.tile([True, True, False, False], 6)
    by_scene = null_labels(features(x, groups, crossed, np.full(24, "")), 50).reshape(50, 6, 4)
    assert (by_scene.sum(-1) == 2).all() and (by_scene[..., 0] == by_scene[..., 1]).all()
    assert 0.3 < by_scene[..., 0].mean() < 0.7

    # A pair of scenes is balanced though each scene is not: they trade places together.
    uneven = np.tile([True, True, True, False, False, False, False, True], 3)
    clips = features(x, groups, uneven, np.full(24, ""))
    paired = replace(clips, clips=clips.clips.assign(group=groups // 2))
    by_group = null_labels(paired, 50).reshape(50, 3, 8)
    assert (by_group == by_group[..., :1] ^ ~uneven[:8]).all() and 0.3 < by_group[..., 0].mean() < 0.7

    # One label to a group: whole groups draw labels, and as many are possible as before.
    constant = np.repeat([True, False, False, True, True, True], 4)
    between = null_labels(features(x, groups, constant, np.full(24, "")), 50).reshape(50, 6, 4)
    assert (between == between[..., :1]).all() and (between[..., 0].sum(1) == 4).all()
    assert len(np.unique(between[..., 0], axis=0)) > 5

    with pytest.raises(ValueError, match=r"got 6 scenes with unequal numbers .*0, 1, 2, 3, 4 and 1 more"):
        null_labels(features(x, groups, np.tile([True, True, True, False], 6), np.full(24, "")), 5)


def test_labels_of_whole_groups_are_no_evidence_on_noise_and_are_where_groups_differ(rng: np.random.Generator) -> None:
    by_group = rng.permutation(QUADS) % 2 == 0
    labels = by_group[QUADRUPLET]
    noisy = noise(rng) + rng.normal(size=(QUADS, WIDTH))[QUADRUPLET]  # clips of a group are alike
    shifted = noisy + 2 * np.where(labels, 1, -1)[:, None]
    assert permutation_test(features({0: noisy}, labels=labels), GRID, 39).p > 0.1
    assert permutation_test(features({0: shifted}, labels=labels), GRID, 39).p == pytest.approx(1 / 40)
