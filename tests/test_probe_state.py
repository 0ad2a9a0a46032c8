"""Physical state: the truth as the physics made it; a planted state is found; what the clock tells is worth nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import analyses.command
import figures.output
from analyses import probe_state
from analyses.probe_state import FED, Config, contacts, moments, truth
from analyses.probe_state_scores import SIGHTS, VARIABLES, Views, score, scores
from dit_lens import results
from dit_lens.clips import Clip
from dit_lens.datasets.miniphys import MiniPhys
from figures import probe_state as figure

RNG = np.random.default_rng(0)


def lawful(prop: str, quadruplets: int = 6) -> list[Clip]:
    return [clip for quadruplet in MiniPhys("test", quadruplets, [prop]) for clip in (quadruplet.a, quadruplet.b)]


def test_views_are_seen_or_hidden_and_never_both() -> None:
    for clip in lawful("inertia"):
        found = list(moments(clip))
        assert len({frame for frame, _, _ in found}) == len(found)
        for frame, frames, hidden in found:
            assert set(frames) <= set(range(4 * frame - 3, 4 * frame + 1))
            assert clip.tracks[0].hidden[frames].all() if hidden else not clip.tracks[0].hidden[frames].any()
        assert {hidden for _, _, hidden in found} == {True, False}


def test_a_thrown_ball_is_accelerated_by_gravity_alone() -> None:
    found = [(clip, truth(clip, frames)) for clip in lawful("gravity") for _, frames, _ in moments(clip)]
    falls = [(clip.factors["scene"]["gravity"], told["acceleration"]) for clip, told in found]
    free = [(gravity, there) for gravity, there in falls if np.isfinite(there).all()]
    assert len(free) > 10 and all(there == pytest.approx([gravity], abs=1e-3) for gravity, there in free)
    assert all(np.isnan(told["incline"]).all() for _, told in found)


def test_on_a_ramp_the_acceleration_is_that_of_its_angle() -> None:
    for clip in lawful("incline"):
        for _, frames, _ in moments(clip):
            told, gravity = truth(clip, frames), clip.factors["scene"]["gravity"]
            pull = gravity * abs(np.sin(np.radians(told["incline"][0])))
            assert told["acceleration"][0] == pytest.approx(pull, abs=0.02)
            assert told["incline"] == clip.factors["scene"]["ramp"] and np.isnan(told["contact"])


def test_a_contact_lies_where_the_object_turns_and_its_time_runs_down() -> None:
    thrown_back = 0
    for clip in lawful("solidity"):
        met, way = contacts(clip.tracks[0]), np.sign(clip.tracks[0].velocity[:, 0])
        assert len(met) == (way[0] != way[-1]) and (way[np.arange(17) < [*met, 17][0]] == way[0]).all()
        ahead = np.array([truth(clip, frames)["contact"][0] + frames.mean() for _, frames, _ in moments(clip)])
        assert ahead[np.isfinite(ahead)] == pytest.approx([met[0]] * int(np.isfinite(ahead).sum()) if len(met) else [])
        thrown_back += np.isfinite(ahead).any()
    assert 0 < thrown_back < 12 and not any(len(contacts(clip.tracks[0])) for clip in lawful("continuity"))


def made_views(carried: bool, informative: bool = True, groups: int = 24) -> Views:
    """Views whose features hold a position that grows with the frame; hidden ones hold it elsewhere unless carried.

    Args:
        informative: the features hold what the position is beside its mean in the frame; else the frame alone.
    """
    grid = np.meshgrid(np.arange(groups), [1, 2, 3, 4], [False, True], indexing="ij")
    group, frame, hidden = (axis.ravel() for axis in grid)
    position = 3.0 * frame + RNG.standard_normal(len(group))
    features = 0.05 * RNG.standard_normal((len(group), 6))
    features[np.arange(len(group)), np.where(hidden & (not carried), 2, 0)] += position if informative else 3.0 * frame
    none = np.full((len(group), 1), np.nan)
    told = {"position": position[:, None], "velocity": RNG.permutation(position)[:, None]}
    told |= {"acceleration": none, "incline": none, "contact": none}
    names = np.array([f"scene {i}" for i in group])
    return Views({FED: (features, features[:, :1])}, told, names, frame, hidden)


def measured(train: Views, test: Views) -> dict[str, np.ndarray]:
    """R² by variable: seen, hidden, and hidden by the probe of the seen."""
    made = score(train, test).expand_dims(source=["x"], route=["y"])
    return {variable: scores(made).score.sel(variable=variable).squeeze().values for variable in VARIABLES}


def test_a_planted_state_is_found_and_a_shuffled_one_is_not() -> None:
    found = measured(made_views(True), made_views(True))
    assert (found["position"] > 0.95).all() and (found["velocity"] < 0.1).all()
    assert np.isnan(found["acceleration"]).all()


def test_a_state_kept_in_another_place_is_found_by_a_probe_of_its_own_only() -> None:
    seen, hidden, carried = measured(made_views(False), made_views(False))["position"]
    assert seen > 0.95 and hidden > 0.95 and carried < 0.1


def test_what_the_frame_alone_tells_is_worth_nothing() -> None:
    train, test = (made_views(True, informative=False) for _ in range(2))
    found = measured(train, test)
    times, position = test.features[FED][1][:, 0], test.truth["position"][:, 0]
    assert np.corrcoef(times, position)[0, 1] ** 2 > 0.8
    assert (found["position"] < 0.2).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["probe_state", *arguments])
    analyses.command.main(Config, probe_state.run, probe_state.table, figure.draw, "probe_state", probe_state.__doc__)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--controls", "mini-wan-random", "--train", "14", "--test", "14", "--levels", "4", "--step", "2"]
    call([*few, "--properties", "inertia", "gravity"], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert all(name in told for name in (*SIGHTS, "mini-wan-random, inversion", "latent", "pixels", "too few scenes"))
    assert (tmp_path / "out" / "probe_state.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "probe_state.nc")
    row = scores(result).score.sel(sight="seen", variable="position", route="continuation")
    assert float(row.sel(source="mini-wan").max()) > float(row.sel(source="mini-wan-random").max()) + 0.1
