"""Velocity errors: what adds up over frames cancels, whatever its break; each scene is scored as it would be alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from small_models import SMALL, build
from spliced import crossed_at, pair_of

import dit_lens.studies.velocity_errors as module
from dit_lens.capture import takes_levels_by_frame
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.measures.labels import label_effect
from dit_lens.measures.surprise import CONDITIONS
from dit_lens.running import Evaluation, HookedTransformer
from dit_lens.studies.velocity_errors import velocity_errors
from dit_lens.toy.miniphys import MiniPhys

SCENES = MiniPhys("test", 2, ["colour", "inertia"])[:]
# Breaks in the second, third and fourth of the last four latent frames, and one that breaks twice.
CROSSED = [crossed_at(SCENES[i % 2], frames) for i, frames in enumerate([(5,), (9,), (13,), (5, 13)])]
APART = crossed_at(SCENES[1], (5,), (13,))


def without_breaks(scene: Scene) -> Scene:
    return replace(scene, id=f"{scene.id}, no breaks", breaks=(), crossed=False)


@pytest.mark.parametrize("match_matters", [False, True])
def test_only_what_depends_on_the_match_of_frames_is_surprising(
    match_matters: bool, lens: DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def velocity(evaluation: Evaluation) -> torch.Tensor:
        x = evaluation.inputs["hidden_states"]
        return x.sin() * x.std((1, 2, 3, 4) if match_matters else (1, 3, 4), keepdim=True)

    monkeypatch.setattr(lens.model, "velocity", velocity)
    error = velocity_errors(lens, CROSSED, (0.3, 0.7), draws=2)
    assert error.shape == (3, 2, 5, len(CROSSED), 4) and error.condition.values.tolist() == list(CONDITIONS)
    surprise = np.abs(label_effect(error.sum("frame")))
    assert (surprise.max(("sigma", "scene")) > 1e-4).all() == match_matters
    assert (surprise.max() > 1e-4) == match_matters


def test_frames_before_each_break_are_fed_clean_at_timestep_0(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations: list[Evaluation] = []
    run = lens.model.velocity
    monkeypatch.setattr(lens.model, "velocity", lambda evaluation: (evaluations.append(evaluation), run(evaluation))[1])
    velocity_errors(lens, [CROSSED[0], CROSSED[1]], (0.5,))
    noised, prefixed = (evaluation.inputs for evaluation in evaluations)
    assert (noised["timestep"] == 500).all()
    clean = lens.encode([clip for pair in zip(CROSSED[0].clips, CROSSED[1].clips, strict=True) for clip in pair])
    for row, frames in enumerate([2, 3] * 4):
        tokens = 16 * frames
        assert (prefixed["timestep"][row, :tokens] == 0).all() and (prefixed["timestep"][row, tokens:] == 500).all()
        assert torch.equal(prefixed["hidden_states"][row, :, :frames], clean[row, :, :frames])
        assert torch.equal(prefixed["hidden_states"][row, :, frames:], noised["hidden_states"][row, :, frames:])


def test_a_scene_is_scored_as_alone_whatever_breaks_its_batch_has(lens: DiTLens) -> None:
    scenes = [*CROSSED, APART]
    together = velocity_errors(lens, scenes, (0.5,), seed=1)
    assert together.scene.values.tolist() == [scene.id for scene in scenes]
    assert together.crossed.values.tolist() == [True] * 4 + [False]
    for scene, frames in zip(scenes, [[2] * 4, [3] * 4, [4] * 4, [2] * 4, [2, 4, 2, 4]], strict=True):
        here = together.sel(scene=scene.id)
        alone = velocity_errors(lens, [scene], (0.5,), seed=1).isel(scene=0)
        assert here.values == pytest.approx(alone.values, abs=1e-5, nan_ok=True)
        assert np.isfinite(here[0]).all()
        for condition in (1, 2):
            scored = np.isfinite(here[condition, 0])
            assert [(~scored[:, role]).sum().item() for role in range(4)] == frames
    different_seed = velocity_errors(lens, [CROSSED[1]], (0.5,), seed=2)
    assert not np.allclose(different_seed[0], together.isel(condition=0, scene=[1]))  # of other noise, other errors


def test_where_clips_do_not_begin_alike_only_the_whole_is_scored(lens: DiTLens) -> None:
    pairs = [pair_of(SCENES[0], 9), without_breaks(pair_of(SCENES[1], 9)), pair_of(SCENES[0], 0)]
    error = velocity_errors(lens, pairs, (0.5,), batch_size=2)
    assert error.role.values.tolist() == ["A", "C"] and error.condition.size == 3
    assert np.isfinite(error).any(("frame", "role")).values[:, 0].tolist() == [[True] * 3, *[[True, False, False]] * 2]
    assert velocity_errors(lens, pairs[1:], (0.5,)).condition.values.tolist() == [CONDITIONS[0]]


def test_a_model_of_one_level_is_given_no_frames(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes_levels_by_frame(lens)
    monkeypatch.setattr(module, "takes_levels_by_frame", lambda lens: False)
    error = velocity_errors(lens, CROSSED[:1], (0.5,))
    assert error.condition.values.tolist() == list(CONDITIONS[:2])


@pytest.mark.parametrize("name", list(SMALL))
def test_families_say_whether_they_take_a_timestep_for_each_token(name: str) -> None:
    model = HookedTransformer(build(name), name)
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    conditioning, time = Conditioning(tensors), torch.tensor(model.family.to_timestep(0.5))
    plain = model.evaluation(latent, time, conditioning)
    whole = model.velocity(plain)

    def by_token(clean: int) -> torch.Tensor:
        times = time.expand(1, model.grid(plain).tokens).clone()
        times[:, :clean] = model.family.to_timestep(0.0)
        return model.velocity(model.evaluation(latent, times, conditioning))

    if not model.family.time_by_token:
        with pytest.raises(Exception, match=r"(?s)."):  # refused by diffusers or by shape checks, in many ways
            by_token(0)
        return
    torch.testing.assert_close(by_token(0), whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(by_token(3), whole, atol=1e-4)


@pytest.mark.parametrize(("sigmas", "draws"), [((), 1), ((0.0,), 1), ((1.2,), 1), ((0.5,), 0)])
def test_bad_levels_and_draws_are_refused(sigmas: tuple[float, ...], draws: int, lens: DiTLens) -> None:
    with pytest.raises(ValueError, match=r"expected noise levels in \(0, 1\]"):
        velocity_errors(lens, CROSSED[:1], sigmas, draws)


def test_a_brief_surprise_shows_in_the_peak(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    def jolted(lens: DiTLens, ends: tuple[torch.Tensor, torch.Tensor], *rest: object) -> torch.Tensor:
        """In impossible clips the error comes all in the last frame."""
        jolt = torch.where(torch.arange(len(ends[0])) < len(ends[0]) // 2, 0.0, 0.1)[:, None]
        return 1 + jolt * torch.tensor([0.0, 0.0, 0.0, -1.0, 1.0])

    monkeypatch.setattr(module, "frame_errors", jolted)
    error: xr.DataArray = velocity_errors(lens, CROSSED[:2], (0.5,))
    assert label_effect(error.mean("frame")).values == pytest.approx(0, abs=1e-6)
    assert label_effect(error.max("frame")).values == pytest.approx(-0.1, abs=1e-6)
