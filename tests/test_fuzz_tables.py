"""Whatever table comes in, what comes out is a right value or an error that says what was got and what is expected."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.special import expit

from dit_lens import stats
from dit_lens.probing import (
    PROTOCOLS,
    AttentiveProbe,
    DifferenceOfMeans,
    Features,
    Grid,
    LinearSoftmax,
    Probe,
    Reads,
    check_labels,
    estimator,
    fit,
    learning_curve,
    leave_one_property_out,
    mlp,
    out_of_fold_logits,
    permutation_test,
    ridge,
    score,
    transfer,
)
from dit_lens.probing.estimators import Descent

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

READS = Reads("blocks.2.hook_resid_post", 14, 0.5, "mini-wan")
GRID = Grid((0.02, 1.0), folds=2, inner=2, progress=False)
SHORT = Descent(1, 16)
STATES = Grid((0.02, 1.0), folds=2, model="ridge", progress=False)

KINDS = ("clean", "nan", "infinite", "large", "small", "constant", "half", "integer", "shifted", "wide")
LABELS = ("boolean", "integer", "int8", "list", "numpy scalars", "none", "nan", "signed", "text", "float", "tensors")


def outcome(call: Callable[[], Any]) -> Any:
    """The value, or None where the call was refused in the form of this house; anything else is a failure."""
    try:
        return call()
    except ValueError as error:
        message = str(error)
        assert message.startswith("got ") and " · expected " in message, message
        return None


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, np.ndarray, str, Any, np.ndarray, bool]:
    """Features of some kind, labels of some kind, groups, and whether all of it can be fitted."""
    groups = draw(st.integers(1, 8))
    clips = draw(st.sampled_from([2, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    kind, named = draw(st.sampled_from(KINDS)), draw(st.sampled_from(LABELS))
    possible = np.tile(np.arange(clips) < clips // 2, groups)
    x = rng.normal(size=(len(possible), draw(st.integers(1, 6)))) + possible[:, None]
    features = features_of(kind, x, rng)
    of_clip = np.repeat(np.arange(groups), clips)
    if draw(st.booleans()):  # one label to a group
        possible = of_clip % 2 == 0
    right = kind not in ("nan", "infinite", "large") and named not in ("none", "nan", "signed", "text", "float")
    return kind, features, named, labels_of(named, possible), of_clip, right and groups >= 4


def features_of(kind: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed = x.copy()
    at = int(rng.integers(len(x))), int(rng.integers(x.shape[1]))
    match kind:
        case "nan" | "infinite" | "large":
            changed[at] = {"nan": np.nan, "infinite": -np.inf, "large": 1e30}[kind]
        case "small":
            changed *= 1e-12
        case "constant":
            changed[:] = 3.7
        case "half":
            return (changed * 20 + 3000).astype(np.float16)
        case "integer":
            return np.round(10 * changed).astype(np.int16)
        case "shifted":
            return (changed + 1e5).astype(np.float32)
        case "wide":
            return np.tile(changed, (1, 20))
    return changed


def labels_of(named: str, possible: np.ndarray) -> Any:
    values = possible.tolist()
    match named:
        case "integer":
            return possible.astype(int)
        case "int8":
            return possible.astype(np.int8)
        case "list":
            return values
        case "numpy scalars":
            return [np.bool_(value) for value in values]
        case "none":
            return np.array([None, *values[1:]], object)
        case "nan":
            return np.array([np.nan, *values[1:]], object)
        case "signed":
            return np.where(possible, 1, -1)
        case "text":
            return np.where(possible, "1", "0")
        case "float":
            return possible.astype(float)
        case "tensors":
            return [torch.tensor(value) for value in values]
    return possible


ENTRIES: dict[str, Callable[[np.ndarray, Any, np.ndarray], Any]] = {
    "Grid.outputs": lambda x, y, g: GRID.outputs({0: x}, np.asarray(y), g),
    "Grid.scores": lambda x, y, g: GRID.scores({0: x, 1: x}, np.asarray(y), g),
    "Grid.nested": lambda x, y, g: GRID.nested({0: x}, np.asarray(y), g).outputs,
    "Features": lambda x, y, g: Features.of_arrays({(0, 0): x}, y, g).labels,
    "fit": lambda x, y, g: fit(Features.of_arrays({(0, 0): x}, y, g), folds=2).table()[["accuracy", "low", "high"]],
    "permutation_test": lambda x, y, g: permutation_test(Features.of_arrays({(0, 0): x}, y, g), GRID, 19).corrected,
    "learning_curve": lambda x, y, g: learning_curve(Features.of_arrays({(0, 0): x}, y, g), (2,), (0,)),
    "leave_one_property_out": lambda x, y, g: leave_one_property_out(
        Features.of_arrays({(0, 0): x}, y, g, properties=np.where(g % 4 < 2, "a", "b"))
    ),
    "transfer": lambda x, y, g: transfer(
        Features.of_arrays({(0, 0): x}, y, g), np.where(np.arange(len(g)) % 2, "a", "b"), GRID
    )["a"],
    "Probe.fit": lambda x, y, g: Probe.fit(x, np.asarray(y), g, READS, folds=2).weight.numpy(),
    "out_of_fold_logits": lambda x, y, g: out_of_fold_logits(x, np.asarray(y), g, folds=2),
    "Protocol.run": lambda x, y, g: PROTOCOLS["website"].run({0: x}, np.asarray(y), g).logits,
    "DifferenceOfMeans": lambda x, y, g: DifferenceOfMeans().fit(x, check_labels(y)).decision_function(x),
    "LinearSoftmax": lambda x, y, g: LinearSoftmax(SHORT).fit(x, check_labels(y)).decision_function(x),
    "AttentiveProbe": lambda x, y, g: (
        AttentiveProbe(descent=SHORT).fit(x[:, None], check_labels(y)).decision_function(x[:, None])
    ),
    "estimator": lambda x, y, g: estimator().fit(x, check_labels(y)).decision_function(x),
    "ridge": lambda x, y, g: ridge().fit(x, check_labels(y).astype(float)).predict(x),
    "mlp": lambda x, y, g: mlp(4).fit(x, check_labels(y)).predict_proba(x),
    "Grid, ridge": lambda x, y, g: STATES.scores({0: x}, check_labels(y).astype(float), g),
}


@pytest.mark.parametrize("entry", ENTRIES)
@settings(max_examples=40)
@given(table=tables())
def test_every_entry_of_probing_gives_numbers_or_says_what_it_expects(
    entry: str, table: tuple[str, np.ndarray, str, Any, np.ndarray, bool]
) -> None:
    kind, features, named, labels, groups, right = table
    result = outcome(lambda: ENTRIES[entry](features, labels, groups))
    if kind in ("nan", "infinite", "large") or named in ("none", "nan", "signed", "text", "float"):
        assert result is None or (entry == "Features" and named == "none")
    elif result is not None:
        assert np.isfinite(np.asarray(result, dtype=float)).all()
    if right and entry in ("Grid.scores", "DifferenceOfMeans", "estimator", "Features"):
        assert result is not None or entry == "Grid.scores"


HALVES = {"float16": np.float16, "bfloat16": np.float32}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("entry", [name for name in ENTRIES if name not in ("Features", "mlp", "permutation_test")])
def test_half_precision_is_computed_as_float64(entry: str, dtype: str) -> None:
    """bfloat16 comes as float32, which holds it exactly: numpy has no such type."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(8), 4)
    possible = np.tile([True, True, False, False], 8)
    exact = rng.normal(size=(32, 3)) * 20 + 3000 + 20 * possible[:, None]
    half = torch.tensor(exact).to(getattr(torch, dtype)).to(torch.float32).numpy().astype(HALVES[dtype])
    of_half, of_full = (ENTRIES[entry](x, possible, groups) for x in (half, half.astype(np.float64)))
    np.testing.assert_allclose(np.asarray(of_half, float), np.asarray(of_full, float), rtol=1e-6, atol=1e-9)


def test_constant_features_say_no_more_than_the_share_of_labels() -> None:
    labels, groups = np.tile([True, True, True, False], 8), np.repeat(np.arange(8), 4)
    for width in (3, 80):
        outputs = GRID.outputs({0: np.full((32, width), 3000.1, np.float32)}, labels, groups)
        assert outputs == pytest.approx(np.log(3), abs=1e-6)  # the log odds of three in four
    assert expit(out_of_fold_logits(np.full((32, 2), 3.7), labels, groups, 2)) == pytest.approx(0.75, abs=1e-3)


# Statistics.

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]), st.integers(-3, 3).map(float)
)


def arrays(
    least: int = 1, most: int = 9, elements: st.SearchStrategy[float] = NUMBERS
) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(least, most), st.integers(1, 4))
    return shape.flatmap(lambda size: nps.arrays(np.float64, size, elements=elements))


@settings(max_examples=100)
@given(arrays(1, 9), st.sampled_from([np.float64, np.float32, np.float16]))
def test_intervals_hold_their_estimate_or_are_nan(values: np.ndarray, dtype: type) -> None:
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    estimate, low, high = stats.mean_interval(values)
    known = np.isfinite(values).all(0)
    assert np.isnan(estimate[~known]).all() or len(values) == 1
    if len(values) > 1:
        assert np.isnan([low[~known], high[~known]]).all()
        slack = 1e-9 * (1 + np.abs(estimate[known]))
        assert (low[known] <= estimate[known] + slack).all() and (estimate[known] <= high[known] + slack).all()
        assert estimate[known] == pytest.approx(values[:, known].astype(float).mean(0), rel=1e-6, abs=1e-9)


@settings(max_examples=100)
@given(arrays(2, 12, st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan])))
def test_intervals_of_shares_lie_between_0_and_1_and_are_never_certain(values: np.ndarray) -> None:
    estimate, low, high = stats.mean_interval(values, bounds=stats.SHARE)
    known = np.isfinite(values).all(0)
    assert np.isnan([estimate[~known], low[~known], high[~known]]).all()
    assert (low[known] >= 0).all() and (high[known] <= 1).all() and (high - low)[known].min(initial=1) > 1e-3
    assert (low[known] <= estimate[known]).all() and (estimate[known] <= high[known]).all()


@settings(max_examples=100)
@given(st.data())
def test_p_values_are_those_of_the_cells_that_have_scores(data: st.DataObject) -> None:
    cells, count = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 30))
    some = st.one_of(st.floats(-5, 5), st.just(np.nan))
    observed = data.draw(nps.arrays(np.float64, cells, elements=some))
    null = data.draw(
        nps.arrays(np.float64, (count, cells), elements=st.one_of(st.floats(-5, 5), st.floats(-5, 5), some))
    )
    known = ~(np.isnan(observed) | np.isnan(null).any(0))
    for p_value in (stats.permutation_p, stats.selection_corrected_p):
        p = p_value(observed, null)
        assert np.isnan(p[~known]).all() and (p[known] >= 1 / (1 + count)).all() and (p[known] <= 1).all()
        if known.any():
            assert p[known].tolist() == p_value(observed[known], null[:, known]).tolist()


@settings(max_examples=100)
@example(np.array([[0.0], [-1], [0], [0], [1], [0]]), 2)  # two groups whose parts differ by rounding alone
@given(arrays(1, 8), st.integers(0, 3))
def test_scores_of_log_odds_are_numbers_or_refused(values: np.ndarray, shared: int) -> None:
    logits = values[:, 0]
    labels, groups = np.arange(len(logits)) % 2 == 0, np.arange(len(logits)) // (1 + shared)
    result = outcome(lambda: score(logits, labels, groups))
    if np.isnan(logits).any() or len(np.unique(groups)) < 2:
        assert result is None
    else:
        assert result is not None and 0 <= result.low <= result.accuracy <= result.high <= 1
        assert 0 <= result.auroc_low <= result.auroc <= result.auroc_high <= 1
        assert result.auroc_high - result.auroc_low > 1e-3


@pytest.mark.parametrize("lengths", [(5, 6, 6), (6, 5, 6), (6, 6, 5)])
def test_clips_labels_and_groups_of_other_numbers_are_refused(lengths: tuple[int, int, int]) -> None:
    x, labels, groups = np.ones((lengths[0], 2)), np.arange(lengths[1]) % 2 == 0, np.arange(lengths[2]) // 2
    for entry in ("Grid.outputs", "out_of_fold_logits", "Probe.fit", "Protocol.run"):
        assert outcome(lambda entry=entry: ENTRIES[entry](x, labels, groups)) is None
    assert outcome(lambda: score(x[:, 0], labels, groups)) is None


@pytest.mark.parametrize("group", [None, np.nan])
def test_a_clip_without_a_group_is_refused(group: object) -> None:
    x, labels = np.random.default_rng(0).normal(size=(8, 2)), np.arange(8) % 2 == 0
    groups = np.array([group, 0, 1, 1, 2, 2, 3, 3], object if group is None else float)
    with pytest.raises(ValueError, match=r"got 1 of 8 clips without a group \(rows 0\)"):
        GRID.outputs({0: x}, labels, groups)
    with pytest.raises(ValueError, match=r"got 1 of 8 clips without a group \(rows 0\)"):
        out_of_fold_logits(x, labels, groups, 2)


def test_folds_of_one_class_are_refused_by_every_fit() -> None:
    """One possible group of four: its fold is trained on impossible clips alone."""
    x, groups = np.random.default_rng(0).normal(size=(16, 2)), np.repeat(np.arange(4), 4)
    labels = groups == 0
    for entry in ("Grid.outputs", "out_of_fold_logits", "Probe.fit", "leave_one_property_out"):
        with pytest.raises(ValueError, match=r"with a single class among \d+ training clips · expected both classes"):
            ENTRIES[entry](x, labels, groups)
