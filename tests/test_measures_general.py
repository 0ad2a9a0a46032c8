"""Ablation and attribution on results made by hand: single pairs, splices that differ, groups, no controls."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens import stats
from dit_lens.measures import (
    ablate_blocks,
    ablate_heads,
    ablation,
    attribute_pixels,
    attribute_writes,
    attributed_frames,
    compare_methods,
    cut_attention,
    labels,
)
from dit_lens.measures.compare_methods import METHODS
from dit_lens.measures.patching import PLAUSIBILITY

SCENES = 8


def scenes(count: int = SCENES, groups: list[str] | None = None) -> dict[str, object]:
    """Coordinates of scenes of one property that are single pairs."""
    ids = [f"s{i}" for i in range(count)]
    return {
        "scene": ids, "property": ("scene", ["solidity"] * count), "group": ("scene", groups or ids),
        "crossed": ("scene", [False] * count), "role": ["A", "C"],
    }  # fmt: skip


def writes(a: np.ndarray, c: np.ndarray) -> xr.Dataset:
    """Attributions of the possible and the impossible clip (scene, component) in block 0 of one model."""
    parts = np.stack([a, c], 1)[None, None, :, :, None]
    names = ("model", "direction", "scene", "role", "block", "component")
    whole = xr.DataArray(parts.sum((-1, -2)), dims=names[:4])
    return xr.Dataset(
        {
            "attribution": (names, parts), "readout": whole, "embedding": whole * 0, "unexplained": whole * 0,
            "probe_spread": ("model", [2.0]), "train_accuracy": (("model", "depth"), [[0.8]]),
        },
        coords={
            **scenes(len(a)), "model": ["m"], "direction": ["probe"], "block": [0], "depth": [0], "readout_block": 0,
            "component": ["attn.0", "attn.bias", "mlp"], "sigma": 0.5,
        },
    )  # fmt: skip


def test_of_single_pairs_a_component_writes_the_difference() -> None:
    rng = np.random.default_rng(0)
    c = rng.standard_normal((SCENES, 3))
    a = c + [[3.0, 0.0, 0.0]] + 0.01 * rng.standard_normal((SCENES, 3))
    result = writes(a, c)
    effect = attribute_writes.effects(result).squeeze()
    np.testing.assert_allclose(effect.sel(component="attn.0"), (a - c)[:, 0] / 2)
    assert attribute_writes.top(result, "m")[0] == (0, "attn.0")
    said = attribute_writes.verdict(result)
    assert "block 0 attn.0, ranked first on the others, writes +1.50" in said and said.endswith(
        "No control model was run."
    )
    full = attribute_writes.table(result, full=True)
    assert "none drawn" in full and "by construction" not in full  # the scenes are not crossed
    assert "nan" in full  # content, which single pairs do not have
    assert len(attribute_writes.table(result).splitlines()) <= 12 and "nan" not in attribute_writes.table(result)


def test_a_cut_of_single_pairs_costs_what_it_takes_from_the_difference() -> None:
    """Cut "one" takes 1 of the 3 by which A and C differ, in units of 2; there is no cut of the text."""
    change = np.zeros((1, SCENES, 2, 1, 1))
    change[:, :, 0] = -1 + 0.1 * np.random.default_rng(0).standard_normal((1, SCENES, 1, 1))
    change = np.stack([change, 0 * change], axis=2)  # of A alone
    result = xr.Dataset(
        {
            "whole": (("model", "scene", "role", "cut", "block"), change[..., 0]),
            "effect": (("model", "scene", "role", "cut", "block", "head"), change),
            "logit": (("model", "scene", "role"), np.broadcast_to([3.0, 0.0], (1, SCENES, 2))),
            "probe_spread": ("model", [2.0]), "train_accuracy": (("model", "depth"), [[0.9]]),
        },
        coords={
            **scenes(), "model": ["m"], "cut": ["one", "two"], "block": [0], "head": [0], "depth": [0],
            "readout_block": 0, "sigma": 0.5,
        },
    )  # fmt: skip
    assert cut_attention.top(result.sel(model="m"))[0] == ("one", 0)
    mean = cut_attention.change(result, "whole").mean("scene").sel(model="m", block=0)
    assert float(mean.sel(cut="one")) == pytest.approx(-0.5, abs=0.05) and float(mean.sel(cut="two")) == 0
    said = cut_attention.verdict(result)
    assert (
        said.startswith("1 of the 2 cuts of attention (by block) lowers m's") and "of +1.500 [+1.500, +1.500]" in said
    )
    assert "text" not in said and "No control model" in said and "without text" not in cut_attention.table(result, True)


def counts(right: np.ndarray, groups: list[str] | None = None) -> xr.Dataset:
    """Accuracies without the one head (scene,); 1 in the whole model, and no score of colour."""
    good = np.stack([np.ones_like(right), right])[None, :, None, None, :, None, None]
    good = np.broadcast_to(good, (1, 2, 2, 1, len(right), 1, 1))
    values = np.concatenate([good, np.ones_like(good)], axis=3)
    names = ("model", "replacement", "score", "part", "scene", "block", "head")
    coords = {
        **scenes(len(right), groups), "model": ["m"], "replacement": ["none", "zero"], "score": ["fixed", "refitted"],
        "part": ["good", "of"], "block": [0], "head": [0], "readout": 0,
    }  # fmt: skip
    return xr.Dataset({"counts": (names, values)}, coords)


def test_groups_weigh_alike_whatever_their_number_of_scenes() -> None:
    """A group of three scenes that lose all and two of one that lose nothing: a third is lost, not three fifths."""
    result = counts(np.array([0.0, 0, 0, 1, 1]), ["many", "many", "many", "one", "two"])
    assert float(ablation.loss(result).sel(replacement="zero", score="fixed").squeeze()) == pytest.approx(1 / 3)
    interval = ablation.loss_interval(result.sel(model="m", score="fixed", block=0, head=0))
    by_group = stats.mean_interval(np.array([1.0, 0.0, 0.0]), bounds=stats.DIFFERENCE)
    assert list(map(float, interval)) == pytest.approx(list(map(float, by_group)))
    assert float(interval[0]) == pytest.approx(1 / 3) and float(interval[1]) < 0


def test_a_head_is_needed_where_the_interval_says_so_and_scores_that_are_not_there_are_not_said() -> None:
    """Half is lost in all of 24 report scenes, which does not say that it is lost in every other one."""
    needed, not_needed = (ablate_heads.verdict(counts(np.full(6 * SCENES, right))) for right in (0.5, 1.0))
    assert needed.startswith("m needs block 0 head 0") and "loses +50.0 [+28.6, +57.1] points" in needed
    assert not_needed.startswith("No head of m is needed") and "random write" not in needed
    assert "colour" not in ablate_heads.table(counts(np.ones(SCENES)), full=True)


def blocks(change: np.ndarray) -> xr.Dataset:
    """Logits of A and C, 2 apart in the whole model, and what a block's absence takes from A (scene, block)."""
    logit = np.zeros((1, 1, 2, 1, change.shape[1], len(change), 2))
    logit[..., 0] = 2.0
    logit[:, :, 1, :, :, :, 0] -= change.T
    names = ("model", "reading", "replacement", "write", "block", "scene", "role")
    score = np.ones((1, 1, 2, 1, change.shape[1], len(change), 1, 2))
    return xr.Dataset(
        {
            "logit": (names, logit), "counts": ((*names[:-1], "score", "part"), score),
            "error": (names[0:1] + names[2:], 1 - 0.1 * logit[:, 0]), "readout": (("model", "reading"), [[1]]),
        },
        coords={
            **scenes(len(change)), "model": ["m"], "reading": ["half given"], "replacement": ["none", "mean"],
            "write": ["all"], "block": range(change.shape[1]), "score": ["fixed"], "part": ["good", "of"],
        },
    )  # fmt: skip


def test_a_block_of_single_pairs_takes_its_share_of_the_difference() -> None:
    taken = np.stack([np.zeros(SCENES), np.resize([0.5, 1.5], SCENES)], axis=1)
    result = blocks(taken)
    changed = ablate_blocks.change(result).squeeze()
    assert changed.sel(replacement="none").values == pytest.approx(2.0)
    assert changed.sel(replacement="mean", block=1).values.ravel() == pytest.approx(-taken[:, 1])
    said = ablate_blocks.verdict(result)
    assert "m needs block 1" in said and "-1.500 [-1.500, -1.500] from +2.000" in said  # the second half of the scenes
    top, bottom = ablate_blocks.surprise(result)  # C errs by 1, A by 0.8: 0.2 of 0.8 is a quarter
    assert (top.sum("scene") / bottom.sum("scene")).sel(replacement="none").values.ravel() == pytest.approx([25, 25])
    assert "surprise of the whole model" in ablate_blocks.table(result, full=True)
    assert "surprise" not in ablate_blocks.table(result.drop_vars("error"), full=True)


def frames(splice: list[float]) -> xr.Dataset:
    """1 for each of the frames of two scenes, in units of 2, and what their possible clips have more in logit: 4."""
    return xr.Dataset(
        {
            "by_frame": (("model", "baseline", "scene", "frame"), np.ones((1, 1, 2, 4))),
            "probe_spread": ("model", [2.0]), "delta": (("model", "baseline"), [[0.01]]),
            "logit": (("model", "scene", "role"), np.broadcast_to([4.0, 0.0], (1, 2, 2))),
            "train_accuracy": (("model", "depth"), [[0.9]]),
        },
        coords={
            **scenes(2), "splice": ("scene", splice), "model": ["m"], "baseline": ["paired clip"], "depth": [0],
            "readout_block": 0, "sigma": 0.5,
        },
    )  # fmt: skip


def test_frames_are_before_or_after_the_splice_of_their_own_scene() -> None:
    values = [part.squeeze().values.tolist() for part in attributed_frames.parts(frames([1, 3])).values()]
    assert values == [[2.0, 2.0], [0.5, 1.5], [1.5, 0.5]]
    said = attribute_pixels.verdict(frames([1, 3]))
    assert "+2.000 [+2.000, +2.000] probe SD (n = 2 test scenes), of which +1.000 [-5.353, +7.353] from the" in said
    assert "label effect of the logit +2.000" in attribute_pixels.table(frames([1, 3]), full=True)


def test_where_no_splice_is_known_only_the_whole_is_said() -> None:
    unknown = frames([np.nan, np.nan])
    assert "from the break on" not in attribute_pixels.verdict(unknown)
    row = attribute_pixels.table(unknown).splitlines()[-1].split()
    assert row[:4] == ["m", "paired", "clip", "+2.000"] and row[-2:] == ["-", "-"]


def test_methods_are_compared_in_a_single_model_without_a_random_direction() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 1, 2, 4)) + 0.1 * rng.standard_normal((len(METHODS), SCENES, 2, 4))
    shared[3] = -shared[3]  # direct attribution turns the ranking over
    result = xr.Dataset(
        {
            "contrast": (("model", "readout", "estimate", "scene", "block", "head"), shared[None, None]),
            "score": (("model", "readout"), [[0.9]]),
        },
        coords={
            **scenes(), "model": ["m"], "readout": [PLAUSIBILITY], "estimate": list(METHODS), "block": [0, 1],
            "readout_block": 1, "sigma": 0.5,
        },
    )  # fmt: skip
    assert compare_methods.series(result) == [("m", "m", PLAUSIBILITY)]
    said = compare_methods.verdict(result)
    assert "least with direct attribution (-" in said and "In the controls" not in said
    assert len(compare_methods.table(result).splitlines()) == 2 + len(METHODS)


def test_properties_with_a_single_scene_are_halved_together() -> None:
    """No half is empty, no group is divided, and properties with several groups are halved one by one."""
    laws, groups = ["a", "b", "c", "d", "d", "d"], ["1", "2", "3", "4", "4", "5"]
    coords = {"property": ("scene", laws), "group": ("scene", groups), "scene": list("uvwxyz")}
    ranking, report = labels.halves(xr.Dataset(coords=coords))
    assert "".join(ranking.scene.values) == "uwxy" and "".join(report.scene.values) == "vz"
    alone = labels.halves(xr.Dataset(coords=coords).isel(scene=[0, 1]))
    assert [half.sizes["scene"] for half in alone] == [1, 1]
