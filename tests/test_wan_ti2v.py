"""Wan 2.2 TI2V-5B: a time for every token, and a clean first frame in the place of the latent's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_pipelines import CALL, FRAMES, LATENT, SIZE, image, image_to_video, lens_on, noise, text
from small_pipelines import wan as text_to_video
from torch import Tensor

from dit_lens import DiTLens
from dit_lens.families import wan

STEPS = 4
TOKENS = 8  # 2 frames of 2 x 2


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    """Told of a first frame."""
    pipe = image_to_video("wan", expand_timesteps=True)
    return lens_on(pipe, **wan.encode_image(pipe, image(), (FRAMES, SIZE, SIZE)))


@pytest.fixture(scope="module")
def free() -> DiTLens:
    """The same model as text-to-video: no frame is given."""
    return lens_on(text_to_video(expand_timesteps=True))


def call(lens: DiTLens, **options: Any) -> Tensor:
    arguments = {"prompt_embeds": text(), "guidance_scale": 1.0, "num_inference_steps": STEPS, "latents": noise()}
    return lens.pipeline(**CALL | arguments | options).frames


def fed(lens: DiTLens, **options: Any) -> list[dict[str, Any]]:
    """What the pipeline feeds its transformer."""
    calls: list[dict[str, Any]] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    call(lens, **options)
    handle.remove()
    return calls


def test_what_is_fed_is_what_the_pipeline_feeds(lens: DiTLens, free: DiTLens) -> None:
    for model, options in ((lens, {"image": image()}), (free, {})):
        for expected in fed(model, **options):
            level = expected["timestep"].max()
            mine = model.model.evaluation(expected["hidden_states"], level, model.conditioning).inputs
            for name in ("hidden_states", "timestep", "encoder_hidden_states"):
                assert torch.equal(mine[name], expected[name]), name
            assert mine["timestep"].shape == (1, TOKENS)
            assert bool(mine["timestep"][:, :4].any()) == (model is free) and mine["timestep"][:, 4:].all()


def test_our_sampler_is_the_pipelines_own(lens: DiTLens, free: DiTLens) -> None:
    for model, options in ((lens, {"image": image()}), (free, {})):
        start = model.noising(torch.zeros(LATENT), noise(), steps=STEPS)
        ours = model.sample(start, solver="euler").latents[0]
        torch.testing.assert_close(ours, call(model, **options), rtol=0, atol=1e-5)
    assert (call(lens, image=image()) - call(lens, image=image(3))).abs().max() > 1e-2


def test_a_given_frame_stays_as_it_is_along_the_path(lens: DiTLens) -> None:
    first = lens.conditioning.tensors["first_frame"]
    path = lens.invert(noise(2), steps=STEPS, solver="heun")
    assert all(torch.equal(latent[:, :, :1], first) for latent in path.latents)
    assert not torch.equal(path.latents[0][:, :, 1:], path.latents[-1][:, :, 1:])
    again = lens.sample(path)
    assert torch.equal(again.latents[0][:, :, :1], first)


def test_the_clean_estimate_keeps_the_given_frame_and_moves_the_others_by_their_own_level(lens: DiTLens) -> None:
    path = lens.noising(noise(2), noise(), steps=STEPS)
    velocity, cache = lens.run_with_cache(path, step=2)
    assert torch.equal(cache["hook_x0"][:, :, :1], lens.conditioning.tensors["first_frame"])
    expected = path.latents[2] - path.schedule.sigmas[2] * velocity
    torch.testing.assert_close(cache["hook_x0"][:, :, 1:], expected[:, :, 1:])


def test_modulation_is_by_token_and_the_stream_is_the_sum_of_its_writes(lens: DiTLens) -> None:
    path = lens.noising(noise(2), noise(), steps=STEPS)
    _, cache = lens.run_with_cache(path, step=2)
    gate = cache["gate_attn", 1]
    assert gate.shape == (1, TOKENS, 24)
    assert torch.equal(gate[:, :4], gate[:, :1].expand(-1, 4, -1)) and not torch.equal(gate[:, 0], gate[:, 4])
    assert torch.equal(cache["resid_pre", 1] + cache["attn_out", 1], cache["resid_mid_attn", 1])
    torch.testing.assert_close(cache["attn_out", 1], gate * cache["raw_out", 1])


def test_a_level_for_every_frame_is_that_level_for_all_its_tokens(free: DiTLens) -> None:
    levels = torch.tensor([[100.0, 800.0]])
    by_frame, cache = free.run_with_cache(latent=noise(), timestep=levels)
    by_token, _ = free.run_with_cache(latent=noise(), timestep=levels.repeat_interleave(4, dim=1))
    assert torch.equal(by_frame, by_token)
    expected = noise() - levels.view(1, 1, 2, 1, 1) / 1000 * by_frame
    torch.testing.assert_close(cache["hook_x0"], expected)
    alike, _ = free.run_with_cache(latent=noise(), timestep=800.0)
    assert not torch.equal(alike, by_frame)


def test_hooks_act_on_the_pipelines_own_calls(lens: DiTLens) -> None:
    plain = call(lens, image=image())
    generation = lens.generate(names_filter=["hook_latent", "hook_x0"], **CALL, image=image(), guidance_scale=1.0,
                         num_inference_steps=STEPS, latents=noise())  # fmt: skip
    assert torch.equal(generation.frames, plain)
    assert [(kept.step, kept.branch) for kept in generation] == [(step, "cond") for step in (4, 3, 2, 1)]
    for kept in generation:
        assert torch.equal(kept.cache["hook_x0"][:, :, :1], kept.cache["hook_latent"][:, :, :1])
