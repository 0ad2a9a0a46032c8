"""Measures of patching on results made by hand: crossed scenes, single pairs, several splices, groups, no controls."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.measures import patch_heads, patch_mlp, patch_residual
from dit_lens.measures.labels import halves
from dit_lens.measures.nulls import sign_flips
from dit_lens.measures.patching import (
    PLAUSIBILITY,
    SHARING,
    against_flips,
    content_of_pairs,
    label_effect_of_pairs,
    recovery,
    top_places,
)
from dit_lens.studies.exchanges import PAIRS

SINGLE = {"A→C": 1, "C→A": -1, "A→A": 0}


def crossed(signs: dict[str, int]) -> xr.Dataset:
    """Effects by hand: a pair's effect is label x 2 + content x 3, the content turning over with A and B."""
    side = {"A→C": 1, "B→D": -1, "A→D": 1, "B→C": -1, "C→A": 1, "D→B": -1, "D→A": 1, "C→B": -1}
    names = ("pair", "scene", "model", "step")
    effect = np.array([2.0 * sign + 3.0 * side.get(pair, 0) for pair, sign in signs.items()])
    total = np.array([4.0 * sign for sign in signs.values()])
    ones = np.ones((len(signs), 4, 1, 1))
    return xr.Dataset(
        {
            "effect_logit": ((*names, "block", "head"), (effect[:, None, None, None] * ones)[..., None, None]),
            "total_logit": (names, total[:, None, None, None] * ones),
            "probe_spread": (("model", "step"), np.full((1, 1), 2.0)),
        },
        coords={"pair": list(signs), "sign": ("pair", list(signs.values()))},
    )


def test_label_and_content_are_separated_by_hand() -> None:
    result = crossed(PAIRS)
    assert label_effect_of_pairs(result).values == pytest.approx(1.0)
    assert content_of_pairs(result).values == pytest.approx(1.5)
    estimate, low, high = recovery(result)
    assert estimate == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)


@pytest.mark.parametrize("half", ["first", "second"])
def test_content_cancels_among_the_pairs_that_share_a_half_too(half: str) -> None:
    """The four pairs with a half in common swap the other one there and back, in A and in B."""
    sign = PAIRS
    side = {"A→C": 1, "C→A": -1, "B→D": -1, "D→B": 1, "A→D": 1, "D→A": -1, "B→C": -1, "C→B": 1}
    result = crossed(sign)
    effects = np.array([2.0 * sign[pair] + 3.0 * side.get(pair, 0) for pair in sign])
    result["effect_logit"] = xr.zeros_like(result.effect_logit) + xr.DataArray(effects, dims="pair")
    assert label_effect_of_pairs(result, half).values == pytest.approx(1.0)
    assert set(SHARING[half]) == {p for p in sign if sign[p] and shares(p) == half}


def shares(pair: str) -> str:
    """The half that two roles have in common, by what they are made of."""
    halves_of = {"A": "AA", "B": "BB", "C": "AB", "D": "BA"}
    first, second = (halves_of[role] for role in pair.split("→"))
    return "first" if first[0] == second[0] else "second"


def single_pairs(effect: np.ndarray, groups: list[str] | None = None) -> xr.Dataset:
    """What patching writes of scenes of one possible and one impossible clip, for one model and a probe alone.

    Args:
        effect: of A put into C (scene, block, head); back it is as large, with the other sign; the spread is 2.
    """
    count = len(effect)
    there = np.stack([effect, -effect, 0 * effect], axis=1)[None, :, :, None, :, :, None]
    names = ("model", "scene", "pair", "step", "block", "head", "readout")
    total = np.broadcast_to(np.array([4.0, -4.0, 0.0])[:, None, None], (1, count, 3, 1, 1))
    scenes = [f"s{i}" for i in range(count)]
    before = np.broadcast_to(np.array([-1.0, 1.0, 1.0])[:, None, None], (1, count, 3, 1, 1))  # of C, A, A
    return xr.Dataset(
        {
            "effect_logit": (names, there),
            "total_logit": (("model", "scene", "pair", "step", "readout"), total),
            "before_logit": (("model", "scene", "pair", "step", "readout"), before),
            "probe_spread": (("model", "step", "readout"), np.full((1, 1, 1), 2.0)),
            "score": (("model", "step", "readout"), np.full((1, 1, 1), 0.9)),
            "train_accuracy": (("model", "step", "block"), np.full((1, 1, effect.shape[1]), 0.9)),
            "readout_block": ("step", [1]),
        },
        coords={
            "model": ["m"], "scene": scenes, "pair": list(SINGLE), "sign": ("pair", list(SINGLE.values())),
            "step": [3], "sigma": ("step", [0.5]), "block": range(effect.shape[1]), "head": range(effect.shape[2]),
            "readout": [PLAUSIBILITY], "kind": ("readout", [PLAUSIBILITY]), "property": ("scene", ["solidity"] * count),
            "group": ("scene", groups or scenes), "crossed": ("scene", [False] * count),
        },
    )  # fmt: skip


def one_head(scenes: int = 12) -> np.ndarray:
    """Effects of 2 x 2 heads: head 1 of block 0 brings 2 or 4 in turn, the others nothing or noise."""
    effect = 0.01 * np.random.default_rng(0).standard_normal((scenes, 2, 2))
    effect[:, 0, 1] = np.resize([2.0, 4.0], scenes)
    return effect


def test_a_single_pair_has_a_label_effect_and_no_content() -> None:
    result = single_pairs(one_head()).sel(model="m", step=3, readout=PLAUSIBILITY)
    effect = label_effect_of_pairs(result).sel(block=0, head=1)
    assert effect.values == pytest.approx(np.resize([1.0, 2.0], 12))  # there and back alike, over a spread of 2
    assert content_of_pairs(result).isnull().all()
    estimate, low, high = recovery(result)
    assert estimate[0, 1] == pytest.approx(3 / 4) and low[0, 1] < 3 / 4 < high[0, 1]
    assert label_effect_of_pairs(result, "first").equals(label_effect_of_pairs(result))
    assert label_effect_of_pairs(result, "second").isnull().all()  # no pair shares its second half


def test_single_pairs_without_controls_have_a_verdict_and_a_table() -> None:
    result = single_pairs(one_head())
    said = patch_heads.verdict(result.expand_dims(region=["all"]))
    assert said.startswith(
        "1 of 4 heads of m, patched at all tokens, passes the corrected threshold (n = 12 test scenes)"
    )
    # The halves take scenes in turn: 2 is the effect of the first, 4 that of the other, in units of 2.
    assert "block 0 head 1, ranked first on half of them, has on the other 6 a label effect" in said
    assert "+2.000 [+2.000, +2.000] probe SD (p < 0.001" in said and said.endswith("No control model was run.")
    short, full = (patch_heads.table(result.expand_dims(region=["all"]), full) for full in (False, True))
    assert len(short.splitlines()) <= 12 and "block 0 head 1" in short
    assert "accuracy per clip" in full and "1.000 [0.735, 1.000] on 12 test scenes" in full
    assert "a clip patched with itself: 0" in full and "none, the clips' truth is unknown" in full
    assert "A with B" not in full and "none drawn" in full


def test_where_nothing_passes_the_verdict_says_so() -> None:
    noise = single_pairs(np.random.default_rng(1).standard_normal((12, 2, 2)))
    assert patch_heads.verdict(noise.expand_dims(region=["all"])).startswith(
        "No head of m, patched at all tokens, passes"
    )


def test_scenes_of_a_group_are_one_observation_and_stay_on_one_side() -> None:
    """Three violations of each possible clip: as many rows as clips, of their means."""
    effect = np.repeat(np.random.default_rng(0).standard_normal((6, 2, 2)), 3, axis=0)
    effect[:, 0, 1] += 3
    result = single_pairs(effect, [f"clip {i // 3}" for i in range(18)])
    first, second = halves(result)
    assert first.sizes["scene"] == second.sizes["scene"] == 9 and not set(first.group.values) & set(second.group.values)
    apart = label_effect_of_pairs(result)
    one_each = label_effect_of_pairs(single_pairs(effect[::3]))
    grouped, alone = (against_flips(values) for values in (apart, one_each))
    np.testing.assert_allclose(grouped.p, alone.p)
    np.testing.assert_allclose(grouped.t, alone.t)
    assert float(grouped.p.min()) > 0.02  # 2 of 2^6 flips of sign are as large
    assert top_places(result.sel(readout=PLAUSIBILITY), "m", 3)[0] == (0, 1)


def test_a_single_scene_of_each_property_leaves_some_to_report() -> None:
    few = single_pairs(one_head(4)).assign_coords(property=("scene", ["a", "b", "c", "d"]))
    assert [list(half.scene.values) for half in halves(few)] == [["s0", "s2"], ["s1", "s3"]]
    several = single_pairs(one_head(5)).assign_coords(property=("scene", ["a", "a", "b", "b", "b"]))
    assert [list(half.scene.values) for half in halves(several)] == [["s0", "s2", "s4"], ["s1", "s3"]]


def test_every_scene_is_cut_at_its_own_splice() -> None:
    """Effects of pairs that share the first half are 1, of the others 2; the splices are at frames 1 and 2 of 3."""
    pairs = [pair for pair in PAIRS if PAIRS[pair]]
    value = np.array([1.0 if pair in SHARING["first"] else 2.0 for pair in pairs]) * [PAIRS[pair] for pair in pairs]
    result = xr.Dataset(
        {
            "effect_logit": (("scene", "pair", "frame"), np.broadcast_to(value[:, None], (2, 8, 3))),
            "probe_spread": 1.0,
            "given": ("scene", [1, 2]),
        },
        coords={"pair": pairs, "sign": ("pair", [PAIRS[pair] for pair in pairs])},
    )
    parts = patch_residual.by_sharing(result)
    assert parts["frame shared"].transpose("scene", "frame").values.tolist() == [[1, 2, 2], [1, 1, 2]]
    assert parts["frame differs"].transpose("scene", "frame").values.tolist() == [[2, 1, 1], [2, 2, 1]]
    unknown = patch_residual.by_sharing(result.assign(given=("scene", [1, np.nan])))
    shared, differs = (part.isel(scene=1) for part in unknown.values())
    assert shared.isnull().all() and differs.values.tolist() == [1.5] * 3  # all pairs, wherever they differ


def test_two_groups_and_fewer_have_no_interval_and_no_p_that_misleads() -> None:
    result = single_pairs(one_head(2))
    said = patch_mlp.verdict(result.rename(head="write"))
    assert "[one scene]" in said and said.startswith("No place of m")
    alone = sign_flips(label_effect_of_pairs(result.isel(scene=[0])))
    assert alone.p.isnull().all() and alone.threshold.isnull()
