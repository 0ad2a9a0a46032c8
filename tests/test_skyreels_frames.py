"""SkyReels-V2 from given frames: image-to-video, and diffusion forcing behind frames that are given clean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
)
from small_models import build
from small_pipelines import SIZE, image, image_encoder, lens_on, skyreels, text
from torch import Tensor

from dit_lens import DiTLens, edits
from dit_lens.families import skyreels as family
from dit_lens.running import HookedTransformer

STEPS, FRAMES, TOKENS = 4, 4, 4  # latent frames, and tokens of a frame
VIDEO = (13, SIZE, SIZE)
LATENT = (1, 4, FRAMES, 4, 4)
IMAGE = {"in_channels": 12, "image_dim": 10, "added_kv_proj_dim": 24, "inject_sample_info": False}


def noise(seed: int = 0) -> Tensor:
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


def from_image() -> Any:
    return skyreels(SkyReelsV2ImageToVideoPipeline, STEPS, image_encoder(), **IMAGE)


def forcing() -> Any:
    return skyreels(SkyReelsV2DiffusionForcingImageToVideoPipeline, STEPS)


@pytest.fixture(scope="module", params=[from_image, forcing], ids=["image to video", "forcing"])
def lens(request: pytest.FixtureRequest) -> DiTLens:
    """Told of a first frame."""
    pipe = request.param()
    tensors = family.encode_image(pipe, image(), VIDEO)
    return lens_on(pipe, encoder_hidden_states=text(tokens=512), **tensors)


@pytest.fixture(scope="module")
def forced() -> DiTLens:
    pipe = forcing()
    return lens_on(pipe, **family.encode_image(pipe, image(), VIDEO))


def call(lens: DiTLens, **options: Any) -> Tensor:
    arguments = {"prompt": None, "prompt_embeds": lens.conditioning.tensors["encoder_hidden_states"], "image": image(),
                 "guidance_scale": 1.0, "num_inference_steps": STEPS, "height": SIZE, "width": SIZE, "num_frames": 13,
                 "latents": noise(), "output_type": "latent"}  # fmt: skip
    return lens.pipeline(**arguments | options).frames


def test_what_is_fed_is_what_the_pipeline_feeds(lens: DiTLens) -> None:
    fed: list[dict[str, Any]] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs), with_kwargs=True
    )
    call(lens)
    handle.remove()
    assert len(fed) == STEPS
    for expected in fed:
        latent = expected["hidden_states"][:, :4].clone()
        if lens.model.members[0].by_frame:
            latent[:, :, 0] = 7.0  # the given frame takes its place
        inputs = lens.model.evaluation(latent, expected["timestep"].max(), lens.conditioning).inputs
        for name in ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"):
            assert (inputs.get(name) is None) == (expected.get(name) is None), name
            if expected.get(name) is not None:  # the pipeline multiplies by what we divide by
                torch.testing.assert_close(inputs[name], expected[name].float(), rtol=0, atol=1e-5)


def test_our_sampler_is_the_pipelines_own(lens: DiTLens) -> None:
    start = lens.noising(torch.zeros(LATENT), noise(), steps=STEPS)
    ours = lens.sample(start, solver="euler").latents[0]
    torch.testing.assert_close(ours, call(lens), rtol=0, atol=1e-4)
    assert (call(lens, image=image(3)) - ours).abs().max() > 1e-3  # the first frame matters


def test_inversion_and_sampling_meet(lens: DiTLens) -> None:
    path = lens.invert(noise(2), steps=16, solver="heun")
    back = lens.sample(path).latents[0]
    start = path.latents[0]
    assert (back - start).norm() < 0.05 * (path.latents[-1] - start).norm()


def test_hooks_act_on_the_pipelines_own_calls_by_step_and_branch(lens: DiTLens) -> None:
    tokens = lens.conditioning.tensors["encoder_hidden_states"].shape[1]
    guided = {"guidance_scale": 4.0, "negative_prompt_embeds": text(7, tokens)}
    plain, calls = call(lens, **guided), []
    with lens.hooks([("blocks.1.hook_attn_out", lambda x, hook: calls.append((hook.step, hook.branch)))]):
        assert torch.equal(call(lens, **guided), plain)
    assert calls == [(step, branch) for step in (4, 3, 2, 1) for branch in ("cond", "uncond")]
    with lens.hooks([("blocks.1.hook_attn_out", edits.zero())], steps=[2], branches=["cond"]):
        assert not torch.equal(call(lens, **guided), plain)


def test_given_frames_stay_clean_along_the_path_and_in_the_clean_estimate(forced: DiTLens) -> None:
    first = forced.conditioning.tensors["first_frame"]
    path = forced.invert(noise(2), steps=STEPS, solver="euler")
    assert all(torch.equal(latent[:, :, :1], first) for latent in path.latents)
    assert not torch.equal(path.latents[0][:, :, 1:], path.latents[-1][:, :, 1:])
    velocity, cache = forced.run_with_cache(path, step=2)
    assert torch.equal(cache["hook_x0"][:, :, :1], first)
    expected = path.latents[2] - path.schedule.timesteps[2] / 1000 * velocity  # the scheduler rounds what it feeds
    torch.testing.assert_close(cache["hook_x0"][:, :, 1:], expected[:, :, 1:])
    gate = cache["gate_mlp", 1].unflatten(1, (FRAMES, TOKENS))
    assert not torch.equal(gate[:, 0], gate[:, 1]) and torch.equal(gate[:, 1], gate[:, 2])


def test_several_frames_may_be_given() -> None:
    pipe = skyreels(SkyReelsV2DiffusionForcingPipeline, STEPS)
    lens = lens_on(pipe, first_frame=noise(5)[:, :, :2])
    velocity, cache = lens.run_with_cache(latent=noise(), timestep=600.0, names_filter=["hook_latent", "hook_x0"])
    assert torch.equal(cache["hook_x0"][:, :, :2], noise(5)[:, :, :2])
    free, _ = lens_on(pipe).run_with_cache(latent=noise(), timestep=600.0)
    assert not torch.equal(free[:, :, 2:], velocity[:, :, 2:])


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="last frame under diffusion forcing"):
        family.encode_image(forcing(), image(), VIDEO, image(1))
    free = lens_on(skyreels(SkyReelsV2Pipeline, STEPS, inject_sample_info=False), first_frame=noise()[:, :, :1])
    with pytest.raises(ValueError, match="one time for a clip"):
        free.run_with_cache(latent=noise(), timestep=500.0)
    assert "first_frame" not in HookedTransformer(build("skyreels_i2v"), "small").family.conditioning
