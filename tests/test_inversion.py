"""Inverting and sampling on a random mini-wan: schedules, solvers, records, files, and the pipeline's own sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.flow import SOLVERS, Solver
from dit_lens.lens import DiTLens
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.toy.mini_wan import assemble, empty_prompt, new_transformer
from dit_lens.trajectory import Trajectory

BY_SIZE = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
SCHEDULERS: dict[str, Any] = {
    "shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "Karras": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "terminal": FlowMatchEulerDiscreteScheduler(shift_terminal=0.1),
}


@pytest.fixture
def separate_lens(lens: DiTLens, codec: AutoencoderPatchPCA) -> DiTLens:
    """A lens whose scheduler a test may swap."""
    return DiTLens(assemble(lens.transformer, codec), "own", lens.conditioning, verify=False)


@pytest.fixture(scope="module")
def latent() -> Tensor:
    return torch.randn(2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def counted(lens: DiTLens) -> Iterator[list[tuple[float, int]]]:
    """(timestep, clips) of every call of the transformer."""
    calls: list[tuple[float, int]] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((float(kwargs["timestep"].max()), len(kwargs["hidden_states"]))),
        with_kwargs=True,
    )
    yield calls
    handle.remove()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_our_sampler_equals_the_pipelines_own_whatever_its_levels(
    name: str, separate_lens: DiTLens, latent: Tensor
) -> None:
    separate_lens.pipeline.scheduler = SCHEDULERS[name]
    separate_lens.pipeline.set_progress_bar_config(disable=True)
    theirs = separate_lens.pipeline(
        prompt_embeds=empty_prompt(), guidance_scale=1.0, height=32, width=32, num_frames=17, num_inference_steps=5,
        latents=latent[:1], output_type="latent",
    ).frames  # fmt: skip
    ours = separate_lens.sample(latent[:1], "euler", steps=5).latents[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, separate_lens.sample(latent[:1], "heun", steps=5).latents[0], atol=1e-3)


def test_what_inverts_euler_brings_back_what_the_pipelines_sampler_was_given(
    separate_lens: DiTLens, latent: Tensor
) -> None:
    sampled = separate_lens.sample(latent, "euler", steps=6)
    inverted = separate_lens.invert(sampled.latents[0], 6, "implicit_euler")
    torch.testing.assert_close(inverted.latents, sampled.latents, rtol=0, atol=1e-4)
    assert (separate_lens.invert(sampled.latents[0], 6, "euler").latents[-1] - latent).abs().max() > 1e-2


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_record_counts_what_the_transformer_was_called_for(
    solver: str, lens: DiTLens, latent: Tensor, counted: list
) -> None:
    path = lens.invert(latent, steps=3, solver=solver, batch_size=1)
    assert sum(clips for _, clips in counted) == int(path.record.evaluations.sum())
    assert path.record.sizes == {"step": 4, "clip": 2} and path.record.converged.all()
    back = lens.sample(path)
    assert int(back.record.evaluations[-1].sum()) == 0 and back.record.step.values.tolist() == [0, 1, 2, 3]


def test_a_target_time_is_told_and_recorded(lens: DiTLens, latent: Tensor, counted: list) -> None:
    path = lens.invert(latent, steps=3, solver=Solver("euler", time_at="target"))
    times = list(path.schedule.timesteps)
    assert [time for time, _ in counted] == pytest.approx(times[1:])
    assert path.record.fed_timestep.values[1:].tolist() == pytest.approx(times[1:])
    counted.clear()
    back = lens.sample(path)
    assert back.solver == Solver("euler") and [time for time, _ in counted] == pytest.approx(times[:0:-1])


def test_a_floor_keeps_the_model_from_what_it_was_not_trained_on(lens: DiTLens, latent: Tensor, counted: list) -> None:
    path = lens.invert(latent, steps=[0.0, 0.2, 0.6, 1.0], solver=Solver("euler", sigma_min=0.05))
    assert [time for time, _ in counted] == pytest.approx([50, 200, 600])
    assert path.record.fed_sigma.values[1:].tolist() == pytest.approx([0.05, 0.2, 0.6])


def test_hooks_see_the_step_of_the_level_that_is_told(lens: DiTLens, latent: Tensor) -> None:
    for solver, expected in (("euler", [0, 1, 2]), (Solver("euler", time_at="target"), [1, 2, 3])):
        steps: list[int | None] = []
        with lens.hooks([("hook_latent", lambda x, hook, steps=steps: steps.append(hook.step))]):
            lens.invert(latent, steps=3, solver=solver)
        assert steps == expected


def test_levels_may_be_given_and_are_not_shifted_again(separate_lens: DiTLens, latent: Tensor) -> None:
    separate_lens.pipeline.scheduler = SCHEDULERS["shift 3"]
    schedule = separate_lens.schedule([0.0, 0.25, 1.0])
    assert schedule.sigmas == (0.0, 0.25, 1.0) and schedule.timesteps == (0.0, 250.0, 1000.0)
    assert separate_lens.schedule(schedule) is schedule
    assert separate_lens.invert(latent, schedule, "euler").schedule is schedule
    with pytest.raises(ValueError, match="levels that rise"):
        separate_lens.schedule([1.0, 0.5, 0.0])


def test_a_scheduler_that_shifts_by_size_asks_for_mu(
    separate_lens: DiTLens, latent: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    separate_lens.pipeline.scheduler = BY_SIZE
    with pytest.raises(ValueError, match="got no mu"):
        separate_lens.invert(latent, 4)
    schedule = separate_lens.schedule(4, mu=0.7)
    assert schedule.sigmas[1] == pytest.approx(0.1)
    asked: list[tuple] = []

    def arguments(pipeline: Any, latent: Tensor, steps: int) -> dict[str, Any]:
        asked.append((pipeline, tuple(latent.shape), steps))
        return {"mu": 0.7}

    monkeypatch.setattr(separate_lens, "family", replace(separate_lens.family, schedule_arguments=arguments))
    assert separate_lens.invert(latent, 4, "euler").schedule.sigmas == schedule.sigmas
    assert asked == [(separate_lens.pipeline, (1, 16, 5, 8, 8), 4)]


def test_unipc_gives_its_levels_and_whole_timesteps(separate_lens: DiTLens, latent: Tensor, counted: list) -> None:
    separate_lens.pipeline.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    path = separate_lens.invert(latent, 4, "euler")
    stock = UniPCMultistepScheduler.from_config(separate_lens.pipeline.scheduler.config)
    stock.set_timesteps(4)
    assert path.schedule.sigmas == tuple(stock.sigmas.tolist()[::-1])
    assert [time for time, _ in counted] == [0, *stock.timesteps.tolist()[:0:-1]]
    assert all(time == int(time) for time, _ in counted)
    assert path.record.fed_timestep.values[1:].tolist() == [time for time, _ in counted]


def test_sampling_starts_from_noise_or_from_where_a_path_ends(lens: DiTLens, latent: Tensor) -> None:
    from_noise = lens.sample(latent, "heun", steps=3)
    noising = lens.noising(torch.zeros_like(latent), latent, steps=3)
    assert torch.equal(lens.sample(noising, "heun").latents, from_noise.latents)
    with pytest.raises(TypeError, match="got a path by plain noising and no solver"):
        lens.sample(noising)
    finer = lens.sample(noising, "heun", steps=5)
    assert len(finer.schedule) == 5 and torch.equal(finer.latents[-1], latent)


def test_a_trajectory_from_disk_goes_on_as_it_was(lens: DiTLens, latent: Tensor, tmp_path: Path) -> None:
    path = lens.invert(latent, 3, "fireflow")
    again = Trajectory.open(path.save(tmp_path / "path.h5"))
    assert torch.equal(lens.sample(again).latents, lens.sample(path).latents)
    velocities = [lens.run_with_cache(p, step=2, names_filter="hook_velocity")[0] for p in (again, path)]
    assert torch.equal(*velocities)
    assert again.facts["model"] == lens.name and again.facts["prompt_hash"] == lens.conditioning.hash


def test_a_folder_of_frames_is_a_clip(lens: DiTLens, quadruplets: list[Scene], tmp_path: Path) -> None:
    clip = quadruplets[0]["A"]
    for i, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(tmp_path / f"{i:03d}.png")
    from_folder = lens.invert(tmp_path, 2, "euler")
    assert torch.equal(from_folder.latents, lens.invert(clip, 2, "euler").latents)
    assert from_folder.clip_ids == (str(tmp_path),)


def test_a_step_that_overflows_is_named(codec: AutoencoderPatchPCA, latent: Tensor) -> None:
    broken = new_transformer(0)
    with torch.no_grad():
        broken.proj_out.weight.fill_(np.inf)
    lens = DiTLens(
        assemble(broken, codec), "broken", Conditioning({"encoder_hidden_states": empty_prompt()}), verify=False
    )
    with pytest.raises(FloatingPointError, match=r"step 0 \(sigma 0\.0000 to 0\.3333\)"):
        lens.invert(latent, [0.0, 1 / 3, 1.0], "implicit_euler")
