"""The fast grid is plain scikit-learn, choices are made inside training folds, and no group is on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.probing import Grid, accuracy, r_squared, ridge
from dit_lens.probing.rotation import Rotation
from dit_lens.probing.solvers import logistic, with_intercept
from dit_lens.stats import swapped_labels

QUADS = 20
QUADRUPLET = np.repeat(np.arange(QUADS), 4)
POSSIBLE = np.tile([True, True, False, False], QUADS)
GRID = Grid(strengths=(1e-4, 1e-2, 1.0), progress=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def features(rng: np.random.Generator, width: int, strength: float = 0.0) -> np.ndarray:
    """Correlated features of uneven scale and offset, possibility planted on the first."""
    mixed = rng.normal(size=(len(POSSIBLE), width)) @ rng.normal(size=(width, width)) / width**0.5
    mixed[:, 0] += strength * np.where(POSSIBLE, 1, -1)
    return mixed * np.exp(rng.normal(size=width)) + rng.normal(size=width)


def plain(make, grid: Grid, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Out-of-fold outputs of one estimator at a time, (s, i)."""
    outputs = np.empty((len(grid.strengths), len(x)))
    for train, test in grid.split(QUADRUPLET):
        for at, strength in enumerate(grid.strengths):
            fitted = make_pipeline(StandardScaler(), make(strength)).fit(x[train], targets[train])
            outputs[at, test] = (getattr(fitted, "decision_function", None) or fitted.predict)(x[test])
    return outputs


@pytest.mark.parametrize("width", [7, 64, 150])
# lbfgs stops where the loss is flat to 64 roundings, whatever its tolerance: it is the less exact of the three.
@pytest.mark.parametrize(("solver", "within"), [("newton-cholesky", 1e-6), ("lbfgs", 1e-4)])
def test_logits_are_those_of_plain_scikit_learn(
    rng: np.random.Generator, width: int, solver: str, within: float
) -> None:
    x = features(rng, width, 1.0)
    expected = plain(lambda c: LogisticRegression(C=c, solver=solver, tol=1e-10, max_iter=20000), GRID, x, POSSIBLE)
    outputs = GRID.outputs({"x": x}, POSSIBLE, QUADRUPLET)[0]
    assert np.abs(outputs - expected).max() < within
    # Positive control: the scale of what is compared, and another strength would be noticed.
    assert np.abs(expected).max() > 1 and np.abs(outputs[1] - expected[2]).max() > 1e-2


def test_no_gradient_is_left(rng: np.random.Generator) -> None:
    x = features(rng, 150, 1.0)
    rotation, labels = Rotation.of(x), POSSIBLE[:, None]
    for strength, weights in zip(GRID.strengths, logistic(rotation, labels, GRID.strengths), strict=True):
        error = expit(with_intercept(rotation.train) @ weights) - labels
        gradient = rotation.train.T @ error + weights[:-1] / strength
        assert np.abs(gradient).max() < 1e-9 and abs(error.sum()) < 1e-9
        assert np.abs(weights[:-1] / strength).max() > 1e-3


def test_the_intercept_is_not_penalised(rng: np.random.Generator) -> None:
    uneven = (np.arange(len(POSSIBLE)) % 8) != 0
    x, weak = features(rng, 30), replace(GRID, strengths=(1e-9,))
    logits = weak.outputs({"x": x}, uneven, QUADRUPLET)[0, 0]
    for train, test in weak.split(QUADRUPLET):
        share = uneven[train].mean()
        assert logits[test] == pytest.approx(np.log(share / (1 - share)), abs=1e-5)


@pytest.mark.parametrize("width", [7, 150])
def test_ridge_is_that_of_plain_scikit_learn(rng: np.random.Generator, width: int) -> None:
    x, grid = features(rng, width), replace(GRID, model="ridge")
    state = np.column_stack([x @ (1 / x.std(0)), rng.normal(size=len(x))])
    outputs = grid.outputs({"x": x}, state, QUADRUPLET)[0]
    for at in range(2):
        expected = plain(lambda c: Ridge(alpha=1 / c), grid, x, state[:, at])
        np.testing.assert_allclose(outputs[..., at], expected, atol=1e-8)
    moving, noise = grid.scores({"x": x}, state, QUADRUPLET)[0, -1]
    assert moving > 0.5 > 0.2 > noise
    assert ridge(0.5)[-1].alpha == 2


def test_a_rotation_keeps_all_inner_products(rng: np.random.Generator) -> None:
    for width in (7, 150):
        x, unseen = features(rng, width), features(rng, width)
        rotation, scaler = Rotation.of(x), StandardScaler().fit(x)
        assert rotation.train.shape[1] <= min(x.shape)
        kernel = scaler.transform(unseen) @ scaler.transform(x).T
        np.testing.assert_allclose(rotation(unseen) @ rotation.train.T, kernel, atol=1e-9 * np.abs(kernel).max())
        np.testing.assert_allclose(rotation(x), rotation.train, atol=1e-8)


def test_constant_features_and_copies_do_no_harm(rng: np.random.Generator) -> None:
    x = features(rng, 20, 1.0)
    padded = np.column_stack([x, np.ones((len(x), 3))])
    np.testing.assert_allclose(*(GRID.outputs({0: z}, POSSIBLE, QUADRUPLET) for z in (x, padded)), atol=1e-8)
    doubled = replace(GRID, strengths=tuple(s / 2 for s in GRID.strengths))
    twice = doubled.outputs({0: np.column_stack([x, x])}, POSSIBLE, QUADRUPLET)
    np.testing.assert_allclose(twice, GRID.outputs({0: x}, POSSIBLE, QUADRUPLET), atol=1e-7)


def test_labellings_cells_and_jobs_do_not_touch_each_other(rng: np.random.Generator) -> None:
    cells = {("resid_post", 3): features(rng, 30, 1.0), ("mlp_post", 3): features(rng, 90)}
    labellings = np.column_stack([POSSIBLE, ~POSSIBLE, rng.permuted(POSSIBLE)])
    together = GRID.outputs(cells, labellings, QUADRUPLET)
    assert together.shape == (2, 3, len(POSSIBLE), 3)
    for at, cell in enumerate(cells.values()):
        alone = GRID.outputs({0: cell}, labellings[:, 2], QUADRUPLET)
        np.testing.assert_allclose(together[at, ..., 2], alone[0], atol=1e-7)
    np.testing.assert_allclose(together[..., 0], -together[..., 1], atol=1e-7)
    with parallel_config(backend="threading"):
        assert np.array_equal(replace(GRID, n_jobs=2).outputs(cells, labellings, QUADRUPLET), together)
    scores = GRID.scores(cells, labellings, QUADRUPLET)
    np.testing.assert_array_equal(scores, accuracy(labellings, together))


def test_scores_by_hand() -> None:
    assert accuracy(np.array([[True], [False], [True]]), np.array([[2.0], [3.0], [0.1]])) == pytest.approx([2 / 3])
    assert r_squared(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [2.0]])) == pytest.approx([0.5])


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=5, max_size=12), seed=st.integers(0, 99))
def test_no_group_is_on_both_sides(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    tested = []
    for train, test in Grid(progress=False).split(groups):
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(len(groups)))
        tested.extend(test)
    assert sorted(tested) == list(range(len(groups)))


def test_memory_of_scenes_is_worth_nothing(rng: np.random.Generator) -> None:
    # Labels belong to scenes and features say which scene it is: only a leak, outside or inside, can tell.
    identity = {0: rng.normal(size=(QUADS, 100))[QUADRUPLET] + 0.01 * rng.normal(size=(len(QUADRUPLET), 100))}
    by_scene = np.column_stack([rng.permuted(np.arange(QUADS) % 2 == 0)[QUADRUPLET] for _ in range(20)])
    assert GRID.scores(identity, by_scene, QUADRUPLET).mean() < 0.55
    assert accuracy(by_scene, GRID.nested(identity, by_scene, QUADRUPLET).outputs).mean() < 0.55
    assert GRID.scores(identity, by_scene, np.arange(len(QUADRUPLET)) % 20)[0, -1].mean() > 0.95


def test_a_nested_choice_is_at_chance_on_noise_where_the_best_cell_is_not(rng: np.random.Generator) -> None:
    grid, cells = replace(GRID, strengths=(1e-3, 1e-1)), {at: rng.normal(size=(len(POSSIBLE), 4)) for at in range(10)}
    labellings = swapped_labels(POSSIBLE, QUADRUPLET, 60).T
    assert grid.scores(cells, labellings, QUADRUPLET).max((0, 1)).mean() > 0.57
    nested = accuracy(labellings, grid.nested(cells, labellings, QUADRUPLET).outputs)
    assert abs(nested.mean() - 0.5) < 3 * 0.056 / 60**0.5


def test_a_nested_choice_finds_the_planted_cell_and_strength(rng: np.random.Generator) -> None:
    cells = {at: features(rng, 60) for at in range(4)} | {"planted": features(rng, 60, 4.0)}
    chosen = GRID.nested(cells, POSSIBLE, QUADRUPLET)
    assert (chosen.cell == 4).all() and chosen.cell.shape == chosen.strength.shape == (5,)
    everything = GRID.outputs(cells, POSSIBLE, QUADRUPLET)
    for (_, test), cell, strength in zip(GRID.split(QUADRUPLET), chosen.cell, chosen.strength, strict=True):
        np.testing.assert_array_equal(chosen.outputs[test], everything[cell, strength, test])
    assert ((chosen.outputs > 0) == POSSIBLE).mean() > 0.8


def test_a_choice_does_not_depend_on_the_clips_it_is_tested_on(rng: np.random.Generator) -> None:
    cells = {at: features(rng, 10, 0.5) for at in range(3)}
    before = GRID.nested(cells, POSSIBLE, QUADRUPLET)
    _, test = GRID.split(QUADRUPLET)[0]
    changed = {at: x.copy() for at, x in cells.items()}
    for x in changed.values():
        x[test] += 10 * np.where(POSSIBLE[test], 1, -1)[:, None]
    after = GRID.nested(changed, POSSIBLE, QUADRUPLET)
    assert (after.cell[0], after.strength[0]) == (before.cell[0], before.strength[0])
    assert not np.allclose(after.outputs[test], before.outputs[test])


def test_what_does_not_fit_together_is_refused(rng: np.random.Generator) -> None:
    x = features(rng, 5)
    with pytest.raises(ValueError, match="expected cells, targets and groups of the same clips"):
        GRID.outputs({0: x, 1: x[1:]}, POSSIBLE, QUADRUPLET)
    with pytest.raises(ValueError, match="1 labellings of 2 with a single class"):
        GRID.outputs({0: x}, np.column_stack([POSSIBLE, np.ones_like(POSSIBLE)]), QUADRUPLET)


def test_the_bar_is_shown_or_not(rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    GRID.outputs({0: features(rng, 5)}, POSSIBLE, QUADRUPLET)
    assert capsys.readouterr().err == ""
    replace(GRID, progress=True).outputs({0: features(rng, 5)}, POSSIBLE, QUADRUPLET)
    assert "cells" in capsys.readouterr().err
