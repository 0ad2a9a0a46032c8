"""Each analysis from the command line: table and figure, reuse, bad input, and nothing half-written after Ctrl-C."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
import figures.output
from analyses import (
    decode_states,
    follow_training,
    pairs,
    patch_attention,
    patch_heads,
    patch_mlp,
    patch_residual,
    probe_blocks,
    surprise,
)
from dit_lens import datasets, results
from figures import decode_states as decode_states_figure
from figures import follow_training as follow_training_figure
from figures import patch_attention as patch_attention_figure
from figures import patch_heads as patch_heads_figure
from figures import patch_mlp as patch_mlp_figure
from figures import patch_residual as patch_residual_figure
from figures import probe_blocks as probe_blocks_figure
from figures import surprise as surprise_figure

RANDOM = ["--controls", "mini-wan-random"]
FEW = ["--levels", "4", "--train", "10", "--test", "4", "--properties", "inertia", "gravity", "--batch-size", "4"]
TINY = {
    "patch_heads": [*FEW, *RANDOM, "--steps", "2", "3"],
    "patch_residual": [*FEW, "--controls", "--steps", "2"],
    "patch_mlp": [*FEW, "--controls", "--steps", "2", "--writes", "mlp_out"],
    "patch_attention": [*FEW, "--controls", "--steps", "2", "--parts", "q", "pattern"],
    "probe_blocks": [
        *RANDOM, "--levels", "4", "--train", "10", "--test", "10", "--unseen", "3", "--autoencoder", "",
        "--steps", "1", "3",
    ],
    "surprise": ["--controls", "mini-wan-random", "--test", "22", "--draws", "1", "--sigmas", "0.6"],
    "decode_states": ["--controls", "mini-wan-random", "--train", "33", "--test", "22", "--blocks", "1"],
    "follow_training": [
        "--checkpoints", "500", "--levels", "3", "--steps", "1", "--sigmas", "0.6", "--train", "22", "--test", "22",
    ],
}  # fmt: skip
MODULES = {
    "patch_heads": (patch_heads, patch_heads_figure),
    "patch_residual": (patch_residual, patch_residual_figure),
    "patch_mlp": (patch_mlp, patch_mlp_figure),
    "patch_attention": (patch_attention, patch_attention_figure),
    "probe_blocks": (probe_blocks, probe_blocks_figure),
    "surprise": (surprise, surprise_figure),
    "decode_states": (decode_states, decode_states_figure),
    "follow_training": (follow_training, follow_training_figure),
}


def call(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    analysis, figure = MODULES[name]
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    analyses.command.main(analysis.Config, analysis.run, analysis.table, figure.draw, name, analysis.__doc__)


@pytest.mark.parametrize("name", list(TINY))
def test_an_analysis_writes_its_table_and_figure_and_does_not_repeat_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(name, TINY[name], monkeypatch, tmp_path)
    first = capsys.readouterr().out
    assert (
        "\n500 " if name == "follow_training" else "mini-wan-random" if "mini-wan-random" in TINY[name] else "step 2"
    ) in first
    assert (tmp_path / "out" / f"{name}.pdf").stat().st_size > 5000
    made = results.facts(results.open_result(tmp_path / "data" / f"{name}.nc"))
    assert str(made["config"]["test"]) in TINY[name] and made["weights"]["mini-wan"] and made["dataset"] == "miniphys"

    def again(config: object) -> xr.Dataset:
        raise AssertionError("ran again")

    monkeypatch.setattr(MODULES[name][0], "run", again)
    call(name, TINY[name], monkeypatch, tmp_path)
    assert first.strip() in capsys.readouterr().out
    with pytest.raises(AssertionError, match="ran again"):
        call(name, [*TINY[name], "--seed", "1"], monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "mini-wam"], "did you mean 'mini-wan'"),
        (["--dataset", "miniphyz"], "miniphys"),
        (["--steps", "25"], "step 25"),
        (["--train", "3"], "at least 10"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("patch_heads", ["--train", "10", "--test", "10", *arguments], monkeypatch, tmp_path)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("error: got") and says in last
    assert not (tmp_path / "data").exists()


def test_ctrl_c_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", interrupted)
    with pytest.raises(SystemExit) as stopped:
        call("patch_heads", [*TINY["patch_heads"], "--controls"], monkeypatch, tmp_path)
    assert stopped.value.code == 130
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", list(TINY))
def test_help_tells_of_every_option(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(name, ["--help"], monkeypatch, tmp_path)
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().out)  # without the box and its line breaks
    options = MODULES[name][0].Config.__dataclass_fields__
    assert ended.value.code == 0
    for option in options:
        assert "--" + option.replace("_", "-") in told
    # Every option has a sentence: text between its name and the next option or the end of the box.
    assert len(re.findall(r"\(default: ", told)) == len(options)


def test_the_code_of_an_analysis_is_all_that_it_imports_of_analyses() -> None:
    names = [path.stem for path in analyses.command.sources_of("ablate_blocks")]
    assert {"ablate_blocks", "ablate_blocks_changes", "ablations", "command", "frozen_probe"} <= {*names}
    assert "surprise" not in names and names == sorted(names)
    assert {"probe_blocks", "surprise", "forcing"} <= {p.stem for p in analyses.command.sources_of("know_and_show")}


def test_views_are_of_objects_in_sight_and_tell_where_they_are() -> None:
    clips = [quadruplet.a for quadruplet in datasets.load("miniphys", split="test", quadruplets=22)]
    seen = [(clip, frame, frames) for clip in clips for frame, frames in decode_states.in_sight(clip)]
    assert len(seen) > 20
    for clip, frame, frames in seen:
        track = clip.tracks[0]
        assert len(frames) >= 2 and set(frames) <= set(range(4 * frame - 3, 4 * frame + 1))
        assert track.present[frames].all() and not track.hidden[frames].any()
    hidden = [clip for clip in clips if clip.tracks[0].hidden.any()]
    assert all(len(list(decode_states.in_sight(clip))) < 4 for clip in hidden) and hidden


def test_the_score_of_the_truth_is_one_and_of_the_mean_nought() -> None:
    truth = np.random.default_rng(0).standard_normal((50, 2))
    for predicted, score in ((truth, 1), (np.zeros_like(truth) + truth.mean(0), 0)):
        good, whole = decode_states.share(truth, predicted, truth)
        assert good.sum() / whole.sum() == pytest.approx(score, abs=1e-9)
    names = np.array(["red", "blue", "red"])
    good, whole = decode_states.share(names, np.array(["red", "red", "red"]), names)
    assert good.tolist() == [1, 0, 1] and whole.tolist() == [1, 1, 1]


def planted(signs: dict[str, int]) -> xr.Dataset:
    """Effects by hand: a pair's effect is label x 2 + content x 3, the content turning over with A and B."""
    side = {"A→C": 1, "B→D": -1, "A→D": 1, "B→C": -1, "C→A": 1, "D→B": -1, "D→A": 1, "C→B": -1}
    names = ("pair", "quadruplet", "model", "step")
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


def test_label_and_content_are_told_apart_by_hand() -> None:
    result = planted(pairs.PAIRS)
    assert pairs.label_odd(result).values == pytest.approx(1.0)
    assert pairs.content(result).values == pytest.approx(1.5)
    estimate, low, high = pairs.recovery(result)
    assert estimate == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)


@pytest.mark.parametrize("half", ["first", "second"])
def test_content_cancels_among_the_pairs_that_share_a_half_too(half: str) -> None:
    """The four pairs with a half in common swap the other one there and back, in A and in B."""
    sign = pairs.PAIRS
    side = {"A→C": 1, "C→A": -1, "B→D": -1, "D→B": 1, "A→D": 1, "D→A": -1, "B→C": -1, "C→B": 1}
    result = planted(sign)
    given = np.array([2.0 * sign[pair] + 3.0 * side.get(pair, 0) for pair in sign])
    result["effect_logit"] = xr.zeros_like(result.effect_logit) + xr.DataArray(given, dims="pair")
    assert pairs.label_odd(result, half).values == pytest.approx(1.0)
    assert set(pairs.SHARING[half]) == {p for p in sign if sign[p] and shares(p) == half}


def shares(pair: str) -> str:
    """The half that two roles have in common, by what they are made of."""
    made = {"A": "AA", "B": "BB", "C": "AB", "D": "BA"}
    first, second = (made[role] for role in pair.split("→"))
    return "first" if first[0] == second[0] else "second"
