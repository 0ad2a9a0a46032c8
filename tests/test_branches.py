"""Hooks by guidance branch around stock pipelines, and activations kept on the way, held against torch hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVideoToVideoPipeline
from PIL import Image
from small_models import build
from small_pipelines import CALL, experts, lens_on, noise, parts, quiet, text, wan
from torch import Tensor

from dit_lens import Conditioning, DiTLens, edits
from dit_lens.hook_points import Hook

STEPS = 3
GUIDED = {
    "prompt_embeds": text(), "negative_prompt_embeds": text(7), "guidance_scale": 4.0, "num_inference_steps": STEPS,
}  # fmt: skip
POINT = "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(wan())


def call(lens: DiTLens, **options: Any) -> Tensor:
    return lens.pipeline(**CALL | GUIDED | {"latents": noise()} | options).frames


def halved_by_hand(lens: DiTLens, wanted: int) -> Tensor:
    """Halves what the MLP of block 1 puts out in every second evaluation, by a plain torch hook."""
    calls = iter(range(2 * STEPS))

    def halve(module: Any, args: Any, out: Tensor) -> Tensor | None:
        return out / 2 if next(calls) % 2 == wanted else None

    handle = lens.transformer.blocks[1].ffn.register_forward_hook(halve)
    edited = call(lens)
    handle.remove()
    return edited


def test_both_branches_are_seen_in_order_and_told_apart(lens: DiTLens) -> None:
    plain, calls = call(lens), []
    with lens.hooks([("hook_latent", lambda x, hook: calls.append((hook.step, hook.branch)))]):
        assert torch.equal(call(lens), plain)
    assert calls == [(step, branch) for step in (3, 2, 1) for branch in ("cond", "uncond")]


@pytest.mark.parametrize(("branch", "place"), [("cond", 0), ("uncond", 1)])
def test_an_edit_of_one_branch_is_that_of_a_torch_hook(lens: DiTLens, branch: str, place: int) -> None:
    with lens.hooks([(POINT, lambda x, hook: x / 2)], branches=(branch,)):
        edited = call(lens)
    torch.testing.assert_close(edited, halved_by_hand(lens, place), rtol=0, atol=5e-6)
    assert (edited - halved_by_hand(lens, 1 - place)).abs().max() > 1e-4


def test_steps_branches_and_experts_narrow_together() -> None:
    lens, calls = lens_on(experts()), []
    with lens.hooks(
        [("hook_latent", lambda x, hook: calls.append((hook.step, hook.branch, hook.expert)))],
        steps=(3, 1),
        branches=("uncond",),
        experts=("low_noise",),
    ):
        call(lens, guidance_scale_2=2.0)
    assert calls == [(1, "uncond", "low_noise")]


def test_the_experts_have_guidance_of_their_own() -> None:
    lens = lens_on(experts())
    same_scale, other_scale = call(lens, guidance_scale_2=4.0), call(lens, guidance_scale_2=1.5)
    with lens.hooks([(POINT, lambda x, hook: x.clone())]):
        assert torch.equal(call(lens, guidance_scale_2=1.5), other_scale)
    assert not torch.equal(same_scale, other_scale)


def test_our_own_evaluations_are_of_no_branch(lens: DiTLens) -> None:
    with pytest.raises(RuntimeError, match="branches"), lens.hooks([("hook_latent", edits.zero())], branches=("cond",)):
        lens.invert(noise(), steps=2, solver="euler")


def test_where_nobody_names_a_branch_the_reason_is_said(lens: DiTLens) -> None:
    inputs = lens.model.evaluation(noise(), 500.0, Conditioning({"encoder_hidden_states": text()})).inputs
    with (
        pytest.raises(RuntimeError, match="no evaluation here was known to be of a branch"),
        lens.hooks([("hook_latent", edits.zero())], branches=("cond",)),
    ):
        lens.transformer(**inputs)
    for narrowed in ({"branches": ("uncond",)}, {"steps": [9]}):  # branches were known, or none was asked for
        with pytest.raises(RuntimeError) as refused, lens.hooks([("hook_latent", edits.zero())], **narrowed):
            call(lens, guidance_scale=1.0)
        assert "no evaluation here" not in str(refused.value)


@pytest.mark.parametrize(("scale", "expected"), [(4.0, ["cond", "uncond"] * 2), (1.0, ["cond"] * 2)])
def test_the_branches_of_video_to_video_are_told_apart_though_it_names_none(scale: float, expected: list[str]) -> None:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline: Any = WanVideoToVideoPipeline(transformer=build("wan"), **parts(scheduler=scheduler))
    lens, video = lens_on(quiet(pipeline)), [Image.new("RGB", (32, 32), (value, 90, 20)) for value in range(5)]

    def run() -> Tensor:
        seed = torch.Generator().manual_seed(0)
        asked = GUIDED | {"num_inference_steps": 4, "strength": 0.5, "guidance_scale": scale, "generator": seed}
        return pipeline(video=video, **asked, height=32, width=32, output_type="latent").frames

    plain, branches_seen = run(), []
    with lens.hooks([("hook_latent", lambda x, hook: branches_seen.append(hook.branch))]):
        assert torch.equal(run(), plain)
    assert branches_seen == expected
    calls = iter(range(9))
    handle = lens.transformer.blocks[1].ffn.register_forward_hook(
        lambda module, args, out: out / 2 if expected[next(calls)] == expected[-1] else None
    )
    by_torch = run()
    handle.remove()
    with lens.hooks([(POINT, lambda x, hook: x / 2)], branches=(expected[-1],)):
        edited = run()
    torch.testing.assert_close(edited, by_torch, rtol=0, atol=5e-6)
    assert (edited - plain).abs().max() > 1e-4


def test_without_guidance_there_is_one_branch(lens: DiTLens) -> None:
    branches: list[str | None] = []
    with lens.hooks([("hook_latent", lambda x, hook: branches.append(hook.branch))]):
        call(lens, guidance_scale=1.0)
    assert branches == ["cond"] * STEPS


def test_nothing_is_left_after_an_exception_in_a_branch(lens: DiTLens) -> None:
    plain, before = call(lens), set(vars(lens.transformer))

    def fail(x: Tensor, hook: Hook) -> None:
        if hook.branch == "uncond":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lens.hooks([(POINT, fail)]):
        call(lens)
    assert set(vars(lens.transformer)) == before and torch.equal(call(lens), plain)


def test_the_users_own_torch_hook_survives_beside_ours(lens: DiTLens) -> None:
    plain = call(lens)
    for module in (lens.transformer, lens.transformer.blocks[1].ffn):
        handle = module.register_forward_hook(
            lambda module, args, out: tuple(x / 2 for x in out) if isinstance(out, tuple) else out / 2
        )
        alone = call(lens)
        with lens.hooks([(POINT, lambda x, hook: x.clone())]):
            assert torch.equal(call(lens), alone)
        handle.remove()
        assert torch.equal(call(lens), plain) and not torch.equal(alone, plain)


# What is kept of a pipeline's own call.


def test_a_generation_is_the_pipelines_own_call_with_activations_kept(lens: DiTLens) -> None:
    names = ["hook_latent", "blocks.*.hook_resid_post"]
    generation = lens.generate(names_filter=names, **CALL | GUIDED, latents=noise())
    assert torch.equal(generation.frames, call(lens))
    assert [(kept.step, kept.branch) for kept in generation] == [(s, b) for s in (3, 2, 1) for b in ("cond", "uncond")]
    assert set(generation[2, "cond"]) == {"hook_latent", *(f"blocks.{block}.hook_resid_post" for block in range(3))}
    sigmas = lens.schedule(STEPS).sigmas
    for kept in generation:
        assert kept.step is not None and kept.sigma == pytest.approx(sigmas[kept.step])
        time, prompt_embeds = torch.tensor([1000 * kept.sigma]), text() if kept.branch == "cond" else text(7)
        fed = {"latent": kept.cache["hook_latent"], "timestep": time, "encoder_hidden_states": prompt_embeds}
        _, alone = lens.run_with_cache(**fed, names_filter="blocks.2.hook_resid_post")
        torch.testing.assert_close(kept.cache["resid_post", 2], alone["resid_post", 2])


def test_a_generation_keeps_what_is_asked_for_and_no_more(lens: DiTLens) -> None:
    arguments = CALL | {"guidance_scale": 4.0, "num_inference_steps": STEPS, "negative_prompt_embeds": text(7)}
    pooled = lens.generate(
        names_filter="blocks.1.hook_resid_post", reduce=lambda x: x.mean(1), steps=[2], branches=["cond"], **arguments
    )
    assert len(pooled) == 1 and pooled[2]["resid_post", 1].shape == (1, 24)
    assert len(lens.generate(**arguments)) == 0
    generation = lens.generate(Conditioning({"encoder_hidden_states": text(3)}), **arguments, latents=noise())
    assert torch.equal(generation.frames, call(lens, prompt_embeds=text(3)))


def test_hooks_around_a_generation_act_before_it_is_kept(lens: DiTLens) -> None:
    with lens.hooks([(POINT, edits.zero())], steps=[2], branches=["uncond"]):
        generation = lens.generate(names_filter=POINT, **CALL | GUIDED, latents=noise())
    assert not generation[2, "uncond"]["mlp_out", 1].any() and generation[2, "cond"]["mlp_out", 1].any()


def test_what_was_not_kept_is_asked_for_in_vain(lens: DiTLens) -> None:
    generation = lens.generate(names_filter=POINT, steps=[1], **CALL | GUIDED)
    for place in (2, 1, (1, "other")):
        with pytest.raises(KeyError, match=r"expected one of \[1, 'cond'\], \[1, 'uncond'\]"):
            generation[place]
    with pytest.raises(RuntimeError, match="generate"):
        lens.generate(names_filter=POINT, steps=[9], **CALL | GUIDED)
    with pytest.raises(TypeError, match="not called with"):
        lens.generate(Conditioning({"encoder_hidden_states": text(), "first_frame": text()}), **CALL)


def test_the_experts_of_a_generation_are_told() -> None:
    lens = lens_on(experts())
    generation = lens.generate(names_filter="hook_velocity", **CALL | GUIDED)
    assert [kept.expert for kept in generation] == ["high_noise"] * 4 + ["low_noise"] * 2
