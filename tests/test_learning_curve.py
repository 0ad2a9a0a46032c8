"""Learning curves by hand: draws of a test scene are one observation; subsets grow; both readouts on a small model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from analyses import command
from analyses.learning_curve import Config, sizes, subsets
from dit_lens import results
from dit_lens.measures.learning_curve import gain, scores, table, verdict
from dit_lens.probing import Features


def curves(**logits: list) -> xr.Dataset:
    """A result of crossed scenes: logits (size, draw, scene, role) by model."""
    values = np.array(list(logits.values()), dtype=float)[:, None]
    count = values.shape[4]
    known = {
        "model": list(logits),
        "readout": ["interaction"],
        "size": [5, 10][: values.shape[2]],
        "role": list("ABCD"),
    }
    known |= {"scene": [f"s{i}" for i in range(count)], "crossed": ("scene", [True] * count)}
    return xr.Dataset({"logit": (("model", "readout", "size", "draw", "scene", "role"), values)}, known)


RIGHT, HALF = [1.0, 1, -1, -1], [1.0, -1, 1, -1]


def test_draws_are_averaged_within_test_scenes_by_hand() -> None:
    """With 5 scenes one draw of two is right, with 10 both: one observation per test scene, not one per draw."""
    few, many = [[RIGHT] * 60, [HALF] * 60], [[RIGHT] * 60] * 2
    result = curves(m=[few, many], null=[[[HALF] * 60] * 2] * 2)
    measured = scores(result)
    row = measured.sel(model="m", readout="interaction", size=5)
    assert (float(row.accuracy), int(row.groups), int(row.clips)) == (0.75, 60, 480)
    assert float(row.relative) == (1 + 0.5) / 2
    # Squares of the label 4 and 0, of the first half 0 and 4.
    assert float(row.label_share) == 4 / 8
    added = gain(result, "m", "interaction")
    assert added is not None and added.value == 0.25 and gain(result.isel(size=[1]), "m", "interaction") is None
    said = verdict(result)
    assert "fitted on 10 training scenes" in said and "from 5 scenes on it gains +0.250" in said
    assert "it is still growing" in said and "above the control, null (0.500" in said
    shown = table(result)
    assert "relative; label's share" in shown and shown.count("null") == 1 < table(result, full=True).count("null")
    still = verdict(curves(m=[many, many]))
    assert "no growth is measurable" in still and "no control was run" in still


def test_subsets_grow_by_whole_groups_and_are_the_same_for_every_reader() -> None:
    groups = np.repeat([f"g{i}" for i in range(12)], 4)
    train = Features.of_arrays({(0, 0): np.zeros((48, 2))}, np.tile([True, True, False, False], 12), groups)
    parts = subsets(train, (3, 6, 12), 0)
    assert [len(part) for part in parts] == [12, 24, 48]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    assert all(len(np.unique(groups[part])) * 4 == len(part) for part in parts)
    assert np.array_equal(parts[1], subsets(train, (6,), 0)[0]) and not np.array_equal(
        parts[1], subsets(train, (6,), 1)[0]
    )
    config = Config(controls=(), sizes=None)
    assert sizes(config, train) == (6, 12) and sizes(replace(config, sizes=(9, 7)), train) == (7, 9)
    with pytest.raises(ValueError, match="got --sizes 13 of 12 training scenes"):
        sizes(replace(config, sizes=(13,)), train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (4,)}, "sizes from 5"),
        ({"sizes": (200,)}, "to --train"),
        ({"draws": 0}, "one or more draws"),
        ({"readout": "interaction"}, "expected --readouts"),
        ({"joined_blocks": 0}, "expected 1 or more blocks"),
        ({"strengths": (0.0,)}, "positive strengths"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options).resolved()


def test_both_readouts_of_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--controls",
        "--train",
        "10",
        "--test",
        "5",
        "--sampler-steps",
        "2",
        "--read-at",
        "1",
        "--path",
        "noising",
    ]
    options += ["--properties", "gravity", "--draws", "1", "--sizes", "5", "10", "--joined-blocks", "2"]
    command.call("learning_curve", [*options, "--model", "mini-wan-random", "--yes", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("learning_curve-*.nc")
    result = results.open_result(path)
    assert dict(result.logit.sizes) == {"model": 1, "readout": 2, "draw": 1, "size": 2, "scene": 5, "role": 4}
    assert result.crossed.all() and path.with_suffix(".pdf").stat().st_size > 5000
    assert int(result.chosen_block.min()) >= 1  # the first of two joined blocks is no cell
    states, added = (result.logit.sel(readout=name) for name in ("blocks", "interaction"))
    assert not np.allclose(states, added) and "relative; label's share" in capsys.readouterr().out
