"""SkyReels-V2: built like Wan, with a noise level for every frame and attention that is causal by blocks of frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Pipeline
from small_models import build, skyreels
from small_pipelines import lens_on, text
from small_pipelines import skyreels as small_pipeline
from torch import Tensor

from dit_lens import Conditioning, DiTLens, edits, laws
from dit_lens.running import HookedTransformer

STEPS, FRAMES, TOKENS = 4, 4, 4  # latent frames, and tokens of a frame
LATENT = (1, 4, FRAMES, 4, 4)
CALL = {
    "prompt": None, "prompt_embeds": text(), "guidance_scale": 1.0, "num_inference_steps": STEPS, "height": 32,
    "width": 32, "num_frames": 13, "output_type": "latent",
}  # fmt: skip


def pipeline(kind: Any, **config: Any) -> Any:
    """A stock pipeline; under diffusion forcing it is told of frames per second."""
    return small_pipeline(kind, STEPS, inject_sample_info=kind is SkyReelsV2DiffusionForcingPipeline, **config)


KINDS = {
    "text to video": (SkyReelsV2Pipeline, {}),
    "forcing": (SkyReelsV2DiffusionForcingPipeline, {}),
    "causal": (SkyReelsV2DiffusionForcingPipeline, {"num_frame_per_block": 2}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def lens(request: pytest.FixtureRequest) -> DiTLens:
    kind, config = KINDS[request.param]
    return lens_on(pipeline(kind, **config))


@pytest.fixture(scope="module")
def causal() -> DiTLens:
    return lens_on(pipeline(*KINDS["causal"][:1], **KINDS["causal"][1]))


def call(lens: DiTLens, **options: Any) -> Tensor:
    return lens.pipeline(**CALL | {"generator": torch.Generator().manual_seed(0)} | options).frames


def noise() -> Tensor:
    """What those calls start from."""
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(0))


def test_the_laws_hold_with_a_level_for_every_frame() -> None:
    for blocks in (1, 2):
        torch.manual_seed(0)
        model = HookedTransformer(skyreels(num_frame_per_block=blocks), "small", by_frame=True)
        assert laws.example(model).inputs["timestep"].shape == (1, 2 * blocks)
        assert {finding.law for finding in laws.verify(model)} == {
            "idle",
            "identity",
            "sum",
            "attention",
            "heads",
            "between",
        }


def test_what_is_fed_is_what_the_pipeline_feeds(lens: DiTLens) -> None:
    calls: list[dict[str, Any]] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    call(lens)
    handle.remove()
    assert len(calls) == STEPS
    for inputs in calls:
        evaluation = lens.model.evaluation(inputs["hidden_states"], inputs["timestep"].max(), lens.conditioning)
        assert torch.equal(evaluation.inputs["timestep"], inputs["timestep"].float())
        assert evaluation.inputs["fps"] == inputs.get("fps")
        assert evaluation.inputs["enable_diffusion_forcing"] == inputs.get("enable_diffusion_forcing", False)
        with torch.no_grad():
            plain = lens.transformer(**inputs)[0]
        assert torch.equal(lens.model.velocity(evaluation), plain)


def test_our_sampler_is_the_pipelines_own(lens: DiTLens) -> None:
    start = lens.noising(torch.zeros(LATENT), noise(), steps=STEPS)
    ours = lens.sample(start, solver="euler").latents[0]
    torch.testing.assert_close(ours, call(lens), rtol=0, atol=1e-4)
    assert (ours - noise()).abs().max() > 0.1


def test_hooks_act_on_the_pipelines_own_calls_by_step_and_branch(lens: DiTLens) -> None:
    guided = {"guidance_scale": 4.0, "negative_prompt_embeds": text(7)}
    plain, calls = call(lens, **guided), []

    def look(x: Tensor, hook: Any) -> Tensor:
        calls.append((hook.step, hook.branch))
        return x.clone()

    with lens.hooks([("blocks.1.hook_attn_out", look)]):
        assert torch.equal(call(lens, **guided), plain)
    assert calls == [(step, branch) for step in (4, 3, 2, 1) for branch in ("cond", "uncond")]
    with lens.hooks([("blocks.1.hook_attn_out", edits.zero())], steps=[2], branches=["uncond"]):
        assert not torch.equal(call(lens, **guided), plain)


def test_each_frame_has_its_own_level_in_time_modulation_and_clean_estimate(causal: DiTLens) -> None:
    levels = torch.tensor([[100.0, 100.0, 700.0, 700.0]])
    velocity, cache = causal.run_with_cache(latent=noise(), timestep=levels)
    expected = noise() - levels.view(1, 1, FRAMES, 1, 1) / 1000 * velocity
    torch.testing.assert_close(cache["hook_x0"], expected)
    assert cache["hook_time_embed"].shape == (1, FRAMES, 24)
    gate = cache["gate_mlp", 1]
    assert gate.shape == (1, FRAMES * TOKENS, 24)
    by_frame = gate.unflatten(1, (FRAMES, TOKENS))
    assert torch.equal(by_frame, by_frame[:, :, :1].expand_as(by_frame))
    assert torch.equal(by_frame[:, 0], by_frame[:, 1]) and not torch.equal(by_frame[:, 0], by_frame[:, 2])
    assert torch.equal(cache["resid_mid_cross_attn", 1] + cache["mlp_out", 1], cache["resid_post", 1])


def test_an_earlier_block_of_frames_does_not_see_a_later_one(causal: DiTLens) -> None:
    later = noise().clone()
    later[:, :, 2:] += 1
    fed = {"timestep": torch.full((1, FRAMES), 500.0), "names_filter": ["blocks.*.attn.hook_pattern"]}
    velocity, cache = causal.run_with_cache(latent=noise(), **fed)
    moved, _ = causal.run_with_cache(latent=later, **fed)
    assert torch.equal(moved[:, :, :2], velocity[:, :, :2]) and not torch.equal(moved[:, :, 2:], velocity[:, :, 2:])
    pattern = cache["pattern", 1]
    half = 2 * TOKENS
    assert not pattern[..., :half, half:].any() and pattern[..., half:, :half].all()
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 2, 2 * half))
    free = lens_on(pipeline(SkyReelsV2DiffusionForcingPipeline))
    unmasked, _ = free.run_with_cache(latent=noise(), timestep=fed["timestep"], names_filter="hook_x0")
    changed, _ = free.run_with_cache(latent=later, timestep=fed["timestep"], names_filter="hook_x0")
    assert not torch.equal(changed[:, :, :2], unmasked[:, :, :2])


def test_frames_that_are_denoised_one_behind_the_other_are_kept_evaluation_by_evaluation() -> None:
    lens = lens_on(pipeline(SkyReelsV2DiffusionForcingPipeline))
    options = {"ar_step": 2, "causal_block_size": 2}
    plain = call(lens, **options)
    generation = lens.generate(
        names_filter="hook_time_embed", **CALL | options, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(generation.frames, plain) and len(generation) > STEPS
    steps = [kept.step for kept in generation]
    assert steps.count(STEPS) > 1 and min(step for step in steps if step is not None) >= 1
    assert all(kept.cache["hook_time_embed"].shape == (1, FRAMES, 24) for kept in generation)
    with pytest.raises(KeyError, match="iterate over the generation"):
        generation[STEPS]


def test_frames_per_second_are_told_and_one_for_all_clips() -> None:
    model = HookedTransformer(build("skyreels"), "small")
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))

    def velocity(*fps: int) -> Tensor:
        speeds = {"fps": torch.tensor(fps)} if fps else {}
        fed = latent.expand(max(1, len(fps)), *latent.shape[1:])
        time = torch.full((len(fed), latent.shape[2]), 500.0)
        return model.velocity(model.evaluation(fed, time, Conditioning(tensors | speeds)))

    assert torch.equal(velocity(1), velocity()) and not torch.equal(velocity(0), velocity())
    torch.testing.assert_close(velocity(0, 0)[:1], velocity(0), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"fps \[0, 1\]"):
        velocity(0, 1)
    with pytest.raises(ValueError, match="each of its latent frames"):
        model.evaluation(latent, torch.full((1, 3), 500.0), Conditioning(tensors))
