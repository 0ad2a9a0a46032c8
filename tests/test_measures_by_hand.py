"""What all measures are made of, on numbers for paper: label effects, contents, halves, nulls, sentences."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens import stats
from dit_lens.measures import (
    ablation,
    attributed_frames,
    columns,
    comparison,
    know_and_show,
    labels,
    nulls,
    patching,
    probe_blocks,
    selection,
    text,
)
from dit_lens.measures.comparison import Estimate
from dit_lens.measures.reference_numbers import Published, number
from dit_lens.studies import ablations

NAN = np.nan
TWO = 1 / np.tan(np.pi * 0.025)  # the .975 quantile of t with one degree of freedom, of two scenes: 12.706


def of_roles(*scenes: list[float], roles: str = "ABCD", **coords: object) -> xr.DataArray:
    """Values (scene, role)."""
    places = {"scene": [f"s{i}" for i in range(len(scenes))], "role": [*roles[: len(scenes[0])]]}
    return xr.DataArray([*scenes], {**places, **coords}, ("scene", "role"))


# Labels.


def test_label_effects() -> None:
    # (3 + 1 - 2 - 0) / 2; (0 + 4 - 1 - 9) / 2
    assert labels.label_effect(of_roles([3, 1, 2, 0], [0, 4, 1, 9])).values.tolist() == [1.0, -3.0]
    pair = of_roles([3.0, 2.0]).assign_coords(role=["A", "C"])
    assert labels.label_effect(pair).values.tolist() == [1.0]
    assert np.isnan(labels.label_effect(of_roles([3, 1, 2, NAN]))).all()
    assert labels.signs([*"DBAC"]).values.tolist() == [-1, 1, 1, -1] and labels.signs([*"DC"]).role.values.tolist() == [
        "D",
        "C",
    ]


def test_content() -> None:
    # A 3, B 1, C 2, D 0: first half (3 + 2 - 1 - 0) / 2 = 2, second (3 + 0 - 1 - 2) / 2 = 0: mean of squares 2
    # A 1, B 0, C 0, D 5: first (1 + 0 - 0 - 5) / 2 = -2, second (1 + 5 - 0 - 0) / 2 = 3: mean of squares 6.5
    assert labels.content(of_roles([3, 1, 2, 0])).item() == pytest.approx(2**0.5)
    assert labels.content(of_roles([3, 1, 2, 0], [1, 0, 0, 5])).item() == pytest.approx(4.25**0.5)
    alone = labels.content(of_roles([3.0, 2.0]).assign_coords(role=["A", "C"]))
    assert np.isnan(alone) and "role" not in alone.coords


def test_scenes_of_a_group_are_averaged() -> None:
    values = xr.DataArray([1.0, 3.0, 10.0], {"scene": [*"xyz"], "group": ("scene", ["g", "g", "h"])}, ("scene",))
    assert labels.by_group(values).values.tolist() == [2.0, 10.0] and labels.rows(values).tolist() == [2.0, 10.0]
    assert labels.by_group(values)["scene"].values.tolist() == ["g", "h"]
    single = values.assign_coords(group=("scene", ["g", "h", "i"]))
    assert labels.by_group(single) is single and labels.by_group(values.drop_vars("group")).sizes["scene"] == 3
    estimate, low, high = labels.mean_interval(values)
    assert estimate == 6.0 and low == pytest.approx(6 - TWO * 4) and high == pytest.approx(6 + TWO * 4)
    assert np.isnan(labels.by_group(values.where(values > 1)).values).tolist() == [True, False]


def test_halves_share_properties_and_split_no_group() -> None:
    law = [*"ppppqqr", "s"]
    groups = ["a", "a", "b", "c", "d", "e", "f", "g"]
    result = xr.DataArray(
        range(8), {"scene": range(8), "property": ("scene", law), "group": ("scene", groups)}, ("scene",)
    )
    # p: a and c of a, b, c; q: d of d, e; of the single groups f, g: f
    first, second = labels.halves(result)
    assert first.values.tolist() == [0, 1, 3, 4, 6] and second.values.tolist() == [2, 5, 7]
    alone, _ = labels.halves(result.drop_vars("group"))
    assert alone.values.tolist() == [0, 2, 4, 6]


def test_ratios_and_d_prime() -> None:
    over, under = (xr.DataArray(x, {"scene": [0, 1]}, ("scene",)) for x in ([1.0, 3.0], [2.0, 6.0]))
    estimate, low, high = labels.ratio_interval(over, under)
    assert estimate == low == high == 0.5
    alone = labels.ratio_interval(over[:1], under[:1] * 2)
    assert alone[0] == 0.25 and np.isnan(alone[1]) and np.isnan(alone[2])
    # label effects 1 and 3: mean 2 over a standard deviation of sqrt(2)
    assert labels.d_prime(of_roles([3, 1, 2, 0], [5, 3, 2, 0])) == pytest.approx(2 / 2**0.5)
    # of A, B against C, D: 3 > 2, 3 > 0, 1 < 2, 1 > 0; then a tie of four
    assert labels.pairwise_accuracy(of_roles([3, 1, 2, 0], [1, 1, 1, 1])).values.tolist() == [0.75, 0.5]


# Which scenes.


def test_which_scenes_are_pooled() -> None:
    values = xr.DataArray(
        range(4),
        {"scene": range(4), "crossed": ("scene", [True, False, True, False]), "property": ("scene", [*"pqpq"])},
        ("scene",),
    )
    assert selection.pooled(values).tolist() == [True, False, True, False]
    assert selection.pool_name(values) == "crossed scenes"
    assert {name: rows.tolist() for name, rows in selection.by_property(values).items()} == {
        "all": [0, 2], "p": [0, 2], "q": [1, 3]
    }  # fmt: skip
    assert list(selection.by_property(values[:3], least=2)) == ["all", "p"]
    none = values.assign_coords(crossed=("scene", [False] * 4))
    assert selection.pooled(none).all() and selection.pool_name(none) == "scenes"
    bare = values.drop_vars(["crossed", "property"])
    assert selection.crossed(bare).dtype == bool
    assert selection.crossed(bare).all() and selection.pool_name(bare) == "scenes" and selection.properties(bare) == []
    assert selection.pooled(xr.Dataset({"x": bare, "crossed": ("scene", [True, False, False, False])})).sum() == 1
    grouped = values.assign_coords(group=("scene", [*"aabb"]))
    assert selection.counted(grouped) == "4 test scenes in 2 groups" and selection.counted(values) == "4 test scenes"
    assert selection.counted(values, "held-out scenes") == "4 held-out scenes"
    assert selection.counted(values.assign_coords(group=("scene", [*"abcd"]))) == "4 test scenes"


# Nulls.


def test_flips_of_all_signs_by_hand() -> None:
    """Effects alike in all of 6 scenes have a |t| that only all or none flipped reach: 2 of 64."""
    effects = xr.DataArray(
        np.stack([[1.0, 1.1, 0.9, 1.0, 1.05, 0.95], [1.0, -1.0, 0.5, -0.5, 0.2, -0.2], [1.0, NAN, 1, 1, 1, 1]], 1),
        {"scene": range(6), "place": [*"abc"]},
        ("scene", "place"),
    )
    result = nulls.sign_flips(effects)
    # t = mean / (standard deviation / sqrt(6)), the deviations being 0, .1, -.1, 0, .05, -.05
    deviation = ((0.01 + 0.01 + 0.0025 + 0.0025) / 5) ** 0.5
    assert result.t.values[0] == pytest.approx(1.0 / (deviation / 6**0.5)) and result.t.values[1] == pytest.approx(0.0)
    assert result.p.values[0] == pytest.approx(2 / 64, abs=0.012) and result.p.values[1] == pytest.approx(1.0)
    assert np.isnan(result.t.values[2]) and np.isnan(result.p.values[2]) and result.threshold > 0
    assert result.t.dims == ("place",) and float(result.threshold) <= result.t.values[0] * (1 + 1e-9)
    two = nulls.sign_flips(effects[:2])
    assert two.t.values[0] == pytest.approx(1.05 / (0.005 / 2) ** 0.5)
    assert two.p.values[0] == 1.0  # with one scene flipped b is (1, 1), without any spread
    alone = nulls.sign_flips(effects[:1])
    assert np.isnan(alone.t).all() and np.isnan(alone.p).all() and np.isnan(alone.threshold)


# Patching.

SIGNS = {"A→C": 1, "B→D": 1, "C→A": -1, "D→B": -1, "A→A": 0}


def patched() -> xr.Dataset:
    """One model and step, two scenes, two readouts of two kinds, one place; effects of each pair by hand."""
    effect = np.array([[[6.0, 1.0], [2.0, 1.0], [-4.0, 1.0], [0.0, 1.0], [9.0, 9.0]],
                       [[2.0, -1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, 1.0], [9.0, 9.0]]])  # fmt: skip
    total = np.array([[8.0], [4.0], [-8.0], [-4.0], [100.0]]) * np.ones((2, 5, 2))
    names = ("model", "scene", "pair", "step", "readout")
    return xr.Dataset(
        {
            "effect_logit": ((*names, "head"), effect[None, :, :, None, :, None]),
            "total_logit": (names, total[None, :, :, None, :]),
            "before_logit": (names, np.array([-1, 1, 1, 1, 0.0])[None, None, :, None, None] * np.ones((1, 2, 1, 1, 2))),
            "effect_velocity": ((*names[:4], "head"), effect[None, :, :, None, :1]),
            "total_velocity": (names[:4], np.abs(total[None, :, :, None, 0])),
            "probe_spread": (("model", "step", "readout"), [[[2.0, 4.0]]]),
        },
        coords={
            "model": ["m"], "scene": [0, 1], "pair": [*SIGNS], "sign": ("pair", [*SIGNS.values()]), "step": [3],
            "readout": [patching.PLAUSIBILITY, "colour 1"], "kind": ("readout", [patching.PLAUSIBILITY, "colour"]),
            "head": [0],
        },
    )  # fmt: skip


def test_label_effects_of_pairs() -> None:
    # scene 0: (6 + 2 + 4 + 0) / 4 / 2 = 1.5 and (1 + 1 - 1 - 1) / 4 / 4 = 0; scene 1: 8 / 4 / 2 = 1, -4 / 4 / 4 = -.25
    effects = patching.label_effect_of_pairs(patched())
    assert effects.values.squeeze().tolist() == [[1.5, 0.0], [1.0, -0.25]]
    # the same pairs share their first half; of those that share the second none is here
    assert patching.label_effect_of_pairs(patched(), "first").equals(effects)
    assert patching.label_effect_of_pairs(patched(), "second").isnull().all()
    assert patching.of_probe(patched()).effect_logit.dims == ("model", "scene", "pair", "step", "head")


def test_content_of_pairs() -> None:
    # scene 0, the probe: 3 - 1.5, 1 - 1.5, -2 + 1.5, 0 + 1.5: squares 2.25, .25, .25, 2.25; colour: .25 each
    # scene 1: 1 - 1, ... and -.25 + .25, ...: nothing
    content = patching.content_of_pairs(patched()).values.squeeze()
    np.testing.assert_allclose(content, [[1.25**0.5, 0.25], [0, 0]], atol=1e-12)
    assert patching.content_of_pairs(patched().isel(pair=[0, 2])).isnull().all()


def test_how_far_patches_move_readouts() -> None:
    # the probe: (9 + 1 + 4 + 0 + 1 + 1 + 1 + 1) / 8; colour: 1/16
    distance = patching.moved(patched())
    np.testing.assert_allclose(distance.values.squeeze(), [(18 / 8) ** 0.5, 0.25])
    assert distance.kind.values.tolist() == patching.kinds(patched()) == [patching.PLAUSIBILITY, "colour"]


def test_recovery() -> None:
    # of velocity: effects 6 + 2 - 4 + 0 + 2 + 2 - 2 - 2 = 4 over 2 (8 + 4 + 8 + 4) = 48
    np.testing.assert_allclose(patching.velocity_recovery(patched()).values, 4 / 48)
    # of the logit, signed: (12 + 8) / (24 + 24), of scenes at 8 / 24 and 12 / 24
    estimate, low, high = (x.squeeze() for x in patching.recovery(patched()))
    np.testing.assert_allclose([estimate[0], low[0], high[0]], [20 / 48, (5 - TWO) / 12, (5 + TWO) / 12])


def test_accuracy_of_unpatched_clips() -> None:
    # corrupted: C at -1 and D at 1 (wrong), A and B at 1
    estimate, low, high = patching.accuracy(patched())
    # both scenes are alike: the least part of all that is like them is a half of .05 for two by chance
    assert estimate.item() == 0.75
    assert (low.item(), high.item()) == pytest.approx((0.75 * 0.025**0.5, 1 - 0.25 * 0.025**0.5))


def test_places_are_ranked_by_size_on_the_ranking_half() -> None:
    places = np.array([[0.5, -3.0, 1.0, NAN], [9.0, 9.0, 9.0, 9.0]])
    result = patched().isel(readout=[0], drop=False).isel(pair=[0, 2])
    result = result.drop_vars(["effect_logit"]).assign(
        effect_logit=(("model", "scene", "pair", "step", "readout", "block", "at"),
                      (places[None, :, None, None, None, :] * np.array([1, -1])[:, None, None, None])[..., None])
    ).assign_coords(property=("scene", ["p", "p"]), block=range(4), at=["x"])  # fmt: skip
    ranked = patching.top_places(patching.of_probe(result), "m", 3)
    assert ranked == [(1, 0), (2, 0), (0, 0)] and patching.named(result, ranked[0]) == "block 1 at x"
    assert patching.place_dims(result) == ["block", "at"]


def test_rank_correlation() -> None:
    a, b = np.array([1.0, 2.0, 3.0, NAN]), np.array([10.0, 30.0, 20.0, 5.0])
    assert patching.rank_correlation(a, b) == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 * 8)
    assert np.isnan(patching.rank_correlation(a, np.ones(4))) and np.isnan(patching.rank_correlation(np.ones(4), a))
    assert patching.rank_correlation(a[[0, 1, 3]], b[[0, 1, 3]]) == pytest.approx(1.0)
    assert np.isnan(patching.rank_correlation(a[[0, 3]], b[[0, 3]]))


def test_readouts_agree_over_places() -> None:
    result = patched().isel(scene=[0], pair=[0, 1, 2, 3]).squeeze("step", drop=True).squeeze("model", drop=True)
    effect = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]).T  # (readout, head)
    signed = np.array([1, 1, -1, -1.0])[None, :, None, None] * effect[None, None]
    result = result.drop_vars("effect_logit").drop_dims("head").assign(
        effect_logit=(("scene", "pair", "readout", "head"), signed)
    )  # fmt: skip
    assert patching.agreement(result, patching.PLAUSIBILITY, "colour 1") == pytest.approx(-1.0)
    assert np.isnan(patching.agreement(result, patching.PLAUSIBILITY, "random 0"))


def test_flips_of_each_kind_of_readout_by_itself() -> None:
    """The largest of a kind is held against its own kind; models, scenes and readouts may come in any order."""
    effects = xr.DataArray(
        np.array([[[1.0, 8.0, -1.0], [1.1, -8.0, 1.0], [0.9, 8.0, 1.0], [1.0, -8.0, -1.0], [1.0, 1.0, 3.0]]] * 2),
        {"step": [1, 2], "scene": range(5), "readout": [*"abc"], "kind": ("readout", ["x", "y", "y"])},
        ("step", "scene", "readout"),
    ).expand_dims(model=["m"], axis=3)
    result = patching.against_flips(effects)
    assert result.t.dims == ("model", "readout", "step") and result.threshold.dims == ("model", "of")
    assert result["of"].values.tolist() == ["x", "y"]
    # of a: mean 1, deviations .1, -.1: variance .02 / 4; t = 1 / sqrt(.005 / 5); beaten by all or none flipped, 2 of 32
    np.testing.assert_allclose(result.t.sel(readout="a").values, 1 / (0.005 / 5) ** 0.5)
    assert result.p.sel(readout="a").values == pytest.approx(2 / 32, abs=0.015)
    # of b: mean .2; of c: .6 over a variance of (2.56 + .16 + .16 + 2.56 + 5.76) / 4
    np.testing.assert_allclose(result.t.sel(readout="c").values, 0.6 / (11.2 / 4 / 5) ** 0.5)
    alone = nulls.sign_flips(effects.sel(readout=["b", "c"]).squeeze("model"))
    np.testing.assert_allclose(result.p.sel(readout=["b", "c"]).values[0], alone.p.transpose("readout", "step").values)
    np.testing.assert_allclose(result.threshold.sel(of="y"), alone.threshold)
    single = patching.against_flips(effects.isel(scene=[0]))
    assert single.t.isnull().all() and single.p.isnull().all() and single.threshold.isnull().all()


# Ablation and attribution.


def test_what_a_score_loses() -> None:
    counts = np.array([[[8.0, 10.0], [3.0, 10.0]], [[6.0, 10.0], [2.0, 5.0]], [[9.0, 10.0], [5.0, 5.0]]])
    result = xr.Dataset(
        {"counts": (("replacement", "scene", "score", "part"), np.stack([counts, 0 * counts * NAN], 2)[:, :, :, :])},
        coords={"replacement": ["none", "zero", "random write"], "scene": [0, 1], "score": ["fixed", "colour"],
                "part": ["good", "of"]},
    )  # fmt: skip
    assert ablation.scores_of(result) == ["fixed"] and ablation.replacements(result) == ["zero"]
    assert ablation.replacements(result.isel(replacement=[0, 2])) == ["random write"]
    # 11/20, 8/15 and 14/15
    np.testing.assert_allclose(ablation.value(result).sel(score="fixed"), [11 / 20, 8 / 15, 14 / 15])
    np.testing.assert_allclose(ablation.loss(result).sel(score="fixed"), [11 / 20 - 8 / 15, 11 / 20 - 14 / 15])
    # the last, over what there was in the whole model: (11 - 14) / 20, scenes -1/10 and -2/10
    interval = ablation.loss_interval(result.sel(score="fixed"))
    # between -1 and 1 it lies at .425, by log odds, each scene .025 from there
    odds, reach = np.log(0.425 / 0.575), TWO * 0.025 / (0.425 * 0.575)
    ends = [2 / (1 + np.exp(-(odds + side * reach))) - 1 for side in (-1, 1)]
    np.testing.assert_allclose(interval, [-0.15, *ends])
    assert ablation.points(interval) == "-15.0 [-66.5, +46.1]"


def test_frames_before_and_from_the_splice_on() -> None:
    here = xr.Dataset(
        {"by_frame": (("scene", "frame"), [[2.0, 4.0, 8.0], [2.0, 4.0, 8.0], [2.0, 4.0, 8.0]]), "probe_spread": 2.0,
         "splice": ("scene", [1.0, 2.0, NAN])},
    )  # fmt: skip
    values = {name: part.values.tolist() for name, part in attributed_frames.parts(here).items()}
    assert values["all frames"] == [7, 7, 7]
    assert values["before the break"][:2] == [1, 3] and values["from the break on"][:2] == [6, 4]
    assert np.isnan(values["before the break"][2]) and np.isnan(values["from the break on"][2])


def test_a_verdict_on_frames_names_the_model_its_baseline_and_every_control() -> None:
    here = xr.Dataset(
        {"by_frame": (("model", "baseline", "scene", "frame"), np.array([[[[2.0, 4.0]] * 2, [[9.0, 9.0]] * 2],
                                                                         [[[1.0, 1.0]] * 2, [[9.0, 9.0]] * 2]])),
         "probe_spread": ("model", [2.0, 1.0]), "splice": ("scene", [1.0, 1.0])},
        coords={"model": ["m", "null"], "baseline": ["noise", "mean"], "scene": [0, 1]},
    )  # fmt: skip
    assert attributed_frames.verdict(here, "the pixels") == (
        f"Integrated gradients over the pixels, from the noise baseline: the {text.LABEL_EFFECT} of the logit of m's"
        " probe adds up to +3.000 [+3.000, +3.000] probe SD (n = 2 test scenes), of which +2.000 [+2.000, +2.000] from"
        " the break on and +1.000 [+1.000, +1.000] before. In the control models: null +2.000 [+2.000, +2.000]."
    )
    unknown = here.assign(splice=("scene", [NAN, NAN])).sel(model=["m"])
    assert "(n = 2 test scenes). No control model was run." in attributed_frames.verdict(unknown, "the pixels")
    lines = attributed_frames.short_table(here)
    assert [line.split()[:2] for line in lines] == [["model", "baseline"], ["m", "noise"], ["m", "mean"],
                                                    ["null", "noise"], ["null", "mean"]]  # fmt: skip
    assert "+3.000 [+3.000, +3.000]" in lines[1] and "+18.000" in lines[4]


# Words.


def test_numbers_as_text() -> None:
    assert text.interval(0.6084, 0.585, 0.632) == "0.608 [0.585, 0.632]"
    assert text.interval(0.214, 0.1, -0.333, signed=True, digits=2) == "+0.21 [+0.10, -0.33]"
    assert text.interval(NAN, 0, 1) == "-" and text.interval(0.5, NAN, NAN) == "0.500 [one scene]"
    assert text.signed_mean(xr.DataArray([1.0, 1.0], dims="scene"), 1) == "+1.0 [+1.0, +1.0]"
    assert text.p_value(0.01234) == "p = 0.012" and text.p_value(0.00099) == "p < 0.001"
    assert text.p_value(0.001) == "p = 0.001" and text.p_value(NAN) == "p unknown"
    assert [text.listed(list(x)) for x in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert text.in_controls({}) == "No control model was run."
    assert text.in_controls({"n": "has 1", "s": "has 2"}) == "In the control models: n has 1; s has 2."
    assert columns.number(0.12345) == "0.123" and columns.number(NAN) == "-" and columns.number(2, ".1f") == "2.0"
    assert columns.aligned([("a", "bbb"), ("cc",), ("d", "e", "f")], gap=1) == ["a  bbb", "cc", "d  e   f"]
    assert columns.aligned([]) == [] and columns.aligned([("a", "b")]) == ["a  b"]


def test_published_numbers_as_text() -> None:
    assert str(Published(None, 0.55, "site")) == "< 0.55 (site)"
    assert str(Published(0.48, 0.53, "site")) == "0.48–0.53 (site)" and str(Published(0.9, 0.9, "site")) == "0.9 (site)"
    assert str(number("intphys", "wan")) == "0.9 (website)" and number("intphys", "x") is number("x", "wan") is None


BEST, LOW = Estimate("probe", 0.7, 0.6, 0.8), Estimate("a", 0.5, 0.4, 0.55)
TOUCHING, ALONE = Estimate("b", 0.55, 0.5, 0.6), Estimate("c", 0.65, NAN, NAN)


def test_which_controls_are_as_good() -> None:
    assert comparison.above(BEST, 0.5) and not comparison.above(BEST, 0.6)
    missing = Estimate("d", NAN, NAN, NAN)
    assert comparison.strongest_first([LOW, missing, ALONE, TOUCHING]) == [ALONE, TOUCHING, LOW]
    assert comparison.as_good(BEST, [LOW, TOUCHING, ALONE, missing]) == [ALONE, TOUCHING]
    assert BEST.text() == "probe (0.700 [0.600, 0.800])" and BEST.number(True, 1, "%") == "+0.7% [+0.6, +0.8]"


@pytest.mark.parametrize(
    ("estimate", "controls", "options", "sentence"),
    [
        (Estimate("p", 0.7, NAN, NAN), [], {}, "Without an interval there is no conclusion; no control was run."),
        (BEST, [LOW], {"chance": 0.65},
         "This is not above chance (0.65); the control is a (0.500 [0.400, 0.550])."),
        (BEST, [LOW, TOUCHING], {"chance": 0.6},
         "This is not above chance (0.6); the strongest of 2 controls is b (0.550 [0.500, 0.600])."),
        (Estimate("p", 0.7, 0.0, 0.8), [], {}, "This is not above 0; no control was run."),
        (BEST, [], {"chance": 0.5}, "This is above chance (0.5), but no control was run."),
        (BEST, [], {"chance": None}, "No control was run."),
        (BEST, [LOW], {"chance": 0.5, "what": "It"},
         "It is above chance (0.5) and above the control, a (0.500 [0.400, 0.550])."),
        (BEST, [LOW, LOW], {"chance": None, "digits": 1},
         "This is above all 2 controls, the strongest of which is a (0.5 [0.4, 0.6])."),
        (BEST, [TOUCHING], {"digits": 1, "signed": True},
         "This is above 0, but no more than in the controls: b (+0.6 [+0.5, +0.6])."),
        (BEST, [TOUCHING], {"chance": None, "digits": 1},
         "This is no more than in the controls: b (0.6 [0.5, 0.6])."),
        (BEST, [LOW, TOUCHING], {"chance": 0.5, "digits": 1},
         "This is above chance (0.5) and above 1 of 2 controls, but not above b (0.6 [0.5, 0.6])."),
        (BEST, [TOUCHING] * 4 + [LOW], {"chance": None, "digits": 1},
         "This is above 1 of 5 controls, but not above b (0.6 [0.5, 0.6]), b (0.6 [0.5, 0.6]) and"
         " b (0.6 [0.5, 0.6]) and 1 more."),
    ],
)  # fmt: skip
def test_a_conclusion_in_one_sentence(
    estimate: Estimate, controls: list[Estimate], options: dict[str, object], sentence: str
) -> None:
    assert comparison.conclusion(estimate, controls, **options) == sentence  # type: ignore[arg-type]


def test_crossed_signs_are_those_of_the_roles() -> None:
    assert tuple(labels.SIGNS.values()) == stats.CROSSED


# A NaN is no answer: what a clip, a scene or a margin does not say is not counted as wrong or right.


def test_a_nan_logit_leaves_its_scene_without_a_share() -> None:
    roles = {"role": ["A", "B", "C", "D"]}
    logit = xr.DataArray([[1, 1, -1, 1], [1, 1, -1, NAN], [-1, 1, -1, -1]], dims=("scene", "role"), coords=roles)
    np.testing.assert_array_equal(probe_blocks.correct(logit), [0.75, NAN, 0.75])
    pairs = [f"{a}{b}" for a, b in ("AC", "CA", "BD", "DB")]
    before = logit.sel(role=[pair[1] for pair in pairs]).rename(role="pair").assign_coords(pair=pairs)
    for rows, expected in (([0, 2], 0.75), ([0, 1, 2], NAN)):
        chosen = before.isel(scene=rows).expand_dims(readout=[patching.PLAUSIBILITY])
        mean, low, high = patching.accuracy(xr.Dataset({"before_logit": chosen}))
        np.testing.assert_array_equal(float(mean), expected)
        assert np.isnan([low, high]).all() == np.isnan(expected)


def test_a_nan_logit_is_neither_right_nor_wrong_in_an_ablation() -> None:
    values = np.array([[1.0, 1, -1, -1], [1, -1, -1, NAN], [-1, -1, 1, 1]])
    np.testing.assert_array_equal(ablations.right(values, [*"ABCD"]), [[1, NAN, 0], [1, 1, 1]])


def test_a_nan_margin_shows_neither_and_a_tie_one_half() -> None:
    margin = xr.DataArray([[2.0, -1], [-2, 1], [1, -1], [NAN, 9]], dims=("scene", "pair"))
    np.testing.assert_array_equal(know_and_show.shown(margin.isel(pair=0)), [1, 0, 1, NAN])
    np.testing.assert_array_equal(know_and_show.preferred(xr.Dataset({"margin": margin})), [1, 0, 0.5, NAN])
    roles = {"role": ["A", "B", "C", "D"]}
    ceiling = xr.DataArray([[1.0, 1, -1, -1], [1, NAN, -1, -1]], dims=("scene", "role"), coords=roles)
    np.testing.assert_array_equal(know_and_show.right(xr.Dataset({"ceiling": ceiling})), [1, NAN])
    np.testing.assert_array_equal(know_and_show.right(xr.Dataset({"ceiling": -ceiling})), [0, NAN])
