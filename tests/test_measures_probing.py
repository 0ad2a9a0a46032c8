"""Measures of probes on results made by hand: single pairs, several violations of one clip, no controls, no parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dit_lens import results
from dit_lens.measures import (
    compare_encoders,
    decode_states,
    follow_training,
    forcing,
    probe_attention,
    probe_blocks,
    probe_controls,
    probe_state,
    side_by_side,
)
from dit_lens.measures.columns import aligned
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.selection import ALL, by_property, pool_name
from dit_lens.toy import miniphys


def probed(logits: dict[str, list[list[float]]], roles: str = "AC", **coordinates: object) -> xr.Dataset:
    """The least that a result of probes holds: logits (source, scene, role) and the cell that was chosen."""
    values = np.array(list(logits.values()), dtype=float)
    names = ("source", "scene", "role")
    whole = np.full((len(values), 1, 1), 0.5)
    known = {"source": list(logits), "role": list(roles), "step": [3], "block": [1]}
    known["scene"] = [f"scene {i}" for i in range(values.shape[1])]
    return xr.Dataset(
        {
            "logit": (names, values),
            "train_accuracy": (("source", "step", "block"), whole),
            "test_accuracy": (("source", "step", "block"), whole),
            "chosen_step": ("source", [3] * len(values)),
            "chosen_block": ("source", [1] * len(values)),
        },
        known | coordinates,
    )


def test_a_table_has_its_control_models_at_the_models_own_cell() -> None:
    """A control model's own cell may hide what it has at the model's; a control without such a block has none there."""
    result = probed({"m": [[1, -1]] * 4, "null": [[1, 1]] * 4, "small": [[1, 1]] * 4, "pixels": [[1, 1]] * 4})
    kinds, readers = ["states", "states", "states", "clip"], ["m", "null", "small", "pixels"]
    result = result.reindex(block=[0, 1]).assign_coords(kind=("source", kinds), reader=("source", readers))
    result = result.assign_coords(path=("source", ["inversion"] * 3 + [""]))
    result.test_accuracy.loc[{"source": "null"}] = [[0.6, 0.55]]
    result.test_accuracy.loc[{"source": "small"}] = [[0.5, np.nan]]
    shown = probe_blocks.table(result)
    assert "null, test accuracy at m's cell: 0.550; at most 0.600" in shown
    assert "small, test accuracy at m's cell: -; at most 0.500" in shown and "pixels, test accuracy" not in shown


def test_scores_of_single_pairs_by_hand() -> None:
    """Pairs (A, C): both right, A alone right, neither right; differences 3, 1 and -2."""
    result = probed({"m": [[1, -2], [2, 1], [-1, 1]]})
    scores = probe_blocks.chosen(result).sel(source="m")
    assert float(scores.accuracy) == pytest.approx(3 / 6)
    assert float(scores.pairwise) == pytest.approx(2 / 3)
    assert float(scores.d_prime) == pytest.approx((2 / 3) / np.std([3, 1, -2], ddof=1))
    assert {"own", "transfer", "changes", "unseen"}.isdisjoint(scores.data_vars)
    for full in (False, True):
        shown = probe_blocks.table(result, full)
        assert (
            "0.500 [" in shown and "left out of the fit" not in shown and "nan" not in shown and "unseen" not in shown
        )
    assert "not above chance (0.5); no control was run" in probe_blocks.verdict(result)


def test_violations_of_one_clip_are_one_observation() -> None:
    """Three violations of one clip are right in 1, 1 and 0 of 2 clips; two other pairs are right in both."""
    right = [[1, 1], [1, 1], [-1, 1], [1, -1], [1, -1]]
    result = probed({"m": right}, group=("scene", ["x", "x", "x", "y", "z"]))
    scores = probe_blocks.chosen(result).sel(source="m")
    assert float(scores.accuracy) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert float(scores.pairwise) == pytest.approx((1 / 3 + 1 + 1) / 3)
    apart = probe_blocks.chosen(probed({"m": right})).sel(source="m")
    assert float(apart.accuracy) == pytest.approx(6 / 10)
    assert float(scores.high - scores.low) > float(apart.high - apart.low)  # three observations, not five


def test_lawful_changes_and_properties_are_scored_where_there_are_some() -> None:
    good, bad = [1, 1, -1, -1], [-1, 1, 1, -1]
    properties = ("scene", ["gate", "gate", "colour", "colour"])
    result = probed({"m": [good, bad, good, good]}, "ABCD", property=properties)
    result["transfer_logit"] = -result.logit
    scores = probe_blocks.chosen(result).sel(source="m")
    assert float(scores.changes) == pytest.approx(3 / 4)  # of A and B of the gates
    assert scores.by_property.sel(property=["gate", "colour"]).values == pytest.approx([0.75, 1.0])
    assert scores.transfer_by_property.sel(property="colour") == 0
    assert "0.750 (0.250)  1.000 (0.000)" in probe_blocks.table(result, full=True)
    assert miniphys.CHANGES == probe_blocks.CHANGES


def test_the_verdict_is_about_the_path_that_training_scenes_read_best_and_not_about_seeds() -> None:
    sure, even = [[1, -1]] * 48, [[1, 1], [-1, -1], [1, -1], [-1, 1]] * 12
    paths = ("inversion", "continuation")
    names = [
        "m",
        "m, continuation",
        "m, continuation, input x_σ",
        "r",
        "r, continuation",
        "m-1, continuation",
        "pixels",
    ]
    logits = dict(zip(names, [even, sure, even, sure, even, sure, even], strict=True))
    described = {
        "reader": ("source", ["m", "m", "m", "r", "r", "m-1", "pixels"]),
        "path": ("source", [paths[0], paths[1], paths[1], paths[0], paths[1], paths[1], ""]),
        "kind": ("source", ["states", "states", "input", "states", "states", "states", "clip"]),
    }
    result = probed(logits, **described)
    result.train_accuracy.loc[{"source": "m, continuation"}] = 0.9
    assert probe_blocks.headline(result) == (names[1], [names[2], names[4], names[6]])
    verdict = probe_blocks.verdict(result)
    assert "states of m, continuation (after block 1, step 3" in verdict and "1.000 [0.926, 1.000] per clip" in verdict
    assert "over 2 training seeds 1.000 ± 0.000" in verdict and "above all 3 controls, the strongest" in verdict
    few, whole = (probe_blocks.table(result, full) for full in (False, True))
    assert "r, continuation" in few and "m-1, continuation  " not in few and "m-1, continuation  " in whole


def test_the_conclusion_names_the_controls_that_do_as_well() -> None:
    model = Estimate("m", 0.7, 0.6, 0.8)
    weak, equal = Estimate("weak", 0.5, 0.45, 0.55), Estimate("equal", 0.68, 0.58, 0.78)
    assert conclusion(model, [], 0.5) == "This is above chance (0.5), but no control was run."
    assert conclusion(model, [weak], 0.5).endswith("above the control, weak (0.500 [0.450, 0.550]).")
    assert "above 1 of 2 controls, but not above equal (0.680 [0.580, 0.780])" in conclusion(model, [weak, equal], 0.5)
    assert "no more than in the controls: equal" in conclusion(model, [equal], 0.5)
    assert "not above chance (0.5); the control is weak" in conclusion(Estimate("m", 0.55, 0.5, 0.6), [weak], 0.5)
    assert "there is no conclusion" in conclusion(Estimate("m", 0.9, np.nan, np.nan), [weak], 0.5)


def test_scenes_are_pooled_where_they_are_crossed_or_all_where_none_is() -> None:
    result = probed({"m": [[1, -1]] * 3}, property=("scene", ["a", "a", "b"]), crossed=("scene", [True, False, True]))
    assert {name: list(rows) for name, rows in by_property(result).items()} == {ALL: [0, 2], "a": [0, 1], "b": [2]}
    assert list(by_property(result, least=2)) == [ALL, "a"] and pool_name(result) == "crossed scenes"
    none = result.assign_coords(crossed=("scene", [False] * 3))
    assert list(by_property(none)[ALL]) == [0, 1, 2] and pool_name(none) == "scenes"
    assert list(by_property(result.drop_vars(["crossed", "property"]))) == [ALL]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([["a", "bbb", "c"], ["aaaa", "b"]]) == ["a     bbb  c", "aaaa  b"]


def test_every_measure_stands_in_the_same_columns_and_the_relative_one_only_beside_the_labels_share() -> None:
    """A crossed scene of every kind; what pairs lack has a reason under the table."""
    table = [[4.0, 2, 1, 1], [1, -1, 2, -2], [3, 1, -1, -1]] * 4
    known = {"group": ("scene", [f"g{i}" for i in range(12)]), "crossed": ("scene", [True] * 12)}
    crossed, pairs = probed({"m": table}, "ABCD", **known), probed({"m": [[1, -2], [2, 1], [-1, 1]]})
    row = probe_blocks.chosen(crossed).sel(source="m")
    assert float(row.relative) == pytest.approx((1 + 0.5 + 1) / 3) and int(row.crossed) == 12
    whole = ((np.array(table[:3]) - 10 / 12) ** 2).sum()
    assert float(row.label_share) == pytest.approx(13 / whole)  # see test_separation.test_measures_by_hand
    cells = dict(zip(side_by_side.HEADS, side_by_side.cells(row), strict=True))
    assert (
        cells["relative; label's share"].startswith("0.833 [")
        and f"; {13 / whole:.3f} [" in cells["relative; label's share"]
    )
    assert cells["d'"].startswith(f"{(5 / 3) / np.std([2, 0, 3] * 4, ddof=1):+.2f} [") and cells["n"] == "12"
    for lacking in ("relative", "label_share"):
        with pytest.raises(ValueError, match="expected both or neither"):
            side_by_side.cells(row.assign({lacking: np.nan}))
    shown = probe_blocks.table(pairs)
    assert "-: relative, label's share: no scene is known to be crossed" in shown
    assert "no scene is known" not in probe_blocks.table(crossed)
    unknown = probe_blocks.chosen(probed({"m": [[1, np.nan]] * 3})).sel(source="m")
    assert np.isnan(unknown.accuracy) and "some clips have no logit" in str(unknown.absent.item())


def test_no_table_has_a_relative_measure_of_its_own() -> None:
    """Tables get it from `side_by_side` alone, whose cell has the share: no module of measures names the variable."""
    users = [path for path in Path(side_by_side.__file__).parent.glob("*.py") if "label_share" in path.read_text()]
    assert [path.stem for path in users] == ["side_by_side"]
    naming = [path.stem for path in Path(side_by_side.__file__).parent.glob("*.py") if ".relative" in path.read_text()]
    assert naming == ["side_by_side"]


def controlled(logits: list[list[float]], **coordinates: object) -> xr.Dataset:
    """Rows of probe_controls: the same pairs (A, C) read on two paths and by pixels, and a random label."""
    flat = np.zeros_like(logits)
    names = ["m, continuation", "m, inversion", "pixels", "m, continuation"]
    labels = [[[1.0, 0.0]] * len(logits)] * 3 + [[[float(i % 2)] * 2 for i in range(len(logits))]]
    return xr.Dataset(
        {
            "logit": (("row", "scene", "role"), np.array([logits, logits, flat, flat])),
            "label": (("row", "scene", "role"), np.array(labels)),
        },
        {"source": ("row", names), "asked": ("row", ["physics"] * 3 + ["random, by scene"]), "role": ["A", "C"]}
        | coordinates,
    )


def test_controls_of_pairs_by_hand() -> None:
    groups = [f"{name}{i}" for i in range(10) for name in "xxyz"]
    result = controlled([[1, -1], [2, 1], [1, -3], [1, -1]] * 10, group=("scene", groups))
    scores = probe_controls.scores(result)
    # The two scenes of an x are one observation: right in 3 of 4 clips.
    right = (3 / 4 + 1 + 1) / 3
    assert scores.accuracy.values == pytest.approx([right, right, 1 / 2, 1 / 2]) and (scores.groups == 30).all()
    assert scores.chance.values == pytest.approx(0.5)
    said = probe_controls.verdict(result)
    assert "0.917 [0.860, 0.952] per clip" in said and "above the control, pixels (0.500 [0.442, 0.558])" in said
    assert "inversion" not in said and said.endswith(
        "random by scene are decoded with an accuracy of 0.500 [0.350, 0.650]."
    )
    assert "random" not in probe_controls.table(result)
    result["label"][2] = np.nan
    assert np.isnan(probe_controls.scores(result).accuracy[2]) and "no control was run" in probe_controls.verdict(
        result
    )


def decoded(good: list[list[float]], groups: list[str]) -> xr.Dataset:
    """What makes up R² by source and scene, of one variable in sight; views weigh 1, and 2 in the last scene."""
    whole = np.ones_like(np.array(good))
    whole[:, -1] = 2
    names = ("source", "scene", "sight", "variable", "path", "place")
    values = {key: (names, np.array(x)[:, :, None, None, None, None]) for key, x in (("good", good), ("whole", whole))}
    known = {"source": ["m", "r"][: len(good)], "sight": ["seen"], "variable": ["position"], "path": ["inversion"]}
    attrs = {"provenance": results.provenance(sigma=0.5)}
    return xr.Dataset(values, known | {"place": ["3"], "group": ("scene", groups)}, attrs)


def test_state_is_the_ratio_of_sums_over_groups_by_hand() -> None:
    result = decoded([[1, 0, 0.5, 2], [0, 0, 0, 0]], ["x", "x", "y", "z"])
    whole = xr.concat([result, 0 * result.assign_coords(sight=["hidden"])], "sight").assign_attrs(result.attrs)
    scores = probe_state.scores(whole)
    row = scores.sel(sight="seen", variable="position", source="m").squeeze()
    assert float(row.score) == pytest.approx((0.5 + 0.5 + 2) / (1 + 1 + 2)) and int(row.n) == 3
    assert int(scores.n.sel(sight="hidden").squeeze()) == 0 and np.isnan(scores.score.sel(sight="hidden")).all()
    said = probe_state.verdict(whole)
    assert "states of m, at the best block, with R² 0.75 [0.34, 1.00] while it is seen (n = 3" in said
    assert "hidden" not in said and "above the control, r (0.00 [0.00, 0.00])" in said
    assert "0.75 [0.34, 1.00]" in probe_state.table(whole)
    assert "too few scenes" in probe_state.table(whole, full=True)
    alone = decoded([[1, 0, 0.5, 2]], ["x", "x", "y", "z"])
    single = xr.concat([alone, alone.assign_coords(sight=["hidden"])], "sight").assign_attrs(alone.attrs)
    assert "The latter is above 0, but no control was run." in probe_state.verdict(single)


def test_a_control_decodes_what_the_model_decodes_by_hand() -> None:
    good = [[[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 1, 0, 1], [1, 0, 1, 1]], [[1, 1, 0, 1], [1, 1, 1, 1]]]
    result = xr.Dataset(
        {
            "good": (("source", "target", "scene"), np.array(good, float)),
            "whole": (("source", "target", "scene"), np.ones((3, 2, 4))),
        },
        {"source": ["m", "r", "twin"], "target": ["position", "colour"]},
        {"provenance": results.provenance(sigma=0.5, views=4)},
    )
    scores = decode_states.scores(result)
    assert scores.score.values == pytest.approx(np.array([[0.75, 1], [0.75, 0.75], [0.75, 1]]))
    assert scores.lead.sel(source="r").values == pytest.approx([0, 25])
    assert decode_states.largest_leads(scores) == pytest.approx({"r": 25, "twin": 0})
    said = decode_states.verdict(result)
    assert "twin (0.0) decodes them as well and can serve as a control; r (25.0) does not" in said
    assert "25.0 points: not a control" in decode_states.table(result)
    assert "No control model was run" in decode_states.verdict(result.isel(source=[0]))


def test_attention_of_pairs_by_hand() -> None:
    """Head 1 of block 0 orders both pairs, the states none; training scenes choose the head."""
    logit = np.zeros((1, 1, 4, 3, 2))
    logit[0, 0, 1] = [[1, -1], [2, -1], [1, 1]]
    result = xr.Dataset(
        {
            "logit": (("source", "block", "feature", "scene", "role"), logit),
            "train_accuracy": (("source", "block", "feature"), [[[0.5, 0.9, 0.6, 0.5]]]),
            "threshold": ("source", [0.7]),
            "p": ("source", [0.01]),
        },
        {"source": ["m"], "block": [0], "feature": ["0", "1", "all heads", "states"], "role": ["A", "C"]},
        {"provenance": results.provenance(sigma=0.5)},
    )
    best = probe_attention.chosen(result).sel(source="m", kind="one head")
    assert best.cell_feature.item() == "1" and float(best.accuracy) == pytest.approx(5 / 6)
    assert float(best.pairwise) == pytest.approx(2.5 / 3)
    said = probe_attention.verdict(result)
    assert (
        "head 0.1 of m" in said
        and "p = 0.010" in said
        and ", no more than its states do (0.500 [0.146, 0.854])" in said
    )
    assert "no control was run" in said and "1 of 20" in probe_attention.table(result, full=True)


def test_encoders_without_surprise_or_tints_by_hand() -> None:
    result = probed({"m, continuation": [[1, -1], [1, -1], [1, 1]], "pixels": [[1, 1], [-1, -1], [1, 1]]})
    result = result.assign(layer=("source", ["x", "y"]), weights=("source", ["m", "none"]), sees=("source", ["a", "b"]))
    said = compare_encoders.verdict(result)
    assert "0.833 [0.028, 0.999]" in said and "surprise" not in said
    for full in (False, True):
        shown = compare_encoders.table(result, full)
        assert "pixels" in shown and "tint" not in shown and "surprise" not in shown and "left out" not in shown


def test_continuations_of_single_clips_by_hand() -> None:
    """Of frames that show the object it is in place in 3 of 4, 1 of 2 and 1 of 2, the last two of one group."""
    counts = ["sight", "found", "place", "colour", "error", "drawn", "frames"]
    counts += ["squared", "pixels", "squared moving", "pixels moving"]
    clip = [
        [4, 4, 3, 4, 2, 1, 8, 1, 100, 1, 10],
        [2, 2, 1, 2, 1, 1, 8, 1, 100, 1, 10],
        [2, 2, 1, 2, 1, 1, 8, 1, 100, 1, 10],
    ]
    clips = np.tile(clip, (10, 1))
    sums = np.stack([clips, clips * [1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]).astype(float)[:, None, :, None]
    groups = [f"{name}{i}" for i in range(10) for name in "xyy"]
    result = xr.Dataset(
        {"sums": (("model", "context", "scene", "role", "count"), sums)},
        {"model": ["m", "r"], "context": [3], "role": ["A"], "count": counts, "group": ("scene", groups)},
    )
    assert (forcing.scores(result.sums.sel(model="m")).place.item()) == pytest.approx((3 + 1) / (4 + 2))
    said = forcing.verdict(result)
    assert "0.67 [0.61, 0.72] of the frames" in said and "(n = 30 test scenes in 20 groups" in said
    assert said.endswith("This is above the control, r (0.00 [0.00, 0.17]).")
    assert "drift" not in forcing.table(result, full=True) and forcing.by_hiding(result.sums) == {}


def test_training_is_followed_from_where_a_measure_stays_above_chance() -> None:
    low = {"surprise": [-1, 2, -1, 3], "continuation": [0.4, 0.4, 0.4, 0.4]}
    values = [[[x + 0.5, x, x + 1] for x in row] for row in low.values()]
    result = xr.Dataset(
        {"value": (("measure", "checkpoint", "bound"), np.array(values)), "scenes": 5},
        {"measure": list(low), "checkpoint": [0, 1, 2, 3], "bound": ["estimate", "low", "high"]},
    )
    assert follow_training.since(result, "surprise") == 3 and follow_training.since(result, "continuation") is None
    said = follow_training.verdict(result)
    assert "from step 3 on (3.500 [3.000, 4.000] at the last)" in said and "above chance at no step" in said
    assert "n = 5 test scenes" in said and "initialisation at step 0: surprise -0.500" in said
    assert follow_training.table(result).splitlines()[1].startswith("0     -0.500 [-1.000, 0.000]")
