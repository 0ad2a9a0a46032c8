"""Physical state: the truth as the physics made it; a planted state is found; what the clock tells is worth nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spliced import crossed_at

import analyses.command
from analyses.probe_state import Config, run
from dit_lens import results
from dit_lens.capture import NoisePath, encode, partly_noised, spliced_noise
from dit_lens.clips import Clip, Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_state import FED, SIGHTS, VARIABLES, scores
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.view_probes import score
from dit_lens.toy.views import (
    Views,
    contacts,
    frames_of,
    in_sight,
    latents,
    pixels,
    seen_and_hidden,
    states,
    truth,
    views,
)

LATENTS = 5
RNG = np.random.default_rng(0)


def lawful(prop: str, scenes: int = 6, size: int = 32) -> list[Clip]:
    return [scene[role] for scene in MiniPhys("test", scenes, [prop], size=size) for role in "AB"]


def test_views_are_seen_or_hidden_and_never_both() -> None:
    for clip in lawful("inertia"):
        moments = list(seen_and_hidden(clip, LATENTS))
        assert len({frame for frame, _, _ in moments}) == len(moments)
        for frame, frames, hidden in moments:
            assert set(frames) <= set(range(4 * frame - 3, 4 * frame + 1))
            assert clip.tracks[0].hidden[frames].all() if hidden else not clip.tracks[0].hidden[frames].any()
        assert {hidden for _, _, hidden in moments} == {True, False}


def test_a_thrown_ball_is_accelerated_by_gravity_alone() -> None:
    truths = [
        (clip, truth(clip, frames)) for clip in lawful("gravity") for _, frames, _ in seen_and_hidden(clip, LATENTS)
    ]
    falls = [(clip.factors["scene"]["gravity"], state["acceleration"]) for clip, state in truths]
    free = [(gravity, there) for gravity, there in falls if np.isfinite(there).all()]
    assert len(free) > 10 and all(there == pytest.approx([gravity], abs=1e-3) for gravity, there in free)
    assert all(np.isnan(state["incline"]).all() for _, state in truths)


def test_on_a_ramp_the_acceleration_is_that_of_its_angle() -> None:
    for clip in lawful("incline"):
        for _, frames, _ in seen_and_hidden(clip, LATENTS):
            state, gravity = truth(clip, frames), clip.factors["scene"]["gravity"]
            pull = gravity * abs(np.sin(np.radians(state["incline"][0])))
            assert state["acceleration"][0] == pytest.approx(pull, abs=0.02)
            assert state["incline"] == clip.factors["scene"]["ramp"] and np.isnan(state["contact"])


def test_a_contact_lies_where_the_object_turns_and_its_time_runs_down() -> None:
    thrown_back = 0
    for clip in lawful("solidity"):
        met, way = contacts(clip.tracks[0]), np.sign(clip.tracks[0].velocity[:, 0])
        assert len(met) == (way[0] != way[-1]) and (way[np.arange(17) < [*met, 17][0]] == way[0]).all()
        ahead = np.array(
            [truth(clip, frames)["contact"][0] + frames.mean() for _, frames, _ in seen_and_hidden(clip, LATENTS)]
        )
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
    variables = {"position": position[:, None], "velocity": RNG.permutation(position)[:, None]}
    variables |= {"acceleration": none, "incline": none, "contact": none}
    names = np.array([f"scene {i}" for i in group])
    return Views({FED: (features, features[:, :1])}, variables, names, frame, hidden)


def measured(train: Views, test: Views) -> dict[str, np.ndarray]:
    """R² by variable: seen, hidden, and hidden by the probe of the seen."""
    result = score(train, test).expand_dims(source=["x"], path=["y"])
    return {variable: scores(result).score.sel(variable=variable).squeeze().values for variable in VARIABLES}


def test_a_planted_state_is_found_and_a_shuffled_one_is_not() -> None:
    r2 = measured(made_views(True), made_views(True))
    assert (r2["position"] > 0.95).all() and (r2["velocity"] < 0.1).all()
    assert np.isnan(r2["acceleration"]).all()


def test_a_state_kept_in_another_place_is_found_by_a_probe_of_its_own_only() -> None:
    visible, hidden, carried = measured(made_views(False), made_views(False))["position"]
    assert visible > 0.95 and hidden > 0.95 and carried < 0.1


def test_what_the_frame_alone_tells_is_worth_nothing() -> None:
    train, test = (made_views(True, informative=False) for _ in range(2))
    r2 = measured(train, test)
    times, position = test.features[FED][1][:, 0], test.truth["position"][:, 0]
    assert np.corrcoef(times, position)[0, 1] ** 2 > 0.8
    assert (r2["position"] < 0.2).all()


# Views of clips.


def test_frames_lie_in_latent_frames() -> None:
    assert [frames_of(latent, 17, 5).tolist() for latent in (0, 1, 4)] == [[0], [1, 2, 3, 4], [13, 14, 15, 16]]
    assert frames_of(1, 8, 2).tolist() == [4, 5, 6, 7]
    assert frames_of(1, 17, 3).tolist() == list(range(1, 9))


def test_what_is_in_sight_does_not_hang_on_the_size_of_the_picture() -> None:
    for small, large in zip(lawful("inertia", 3), lawful("inertia", 3, size=64), strict=True):
        in_small, in_large = (
            [(f, list(frames), h) for f, frames, h in seen_and_hidden(c, LATENTS)] for c in (small, large)
        )
        assert in_small == in_large and len(small.frames[0]) < len(large.frames[0])


def test_views_are_of_objects_in_sight_and_tell_where_they_are() -> None:
    clips = [scene["A"] for scene in MiniPhys("test", 22)]
    views_in_sight = [(clip, frame, frames) for clip in clips for frame, frames, _ in in_sight(clip, LATENTS)]
    assert len(views_in_sight) > 20
    for clip, frame, frames in views_in_sight:
        track = clip.tracks[0]
        assert len(frames) >= 2 and set(frames) <= set(range(4 * frame - 3, 4 * frame + 1))
        assert track.present[frames].all() and not track.hidden[frames].any()
    hidden = [clip for clip in clips if clip.tracks[0].hidden.any()]
    assert all(len(list(in_sight(clip, LATENTS))) < 4 for clip in hidden) and hidden


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return MiniPhys("test", 3, ["inertia"])[:]


@pytest.mark.parametrize("kind", ["continuation", "noising", "inversion"])
def test_states_are_those_of_the_lawful_clips(kind: str, lens: DiTLens, scenes: list[Scene]) -> None:
    some = [scenes[0], crossed_at(scenes[1], (5,))]
    path = NoisePath(kind, 4, seed=1)
    read = states(lens, path, 2, [1, 3])(some)
    clean, sigma = encode(lens.encode, some), lens.schedule(4).sigmas[2]
    noise, counts = spliced_noise(clean, some, 1), [3, 2] * 4
    fed = partly_noised(lens, clean, noise, sigma, counts if kind == "continuation" else 0)
    if kind == "inversion":
        fed["latent"] = lens.invert(clean, 4, "euler").latent(2)
    _, cache = lens.run_with_cache(**fed, names_filter="blocks.*.hook_resid_post")
    torch.testing.assert_close(read[FED], fed["latent"][:4].movedim(1, -1).flatten(2, 3), atol=1e-5, rtol=1e-4)
    for block in (1, 3):
        by_hand = cache.grid("resid_post", block).flatten(2, 3)
        torch.testing.assert_close(read[str(block)], by_hand[:4], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(read[str(block)], by_hand[4:], atol=1e-2)  # the impossible ones


def test_rows_of_views_are_the_moments_of_their_clips(lens: DiTLens, scenes: list[Scene]) -> None:
    result = views(scenes, latents(lens), seen_and_hidden, truth, 2, "latents")  # two batches
    order = [*(scene[role] for role in "AB" for scene in scenes[:2]), *(scenes[2][role] for role in "AB")]
    moments = [(clip, *moment) for clip in order for moment in seen_and_hidden(clip, LATENTS)]
    assert result.group.tolist() == [clip.group for clip, *_ in moments]
    assert result.frame.tolist() == [frame for _, frame, *_ in moments]
    assert result.hidden.tolist() == [hidden for *_, hidden in moments]
    for row, (clip, frame, frames, _) in enumerate(moments):
        latent = lens.encode([clip])[0, :, frame].movedim(0, -1).flatten()
        np.testing.assert_allclose(result.features[FED][0][row], latent, atol=1e-5)
        np.testing.assert_allclose(result.truth["position"][row], clip.tracks[0].position[frames].mean(0))


def test_pixels_are_those_of_the_frames_that_a_latent_frame_holds(scenes: list[Scene]) -> None:
    values = pixels(LATENTS)(scenes)[FED]
    for row, clip in enumerate([scene[role] for role in "AB" for scene in scenes]):
        for latent, frames in ((0, [0, 0, 0, 0]), (3, [9, 10, 11, 12])):
            shown = np.round((values[row, latent].reshape(32, 32, 4, 3).movedim(2, 0).numpy() + 1) * 127.5)
            np.testing.assert_array_equal(shown, clip.frames[frames])


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--controls", "mini-wan-random", "--train", "8", "--test", "6", "--sampler-steps", "4", "--read-at", "2"]
    arguments = [*few, "--properties", "inertia", "--also", "--out", str(tmp_path), "--full"]
    config = analyses.command.parse(Config, "probe_state", arguments, None)
    path, figure = analyses.command.answered("probe_state", config, run, arguments)
    printed = capsys.readouterr().out
    assert all(
        name in printed for name in (*SIGHTS, "mini-wan-random, continuation", "latent", "pixels", "too few scenes")
    )
    assert figure.stat().st_size > 5000
    row = scores(results.open_result(path)).score.sel(sight="seen", variable="position", path="continuation")
    assert float(row.sel(source="mini-wan").max()) > float(row.sel(source="mini-wan-random").max()) + 0.1


def test_data_without_the_truth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which has no true positions"):
        analyses.command.parse(Config, "probe_state", ["--data", f"intphys:dev={tmp_path}"], None)


def test_a_continuation_is_read_beside_an_inversion() -> None:
    assert Config().resolved().also == ("inversion",)
    assert Config(path="inversion").resolved().also == () == Config(also=()).resolved().also
