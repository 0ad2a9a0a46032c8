"""Nulls, control tasks, transfer and learning curves say what they should of noise and of what is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from dit_lens.probing import (
    DifferenceOfMeans,
    Grid,
    learning_curve,
    leave_one_property_out,
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


def test_a_planted_cell_stands_out_of_the_corrected_null(rng: np.random.Generator) -> None:
    cells = {at: noise(rng) for at in range(5)} | {("blocks.3", 12): planted(rng)}
    test = permutation_test(GRID, cells, POSSIBLE, QUADRUPLET, count=99)
    assert test.best == (("blocks.3", 12), 1e-2)
    assert test.p == pytest.approx(1 / 100) == test.corrected[5, 0]
    assert test.observed.max() > test.threshold() > 0.5
    assert (test.corrected[:5] > 0.05).all()
    assert test.null.shape == (99, 6, 1)
    np.testing.assert_array_equal(test.observed, GRID.scores(cells, POSSIBLE, QUADRUPLET))


def test_on_noise_the_corrected_p_is_uniform_and_the_uncorrected_one_is_not(rng: np.random.Generator) -> None:
    corrected, uncorrected = [], []
    for seed in range(50):
        cells = {at: noise(rng) for at in range(7)}
        test = permutation_test(replace(GRID, folds=2), cells, POSSIBLE, QUADRUPLET, count=39, seed=seed)
        corrected.append(test.p)
        uncorrected.append(test.uncorrected.min())
    # 50 draws: a fraction of q has standard deviation sqrt(q (1 - q) / 50). Ties of accuracies push p up a little.
    for level in (0.1, 0.25, 0.5, 0.75):
        assert np.mean(np.array(corrected) <= level) < level + 2.5 * (level * (1 - level) / 50) ** 0.5
    assert 0.45 < np.mean(corrected) < 0.7 and min(corrected) < 0.15
    assert np.mean(np.array(uncorrected) <= 0.1) > 0.35


def test_weak_but_real_is_found_more_often_than_noise(rng: np.random.Generator) -> None:
    weak = [permutation_test(GRID, {0: planted(rng, 0.6), 1: noise(rng)}, POSSIBLE, QUADRUPLET, 39).p for _ in range(8)]
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
    shared, own = planted(rng, 2.0), noise(rng)
    for axis, name in enumerate(np.unique(PROPERTY)):
        own[:, axis] += 2.0 * SIGN * (name == PROPERTY)

    def reached(x: np.ndarray) -> float:
        return float(((leave_one_property_out(x, POSSIBLE, QUADRUPLET, PROPERTY) > 0) == POSSIBLE).mean())

    assert reached(shared) > 0.9
    assert reached(own) < 0.65
    within = Grid(strengths=(1e-2,), progress=False).scores({0: own}, POSSIBLE, QUADRUPLET)
    assert within.max() > 0.7


def test_a_held_property_and_its_scenes_are_not_trained_on(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, seen = noise(rng), []
    x[:, 0] = np.arange(len(x))
    fit = DifferenceOfMeans.fit
    monkeypatch.setattr(
        DifferenceOfMeans, "fit", lambda self, z, y: (seen.append(z[:, 0].astype(int)), fit(self, z, y))[1]
    )
    leave_one_property_out(x, POSSIBLE, QUADRUPLET, PROPERTY, DifferenceOfMeans())
    assert len(seen) == 3
    for held, trained in zip(np.unique(PROPERTY), seen, strict=True):
        assert held not in PROPERTY[trained]
        assert len(trained) == (held != PROPERTY).sum()


def test_nothing_to_train_on_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="got no scene without property"):
        leave_one_property_out(noise(rng), POSSIBLE, QUADRUPLET, np.full(len(POSSIBLE), "colour"))


def test_more_scenes_teach_more_and_noise_teaches_nothing(rng: np.random.Generator) -> None:
    curve = learning_curve(planted(rng, 1.0), POSSIBLE, QUADRUPLET, (2, 24), range(6))
    assert curve.shape == (2, 6)
    assert curve[1].mean() > curve[0].mean() and curve[1].mean() > 0.75
    flat = learning_curve(noise(rng), POSSIBLE, QUADRUPLET, (2, 24), range(6))
    assert 0.38 < flat[1].mean() < 0.62
    constant = learning_curve(noise(rng), POSSIBLE, QUADRUPLET, (4,), range(2), DummyClassifier())
    assert (constant == 0.5).all()


def test_more_scenes_than_there_are_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="got 25 training scenes of 30 · expected at most 24"):
        learning_curve(noise(rng), POSSIBLE, QUADRUPLET, (25,))
