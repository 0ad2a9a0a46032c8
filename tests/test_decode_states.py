"""What lies within a half: truth of its targets, choice of place, score by hand; the command and its figure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import analyses.command
from analyses.decode_states import Config, chosen_blocks, run, score, truth
from dit_lens import results
from dit_lens.measures.decode_states import INPUT, TARGETS, scores
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.view_probes import share
from dit_lens.toy.views import Views, in_sight


def test_the_score_of_the_truth_is_one_and_of_the_mean_nought() -> None:
    known = np.random.default_rng(0).standard_normal((50, 2))
    for predicted, value in ((known, 1), (np.zeros_like(known) + known.mean(0), 0)):
        good, whole = share(known, predicted, known)
        assert good.sum() / whole.sum() == pytest.approx(value, abs=1e-9)
    names = np.array(["red", "blue", "red"])
    good, whole = share(names, np.array(["red", "red", "red"]), names)
    assert good.tolist() == [1, 0, 1] and whole.tolist() == [1, 1, 1]


def test_targets_are_what_the_clip_shows() -> None:
    clip = MiniPhys("test", 1, ["inertia"])[0]["A"]
    for _, frames, _ in in_sight(clip, 5):
        known = truth(clip, frames)
        assert list(known) == list(TARGETS) and known["colour"] == clip.factors["first"]["colour"]
        assert known["position"] == pytest.approx(clip.tracks[0].position[frames].mean(0))


def planted(there: bool, seed: int, scenes: int = 30) -> Views:
    """Noise at every place but the mean of "3", which holds position and colour if they are there."""
    rng = np.random.default_rng(seed)
    colour, position = rng.choice(["blue", "red"], 4 * scenes), rng.standard_normal((4 * scenes, 2))
    features = {name: (rng.standard_normal((len(colour), 8)), rng.standard_normal((len(colour), 3))) for name in "13"}
    if there:
        features["3"][1][:, 0], features["3"][1][:, 1:] = 5.0 * (colour == "red"), position
    known = {"position": position, "velocity": rng.permutation(position), "colour": colour}
    known["shape"] = rng.permutation(colour)
    groups = np.repeat([f"scene {i}" for i in range(scenes)], 4)
    return Views(features, known, groups, np.tile([1, 2, 3, 4], scenes), np.zeros(len(colour), dtype=bool))


@pytest.mark.parametrize("there", [True, False])
def test_a_planted_state_is_found_where_it_is_and_nothing_else(there: bool) -> None:
    places = [(block, pooling) for block in "13" for pooling in (0, 1)]
    table = score(planted(there, 0), planted(there, 1), places).expand_dims(source=["m"])
    value = scores(table).score.isel(source=0)
    assert (float(value.sel(target="position")) > 0.9) == there == (float(value.sel(target="colour")) > 0.9)
    assert float(value.sel(target="velocity")) < 0.2 and float(value.sel(target="shape")) < 0.7
    if there:
        assert table.place.isel(source=0).sel(target=["position", "colour"]).values.tolist() == ["3, mean"] * 2


def test_blocks_to_choose_from_are_those_of_the_model() -> None:
    models: list[Any] = [SimpleNamespace(blocks=blocks, name="m") for blocks in (1, 6, 30)]
    assert [chosen_blocks(Config(), lens) for lens in models] == [(0,), (1, 3, 5), (9, 19, 29)]
    assert chosen_blocks(Config(blocks=(0, 4)), models[1]) == (0, 4)
    with pytest.raises(ValueError, match="--blocks 6 for m · expected 0 to 5"):
        chosen_blocks(Config(blocks=(0, 6)), models[1])


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--controls", "mini-wan-random", "--train", "33", "--test", "22", "--blocks", "3"]
    arguments += ["--out", str(tmp_path)]
    config = analyses.command.parse(Config, "decode_states", arguments, None)
    path, figure = analyses.command.answered("decode_states", config, run, arguments)
    printed = capsys.readouterr().out
    assert "mini-wan-random" in printed and INPUT in printed and figure.stat().st_size > 5000
    value = scores(results.open_result(path)).score.sel(target="colour")
    assert float(value.sel(source="mini-wan")) > float(value.sel(source="mini-wan-random")) + 0.1


def test_data_without_the_truth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="true positions"):
        analyses.command.parse(Config, "decode_states", ["--data", f"intphys:dev={tmp_path}"], None)
