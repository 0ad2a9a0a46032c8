"""Every entry of probing refuses what is no label and no number, by name, and float16 is computed as float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dit_lens.probing import (
    PROTOCOLS,
    AttentiveProbe,
    DifferenceOfMeans,
    Features,
    Grid,
    LinearSoftmax,
    Probe,
    Reads,
    accuracy,
    auroc,
    calibration_error,
    check_labels,
    out_of_fold_logits,
    pairs_in_order,
    score,
)
from dit_lens.probing.checks import known_or_none
from dit_lens.probing.estimators import Descent

QUADS = 12
GROUP = np.repeat(np.arange(QUADS), 4)
POSSIBLE = np.tile([True, True, False, False], QUADS)
READS = Reads("blocks.2.hook_resid_post", 14, 0.5, "mini-wan")
GRID = Grid((0.02,), folds=3, inner=2, progress=False)
SEVERAL = Grid((0.02, 0.2), folds=3, inner=2, progress=False)


def clean(width: int = 5) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(len(GROUP), width))
    x[:, 0] += np.where(POSSIBLE, 1, -1)
    return x


ENTRIES: dict[str, Callable[[np.ndarray], object]] = {
    "Grid.outputs": lambda x: GRID.outputs({(14, 3): x}, POSSIBLE, GROUP),
    "Grid.scores": lambda x: SEVERAL.scores({(14, 3): x}, POSSIBLE, GROUP),
    "Grid.nested": lambda x: SEVERAL.nested({(14, 3): x}, POSSIBLE, GROUP),
    "Features": lambda x: Features.of_arrays({(14, 3): x}, POSSIBLE, GROUP),
    "Probe.fit": lambda x: Probe.fit(x, POSSIBLE, GROUP, READS),
    "out_of_fold_logits": lambda x: out_of_fold_logits(x, POSSIBLE, GROUP),
    "Protocol.run": lambda x: PROTOCOLS["website"].run({(14, 3): x}, POSSIBLE, GROUP),
    "DifferenceOfMeans": lambda x: DifferenceOfMeans().fit(x, POSSIBLE),
    "LinearSoftmax": lambda x: LinearSoftmax(Descent(1, 16)).fit(x, POSSIBLE),
    "AttentiveProbe": lambda x: AttentiveProbe(descent=Descent(1, 16)).fit(x[:, None], POSSIBLE),
}


@pytest.mark.parametrize("width", [5, 80])  # more clips than features, and fewer
@pytest.mark.parametrize("entry", ENTRIES)
def test_non_finite_features_are_refused_by_cell_and_clip(entry: str, width: int) -> None:
    ENTRIES[entry](clean(width))
    for value in (np.nan, np.inf):
        broken = clean(width)
        broken[7, 2] = value
        with pytest.raises(ValueError, match=r"non-finite features in cell .* for 1 of 48 clips \((7|1/3)\)"):
            ENTRIES[entry](broken)


def test_features_name_the_clip_and_the_cell() -> None:
    broken = clean()
    broken[[5, 9], 1] = np.nan
    with pytest.raises(ValueError, match=r"in cell \(14, 3\) for 2 of 48 clips \(1/1, 2/1\)"):
        Features.of_arrays({(8, 3): clean(), (14, 3): broken}, POSSIBLE, GROUP)


def test_states_that_are_not_finite_are_refused() -> None:
    states = np.where(POSSIBLE, 1.0, np.nan)
    with pytest.raises(ValueError, match="non-finite features in cell 'states'"):
        Grid((1.0,), model="ridge", progress=False).scores({0: clean()}, states, GROUP)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([1, -1], "-1"),
        ([1, 2], "2"),
        (["1", "0"], "'1', '0'"),
        ([True, np.nan], "nan"),
        (np.array([1.0, 0.0]), "1.0, 0.0"),
        (np.array([0.5, 1.0]), "0.5, 1.0"),
    ],
)
def test_what_is_no_label_is_refused_with_the_values(labels: list[object], shown: str) -> None:
    for check in (check_labels, known_or_none):
        with pytest.raises(ValueError, match=f"got labels {shown} · expected True, False, 0, 1"):
            check(labels)


def test_booleans_and_the_integers_0_and_1_are_labels() -> None:
    for labels in ([True, False], [1, 0], np.array([1, 0], np.int8), np.array([True, False]), [np.True_, 0]):
        assert check_labels(labels).tolist() == [True, False]
    assert known_or_none([None, 1, False]) == [None, True, False]


@pytest.mark.parametrize("labels", [np.where(POSSIBLE, 1, 2), np.where(POSSIBLE, 1, -1), np.where(POSSIBLE, "1", "0")])
def test_no_entry_takes_other_labels(labels: np.ndarray) -> None:
    entries: list[Callable[[np.ndarray], object]] = [
        lambda y: GRID.scores({0: clean()}, y, GROUP),
        lambda y: SEVERAL.outputs({0: clean()}, np.column_stack([y, y]), GROUP),
        lambda y: Features.of_arrays({(0, 0): clean()}, y, GROUP),
        lambda y: Probe.fit(clean(), y, GROUP, READS),
        lambda y: out_of_fold_logits(clean(), y, GROUP),
        lambda y: PROTOCOLS["website"].run({0: clean()}, y, GROUP),
        lambda y: score(clean()[:, 0], y, GROUP),
    ]
    for entry in entries:
        entry(POSSIBLE.astype(int))
        with pytest.raises(ValueError, match="got labels"):
            entry(labels)


def test_float16_features_are_read_as_float64() -> None:
    # Large enough that sums overflow float16 (65504), which says nothing of their differences.
    half = (clean(6) * 20 + 3000).astype(np.float16)
    full = half.astype(np.float64)
    assert (full.sum(0) > np.finfo(np.float16).max).all()
    pairs = [
        [GRID.outputs({0: x}, POSSIBLE, GROUP) for x in (half, full)],
        [SEVERAL.outputs({0: x}, POSSIBLE, GROUP) for x in (half, full)],
        [out_of_fold_logits(x, POSSIBLE, GROUP) for x in (half, full)],
        [Probe.fit(x, POSSIBLE, GROUP, READS).weight.numpy() for x in (half, full)],
        [DifferenceOfMeans().fit(x, POSSIBLE).decision_function(x) for x in (half, full)],
    ]
    for of_half, of_full in pairs:
        assert np.isfinite(of_half).all()
        np.testing.assert_allclose(of_half, of_full, rtol=1e-6, atol=1e-9)
    assert ((pairs[-1][0] > 0) == POSSIBLE).mean() > 0.7  # positive control: at chance before


def test_nan_logits_are_refused_with_how_many() -> None:
    logits = np.where(POSSIBLE, 1.0, -1.0)
    broken = np.where(POSSIBLE, 1.0, np.nan)
    entries: list[Callable[[np.ndarray], object]] = [
        lambda z: score(z, POSSIBLE, GROUP),
        lambda z: auroc(z, POSSIBLE, GROUP),
        lambda z: pairs_in_order(z, POSSIBLE, GROUP),
        lambda z: calibration_error(z, POSSIBLE),
        lambda z: accuracy(POSSIBLE[:, None], z[:, None]),
    ]
    for entry in entries:
        entry(logits)
        with pytest.raises(ValueError, match="got NaN for 24 of 48 log odds"):
            entry(broken)
    assert score(logits, POSSIBLE, GROUP).accuracy == 1


def test_scenes_are_compared_and_groups_are_resampled() -> None:
    """Two scenes to a group: pairs are in order within scenes, and intervals are of groups."""
    logits = np.tile([1.0, 0.5, 5.0, 4.5], QUADS)
    labels, scenes = np.tile([True, False], 2 * QUADS), np.repeat(np.arange(2 * QUADS), 2)
    by_scene, by_group = score(logits, labels, GROUP, scenes=scenes), score(logits, labels, GROUP)
    # Within scenes both pairs are in order; over the group 1 also loses to 4.5.
    assert (by_scene.pairwise, by_group.pairwise) == (1.0, 0.75)
    assert by_scene.groups == by_group.groups == QUADS and by_scene.low == by_group.low


def test_a_probe_takes_its_strength_and_folds() -> None:
    weak, strong = (Probe.fit(clean(), POSSIBLE, GROUP, READS, folds=3, strength=s) for s in (1e-3, 1.0))
    assert torch.linalg.norm(weak.weight) < torch.linalg.norm(strong.weight)
    assert strong.spread == pytest.approx(out_of_fold_logits(clean(), POSSIBLE, GROUP, 3, 1.0).std())
