"""`fit` is plain scikit-learn cell by cell, chooses what is planted, and says what the choice is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens import probing, stats
from dit_lens.probing import STRENGTH, Features, Grid, Probe, estimator
from dit_lens.probing.affine import Affine

STEPS, BLOCKS, LAWS = (8, 14), (0, 1, 2), ("continuity", "gravity", "inertia")
SIGN = np.array([1, 1, -1, -1])
POINT = "blocks.{block}.hook_resid_post"


def clips(scenes: int, split: str) -> pd.DataFrame:
    scene = np.repeat([f"{split}/{i:03d}" for i in range(scenes)], 4)
    role = np.tile(list("ABCD"), scenes)
    return pd.DataFrame(
        {
            "id": [f"{s}/{r}" for s, r in zip(scene, role, strict=True)],
            "scene": scene,
            "group": scene,
            "role": role,
            "property": np.repeat(np.resize(LAWS, scenes), 4),
            "possible": np.tile([True, True, False, False], scenes),
        }
    )


def planted(
    scenes: int = 36, split: str = "train", seed: int = 0, width: int = 12, strength: float = 0.4, **by_law: float
) -> Features:
    """Correlated noise in every cell; in block b a shared direction of `strength` b, growing with the step.

    Args:
        by_law: strength of a direction at (8, 0) that only this law's clips have.
    """
    rng, fixed, table = np.random.default_rng(seed), np.random.default_rng(99), clips(scenes, split)
    sign, cells = np.tile(SIGN, scenes), {}
    for step in STEPS:
        for block in BLOCKS:
            mix = fixed.normal(size=(width, width)) / width**0.5
            x = rng.normal(size=(len(table), width)) @ mix + 5
            x[:, 0] += strength * block * (step / 14) * sign
            cells[step, block] = x.astype(np.float32)
    for axis, (law, strength) in enumerate(by_law.items(), start=1):
        cells[8, 0][:, axis] += strength * sign * (table.property == law)
    return Features(cells, table, point=POINT, sigmas={8: 0.4, 14: 0.7}, name="mini-wan")


class Literal:
    """What `fit` is to give, as the first edition's map of cells had it: one scikit-learn pipeline after another."""

    def __init__(self, train: Features, test: Features, model) -> None:
        y, z, laws = train.labels, test.labels, test.properties
        keys, cv = list(train.cells), GroupKFold(5)
        self.inside = np.stack(
            [
                cross_val_predict(model, x, y, groups=train.groups, cv=cv, method="decision_function")
                for x in train.cells.values()
            ]
        )
        self.outside = np.stack([model.fit(x, y).decision_function(test.cells[k]) for k, x in train.cells.items()])
        right = (self.inside > 0) == y
        self.accuracy, self.test_accuracy = right.mean(1), ((self.outside > 0) == z).mean(1)
        best = int(self.accuracy.argmax())
        self.cell, self.logits = keys[best], self.outside[best]
        self.by_law, self.left_out = np.empty(len(z)), np.empty(len(z))
        for law in np.unique(laws):
            at = int(right[:, train.properties == law].mean(1).argmax())
            self.by_law[laws == law] = self.outside[at, laws == law]
            others = train.properties != law
            fitted = model.fit(train.cells[self.cell][others], y[others])
            self.left_out[laws == law] = fitted.decision_function(test.cells[self.cell][laws == law])


def converged(strength: float = STRENGTH):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12))


# At its default tolerance scikit-learn's own logits are off by up to a hundredth of their spread.
@pytest.mark.parametrize(("model", "within"), [(converged(), 1e-5), (estimator(), 1e-2)], ids=["converged", "default"])
@pytest.mark.parametrize("width", [12, 200])  # fewer features than training clips, and more
def test_it_is_plain_scikit_learn_cell_by_cell(model, within: float, width: int) -> None:
    strength = 0.4 if width == 12 else 1.2
    train, test = planted(width=width, strength=strength), planted(30, "test", 1, width, strength)
    double = replace(train, cells={key: x.astype(np.float64) for key, x in train.cells.items()})
    literal, probes = Literal(double, test, model), probing.fit(train, rule="best")
    assert probes.cell == literal.cell != (8, 0)

    def close(logits: np.ndarray, expected: np.ndarray) -> None:
        assert np.abs(logits - expected).max() < within * expected.std()

    close(probes.logits_out_of_fold, literal.inside)
    flips = np.abs(literal.inside) < within
    inside = probes.accuracy.values.ravel()
    assert (np.abs(inside - literal.accuracy) <= flips.mean(1) + 1e-12).all()
    close(probes.logits(test).values, literal.logits)
    close(probes.left_out(test).values, literal.left_out)
    close(probes.chosen_by_property(test).values, literal.by_law)
    everywhere = probes.all_logits(test)
    assert everywhere.dims == ("clip", "step", "block")
    close(everywhere.values.reshape(len(test), -1).T, literal.outside)
    reached = ((everywhere.values > 0) == test.labels[:, None, None]).mean(0).ravel()
    assert np.abs(reached - literal.test_accuracy).max() <= (np.abs(literal.outside) < within).mean(1).max() + 1e-12
    # Positive control: cells, and probes with a property left out, differ by far more.
    assert np.abs(literal.outside[0] - literal.logits).max() > 0.5 * literal.logits.std()
    assert np.abs(literal.left_out - literal.logits).max() > 0.03 * literal.logits.std()


def test_the_frozen_probe_says_what_the_map_says() -> None:
    train, test = planted(width=10), planted(30, "test", 1, 10)
    probes = probing.fit(replace(train, parts=2))
    probe, x = probes.probe, torch.from_numpy(test.cell(14, 2))
    assert isinstance(probe, Probe) and probe.weight.shape == (2, 5)
    assert (probe.reads.point, probe.reads.step, probe.reads.sigma) == ("blocks.2.hook_resid_post", 14, 0.7)
    assert probe.reads.model == "mini-wan"
    logits = probes.logits(replace(test, parts=2)).values
    tokens = x.unflatten(1, (2, 5)).repeat_interleave(3, dim=1)  # two frames of three like tokens
    np.testing.assert_allclose(probe.of_activation(tokens), logits, atol=1e-2 * logits.std())
    np.testing.assert_array_equal(probes.logit(None, {probe.reads.point: tokens}), probe.of_activation(tokens))
    again = Probe.fit(train.cell(14, 2), train.labels, train.groups, probe.reads, 2)
    assert torch.equal(again.weight, probe.weight) and again.spread == probe.spread


def test_what_is_no_activation_has_no_probe_but_logits() -> None:
    train = Features.of_arrays(
        {"pixels": planted().cell(14, 2)}, planted().labels, planted().groups, ("layer",), name="pixels"
    )
    probes = probing.fit(train)
    assert probes.probe is None and probes.cell == ("pixels",) and probes.accuracy.dims == ("layer",)
    with pytest.raises(ValueError, match="expected activations of a hook point"):
        _ = probes.logit
    assert ((probes.logits(train) > 0) == train.labels).mean() > 0.75


def test_the_first_of_equal_cells_is_chosen_and_the_one_asked_for_is_taken() -> None:
    train = planted()
    equal = replace(train, cells={key: train.cell(14, 2) for key in train.cells})
    assert probing.fit(equal).cell == (8, 0)
    asked = probing.fit(train, cell=(8, 1))
    assert asked.cell == (8, 1) and not asked.selected
    np.testing.assert_array_equal(asked.accuracy, probing.fit(train).accuracy)
    with pytest.raises(ValueError, match=r"got cell \(8, 9\)"):
        probing.fit(train, cell=(8, 9))


def test_strength_is_chosen_with_the_cell() -> None:
    train, strengths = planted(60, width=40), (1e-6, 1e-2, 1e3)
    probes = probing.fit(train, strengths=strengths)
    alone = {s: probing.fit(train, strengths=(s,)) for s in strengths}
    best = max(float(fitted.accuracy.max()) for fitted in alone.values())
    assert float(probes.accuracy.max()) == best
    assert len({float(fitted.accuracy.max()) for fitted in alone.values()}) > 1
    chosen = alone[probes.strength]
    assert probes.cell == chosen.cell
    np.testing.assert_allclose(probes.logits_out_of_fold, chosen.logits_out_of_fold, atol=1e-3)
    np.testing.assert_array_equal(probes.logits(train), chosen.logits(train))


def test_the_interval_is_that_of_a_share_over_groups() -> None:
    train = planted()
    probes = probing.fit(train)
    right = ((probes.logits_out_of_fold > 0) == train.labels).reshape(6, 36, 4).mean(-1)
    for (step, block), row in zip(train.cells, right, strict=True):
        expected = [float(x) for x in stats.mean_interval(row, bounds=stats.SHARE)]
        at = {"step": step, "block": block}
        assert probes.accuracy.sel(at).item() == pytest.approx(expected[0])
        assert probes.accuracy_interval.sel(at).values.tolist() == pytest.approx(expected[1:])
    # Clips that hang together count as one: whole scenes copied do not narrow the interval of their group.
    copies = [train, replace(train, clips=train.clips.assign(id=train.clips.id + "'", scene=train.clips.scene + "'"))]
    doubled = probing.fit(Features.concat(copies))
    width = probes.accuracy_interval.diff("bound"), doubled.accuracy_interval.diff("bound")
    assert float(width[1].mean() / width[0].mean()) > 0.9


def test_the_null_is_corrected_for_the_choice_and_not_for_a_cell_asked_for() -> None:
    noise = replace(planted(), cells={key: planted().cell(*key) * 0 for key in planted().cells})
    rng = np.random.default_rng(3)
    noise = replace(noise, cells={key: rng.normal(size=x.shape) for key, x in noise.cells.items()})
    real, chance = probing.fit(planted(), permutations=39), probing.fit(noise, permutations=39)
    assert real.p == pytest.approx(1 / 40) and chance.p > 0.1
    assert real.null is not None and real.null.observed[:, 0] == pytest.approx(real.accuracy.values.ravel())
    asked = probing.fit(noise, cell=chance.cell, permutations=39)
    assert asked.p < chance.p
    assert asked.null is not None and asked.p == pytest.approx(
        float(asked.null.uncorrected[list(noise.cells).index(asked.cell), 0])
    )
    assert np.isnan(probing.fit(noise).p)


def test_a_test_on_noise_is_at_chance_where_the_chosen_cell_looks_better() -> None:
    """The choice among cells inflates; other clips do not follow."""
    inside, outside = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        parts = [planted(24, "train", seed), planted(24, "test", seed + 100)]
        train, test = (replace(p, cells={k: rng.normal(size=x.shape) for k, x in p.cells.items()}) for p in parts)
        probes = probing.fit(train)
        inside.append(float(probes.accuracy.max()))
        outside.append(probes.scores(test).accuracy)
    assert np.mean(inside) > 0.54 and abs(np.mean(outside) - 0.5) < 3 * 0.5 / (12 * 96) ** 0.5


def test_what_a_law_has_to_itself_is_lost_when_it_is_left_out() -> None:
    laws = {"continuity": 3.0, "gravity": 3.0, "inertia": 3.0}
    train, test = planted(48, **laws), planted(48, "test", 1, **laws)
    probes = probing.fit(train, cell=(8, 0))
    right = {
        name: float(((logits.values > 0) == test.labels).mean())
        for name, logits in (("all", probes.logits(test)), ("left out", probes.left_out(test)))
    }
    assert right["all"] > 0.8 and right["left out"] < 0.65
    shared = probing.fit(train, cell=(14, 2)).left_out(test)
    assert ((shared.values > 0) == test.labels).mean() > 0.75


def test_a_single_law_is_read_by_its_own_probe() -> None:
    train, test = planted(), planted(30, "test", 1)
    probes = probing.fit(train.where(property="gravity"))
    np.testing.assert_array_equal(
        probes.left_out(test.where(property="gravity")), probes.logits(test.where(property="gravity"))
    )
    # Of a law that was not trained on, no clip has to be left out, and no cell is chosen.
    np.testing.assert_array_equal(
        probes.chosen_by_property(test.where(property="inertia")), probes.logits(test.where(property="inertia"))
    )


def test_each_law_chooses_its_cell() -> None:
    probes = probing.fit(planted(48, inertia=6.0))
    assert probes.best_cell("inertia") == (8, 0) and probes.best_cell("gravity") == (14, 2) == probes.cell
    test = planted(48, "test", 1, inertia=6.0)
    logits, laws = probes.chosen_by_property(test).values, test.properties
    np.testing.assert_array_equal(logits[laws == "inertia"], probes.logits(test, (8, 0))[laws == "inertia"])
    np.testing.assert_array_equal(logits[laws == "gravity"], probes.logits(test)[laws == "gravity"])


def test_scores_are_those_of_the_logits_over_scenes_and_groups() -> None:
    train, test = planted(), planted(30, "test", 1)
    probes, pairs = probing.fit(train), test.clips.group.str[:-1]
    coarse = replace(test, clips=test.clips.assign(group=pairs))  # ten scenes to a group
    logits = probes.logits(test).values
    assert probes.scores(test) == probing.score(logits, test.labels, test.groups)
    by_group = probes.scores(coarse)
    assert by_group.pairwise == probes.scores(test).pairwise and by_group.groups == 3
    assert by_group == probing.score(logits, test.labels, coarse.groups, scenes=test.scenes)
    assert probes.scores(test, (8, 0)).accuracy < by_group.accuracy


def test_log_odds_carry_what_is_known_of_the_clips_but_need_no_label() -> None:
    train, test = planted(), planted(30, "test", 1)
    unknown = replace(test, clips=test.clips.assign(possible=None))
    logits = probing.fit(train).logits(unknown)
    assert logits["clip"].values.tolist() == test.clips.id.tolist() and logits.dims == ("clip",)
    assert logits.property.values.tolist() == test.clips.property.tolist()
    by_scene = test.table(logits)
    assert by_scene.sel(scene="test/003", role="C").item() == logits.sel(clip="test/003/C").item()
    with pytest.raises(ValueError, match="120 clips without a label"):
        probing.fit(train).scores(unknown)


def test_the_table_is_best_first_and_the_sentence_says_the_first_row() -> None:
    probes = probing.fit(planted(), permutations=19)
    table = probes.table()
    assert list(table.columns) == ["step", "block", "accuracy", "low", "high", "p"] and len(table) == 6
    assert (table.step[0], table.block[0]) == probes.cell and table.accuracy.is_monotonic_decreasing
    assert table.p[0] == probes.p == pytest.approx(0.05) and table.p.iloc[-1] > 0.3
    row = table.iloc[0]
    assert repr(probes) == (
        f"The best of 6 cells is step 14, block 2: accuracy {row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}] out of"
        " fold on 144 clips of 36 groups, p = 0.05 by 19 permuted labellings for the best cell."
    )
    assert repr(probing.fit(planted(), cell=(8, 0))).startswith("The cell is step 8, block 0: accuracy 0.")
    assert probing.fit(planted()).table().p.isna().all()


def test_cells_may_differ_in_width_and_be_missing() -> None:
    train = planted()
    cells = {key: x if key[1] else x[:, :5] for key, x in train.cells.items() if key != (8, 1)}
    probes = probing.fit(replace(train, cells=cells))
    assert probes.cell == (14, 2) and np.isnan(probes.accuracy.sel(step=8, block=1))
    assert int(np.isfinite(probes.accuracy).sum()) == 5
    whole = probing.fit(train)
    np.testing.assert_allclose(probes.accuracy.sel(step=14, block=2), whole.accuracy.sel(step=14, block=2))


def test_float16_features_are_those_numbers_in_float64() -> None:
    half = replace(planted(), cells={key: (20 * x + 3000).astype(np.float16) for key, x in planted().cells.items()})
    full = replace(half, cells={key: x.astype(np.float64) for key, x in half.cells.items()})
    low, high = probing.fit(half), probing.fit(full)
    np.testing.assert_array_equal(low.logits_out_of_fold, high.logits_out_of_fold)
    np.testing.assert_array_equal(low.all_logits(half), high.all_logits(full))
    assert low.probe is not None and high.probe is not None and torch.equal(low.probe.weight, high.probe.weight)


def test_what_cannot_be_fitted_or_read_is_refused() -> None:
    train, test = planted(), planted(30, "test", 1)
    with pytest.raises(ValueError, match="got 4 groups · expected at least 5"):
        probing.fit(train.at(np.arange(16)))
    with pytest.raises(ValueError, match=r"classes \['True'\]"):
        probing.fit(train.where(role=("A", "B")))
    with pytest.raises(ValueError, match="got 36 scenes with unequal numbers"):
        probing.fit(train.where(role=("A", "B", "C")), permutations=5)
    probes = probing.fit(train)
    narrow = replace(test, cells={key: x[:, :4] for key, x in test.cells.items()})
    for mismatched in (narrow, replace(test, parts=2), test.select(block=0)):
        with pytest.raises(ValueError, match="capture both with the same model and pooling"):
            probes.logits(mismatched)
    with pytest.raises(ValueError, match=r"got cell \(3, 3\)"):
        probes.logits(test, (3, 3))


@pytest.mark.parametrize("width", [7, 300])
def test_one_probe_alone_leaves_no_gradient(width: int) -> None:
    rng = np.random.default_rng(0)
    x, y = 40 + 3 * rng.normal(size=(120, width)), rng.random(120) < 0.3
    fitted = Affine.fit(x, y, 0.1)
    scaled, spread = (x - x.mean(0)) / x.std(0), x.std(0)
    error = 1 / (1 + np.exp(-fitted(x))) - y
    gradient = scaled.T @ error + fitted.weight * spread / 0.1
    assert np.abs(gradient).max() < 1e-4 and abs(error.sum()) < 1e-4
    assert np.abs(fitted.weight * spread / 0.1).max() > 1  # positive control: the size of what cancels
    with pytest.raises(ValueError, match="with a single class among 120 training clips"):
        Affine.fit(x, np.ones(120, bool), 0.1)


def test_rounding_does_not_move_the_chosen_cell() -> None:
    """Two cells read equally well but for a clip on the boundary: a millionth moves the best cell, not the chosen one.

    The clip is misclassified in the first of the two. In its fold it is moved onto the boundary of the second's probe.
    """
    rng, train = np.random.default_rng(0), planted(60)
    x = train.cell(14, 2).astype(np.float64)
    noise, moved = rng.normal(size=x.shape), x.copy()
    wrong = (probing.fit(train).logits_out_of_fold[list(train.cells).index((14, 2))] > 0) != train.labels
    clip = int(np.flatnonzero(wrong)[0])
    fold = next(rest for rest, test in Grid().split(train.groups) if clip in test)
    affine = Affine.fit(x[fold], train.labels[fold], STRENGTH)
    moved[clip] -= affine(x[[clip]]) * affine.weight / (affine.weight @ affine.weight)
    chosen: dict[str, set] = {"one_error": set(), "best": set()}
    for _ in range(12):
        cells = {(8, 0): x, (8, 1): noise, (14, 0): moved + 1e-6 * rng.normal(size=x.shape)}
        chosen["one_error"].add(probing.fit(replace(train, cells=cells)).cell)
        chosen["best"].add(probing.fit(replace(train, cells=cells), rule="best").cell)
    assert chosen == {"one_error": {(8, 0)}, "best": {(8, 0), (14, 0)}}


def test_a_cell_is_chosen_among_those_of_one_step() -> None:
    probes = probing.fit(planted())
    assert probes.cell_of(step=14) == probes.cell == (14, 2) and probes.cell_of(step=8)[0] == 8
    with pytest.raises(ValueError, match="got step 3"):
        probes.cell_of(step=3)
