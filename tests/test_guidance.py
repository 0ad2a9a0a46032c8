"""Guidance: our sampler is the guided stock pipeline's, hooks see both branches, and a trajectory remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from small_pipelines import CALL, experts, lens_on, noise, text, wan
from stock_calls import CASES, MASK, STEPS, TEXT
from torch import Tensor

from dit_lens import Conditioning, DiTLens
from dit_lens.conditioning import Guidance
from dit_lens.hook_points import Hook
from dit_lens.inversion import model_input
from dit_lens.running import Request
from dit_lens.trajectory import Trajectory

# Of tensors in stock schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
G = 4.0
AWAY = Guidance(G, Conditioning({TEXT: text(7)}, "blurry"))
SCALES = {"hunyuan": "true_cfg_scale"}  # what a pipeline calls guidance by two branches, if not guidance_scale


def negative(name: str, pipe: Any, tensors: dict[str, Tensor]) -> tuple[Guidance, dict[str, Any]]:
    """Guidance away from another text, and what a pipeline's call says of it."""
    negative_text = torch.randn(tensors[TEXT].shape, generator=torch.Generator().manual_seed(9))
    if name == "hunyuan15":  # guided by an object of its own
        pipe.guider = ClassifierFreeGuidance(G)
        second = {
            f"negative_prompt_embeds{part}_2": tensors[key] for part, key in (("", f"{TEXT}_2"), ("_mask", f"{MASK}_2"))
        }
        call = {"negative_prompt_embeds": negative_text, "negative_prompt_embeds_mask": tensors[MASK], **second}
        return Guidance(G, Conditioning(tensors | {TEXT: negative_text})), call
    call = {"negative_prompt_embeds": negative_text, SCALES.get(name, "guidance_scale"): G}
    if MASK in tensors:
        call["negative_prompt_attention_mask"] = tensors[MASK]
    if name == "hunyuan":
        call["negative_pooled_prompt_embeds"] = tensors["pooled_projections"]
    if name == "allegro":
        call["negative_prompt"] = None
    return Guidance(G, Conditioning({TEXT: negative_text})), call


@pytest.mark.parametrize("name", CASES)
def test_our_sampler_is_the_guided_pipelines(name: str) -> None:
    """At every step, of flows, and of models that are fed other latents than a flow's."""
    pipe, tensors, call = CASES[name]()
    guidance, guided = negative(name, pipe, tensors)
    lens = DiTLens(pipe, name, Conditioning(tensors), verify=False)
    pipe.set_progress_bar_config(disable=True)
    fed: list[Tensor] = []
    arguments = {"height": 32, "width": 32, "output_type": "latent"} | call | guided
    arguments = {name: value for name, value in arguments.items() if value is not None or name == "negative_prompt"}
    with lens.hooks([("hook_latent", lambda x, hook: fed.append(x.clone()))], branches=["cond"]):
        pipe(**arguments, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3))
    schedule = lens.schedule(STEPS, fed[0])
    start = fed[0] / model_input(lens, torch.ones(1, 1, 1, 1, 1), schedule.timesteps[-1])
    ours, alone = (lens.sample(start, "euler", steps=schedule, guidance=g) for g in (guidance, None))
    assert len(fed) == STEPS
    for step, theirs in zip(range(STEPS, 0, -1), fed, strict=True):
        fed_by_us = model_input(lens, ours.latent(step), schedule.timesteps[step])
        assert (fed_by_us - theirs).norm() <= 1e-5 * theirs.norm()  # Allegro's latents grow to several hundred
    assert (ours.latent(0) - alone.latent(0)).abs().max() > 1e-2


@pytest.mark.parametrize("pipeline_of", [wan, experts], ids=["one", "experts"])
def test_a_guided_wan_is_sampled_to_the_bit(pipeline_of: Any) -> None:
    lens = lens_on(pipeline_of())
    call = CALL | {"prompt_embeds": text(), "negative_prompt_embeds": text(7), "latents": noise()}
    theirs = lens.pipeline(**call, guidance_scale=G, num_inference_steps=STEPS).frames
    ours = lens.sample(noise(), "euler", steps=STEPS, guidance=AWAY)
    assert torch.equal(ours.latents[0], theirs)
    assert not torch.equal(lens.sample(noise(), "euler", steps=STEPS).latents[0], theirs)


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(wan())


def test_guidance_is_inverted_and_both_ways_remember_it(lens: DiTLens) -> None:
    sampled = lens.sample(noise(), "euler", steps=6, guidance=AWAY)
    inverted = lens.invert(sampled.latents[0], 6, "implicit_euler", guidance=AWAY)
    without = lens.invert(sampled.latents[0], 6, "implicit_euler")
    torch.testing.assert_close(inverted.latents, sampled.latents, rtol=0, atol=1e-3)
    assert (without.latents[-1] - noise()).abs().max() > 1e-2
    back = lens.sample(inverted)
    assert back.guidance is AWAY and torch.allclose(back.latents[0], sampled.latents[0], atol=1e-3)
    plain = lens.sample(inverted, guidance=1.0)
    assert plain.guidance is None and not torch.allclose(plain.latents[0], sampled.latents[0], atol=1e-2)


def test_hooks_of_a_branch_see_that_branch_alone(lens: DiTLens) -> None:
    calls: list[tuple[str | None, int | None]] = []

    def look(x: Tensor, hook: Hook) -> None:
        calls.append((hook.branch, hook.step))

    with lens.hooks([("hook_latent", look)]):
        lens.invert(noise(), 2, "euler", guidance=AWAY)
    assert calls == [("cond", 0), ("uncond", 0), ("cond", 1), ("uncond", 1)]
    calls.clear()
    with lens.hooks([("hook_latent", look)], branches=["uncond"], steps=[1]):
        lens.invert(noise(), 2, "euler", guidance=AWAY)
    assert calls == [("uncond", 1)]
    calls.clear()
    with lens.hooks([("hook_latent", look)]):
        lens.invert(noise(), 2, "euler")
    assert calls == [(None, 0), (None, 1)]


def test_an_edit_of_a_branch_counts_by_its_share_of_the_guided_velocity(lens: DiTLens) -> None:
    """x1 = x0 + h (u + g (c - u)): a velocity added to c counts g times, one added to u 1 - g times."""
    plain = lens.invert(noise(), [0.0, 0.5], "euler", guidance=AWAY).latents[1]
    for branch, share in (("cond", G), ("uncond", 1 - G)):
        with lens.hooks([("hook_velocity", lambda v, hook: v + 1)], branches=[branch]):
            edited = lens.invert(noise(), [0.0, 0.5], "euler", guidance=AWAY).latents[1]
        torch.testing.assert_close(edited - plain, torch.full_like(plain, 0.5 * share), rtol=0, atol=1e-4)


def test_an_evaluation_is_of_one_branch(lens: DiTLens) -> None:
    path = lens.invert(noise(), [0.0, 0.5], "euler", guidance=AWAY)
    cond, uncond = (lens.model.velocity(lens.evaluation(path, 0, branch)) for branch in ("cond", "uncond"))
    torch.testing.assert_close(path.latents[1], path.latents[0] + 0.5 * (uncond + G * (cond - uncond)))
    for branch, velocity in ((None, cond), ("cond", cond), ("uncond", uncond)):
        assert torch.equal(lens.run_with_hooks(path, step=0, fwd_hooks=[], branch=branch), velocity)
        cached, _ = lens.run_with_cache(path, step=0, branch=branch, names_filter="hook_x0")
        assert torch.equal(cached, velocity)
        with lens.trace(path, step=0, branch=branch):
            traced = lens.block(0).output.save()
        _, cache = lens.run_with_cache(path, step=0, branch=branch, names_filter="blocks.0.hook_resid_post")
        assert torch.equal(cache["resid_post", 0], traced)
    with pytest.raises(TypeError, match="place on a trajectory without one"):
        lens.run_with_cache(latent=noise(), timestep=500.0, branch="uncond")
    with pytest.raises(ValueError, match="without guidance"):
        lens.run_with_cache(lens.invert(noise(), [0.0, 0.5], "euler"), step=0, branch="uncond")
    with pytest.raises(ValueError, match="without guidance"):
        lens.evaluation(lens.invert(noise(), [0.0, 0.5], "euler"), 0, "uncond")
    with pytest.raises(ValueError, match=r"got .*'neg'"):
        lens.evaluation(path, 0, "neg")


def test_the_clean_estimate_is_guided_too(lens: DiTLens) -> None:
    path = lens.invert(noise(), [0.0, 0.5], "euler", guidance=AWAY)
    x0 = [
        lens.model.run(lens.evaluation(path, 1, branch), Request("hook_x0"))[1]["hook_x0"]
        for branch in ("cond", "uncond")
    ]
    wanted = lens.family.decode(lens.vae, x0[1] + G * (x0[0] - x0[1]))
    torch.testing.assert_close(lens.decode(path, 1), wanted)
    assert not torch.allclose(lens.decode(path, 1), lens.family.decode(lens.vae, x0[0]), atol=1e-3)


def test_guidance_comes_back_from_disk(lens: DiTLens, tmp_path: Path) -> None:
    path = lens.invert(noise(), 2, "euler", guidance=AWAY)
    again = Trajectory.open(path.save(tmp_path / "path.h5"))
    assert again.guidance is not None and again.guidance.scale == G and again.guidance.negative.prompt == "blurry"
    assert torch.equal(lens.sample(again).latents, lens.sample(path).latents)
    assert again.facts["guidance"] == "4" and again.facts["negative_hash"] == AWAY.negative.hash
    assert "guidance 4" in repr(again) and "guidance" not in repr(lens.invert(noise(), 2, "euler"))


def test_every_clip_is_told_its_own(lens: DiTLens) -> None:
    both = torch.cat([noise(), noise(1)])
    prompt = Conditioning({TEXT: torch.cat([text(), text(3)])})
    away = Guidance(G, Conditioning({TEXT: torch.cat([text(7), text(8)])}))
    path = lens.invert(both, 2, "euler", batch_size=1, prompt=prompt, guidance=away)
    second = Guidance(G, Conditioning({TEXT: text(8)}))
    alone = lens.invert(noise(1), 2, "euler", prompt=Conditioning({TEXT: text(3)}), guidance=second)
    assert torch.equal(path[1:].latents, alone.latents)
    assert torch.equal(lens.sample(path[1:]).latents, lens.sample(alone).latents)


def test_guidance_needs_two_prompts_and_a_scale_from_1(lens: DiTLens) -> None:
    with pytest.raises(ValueError, match="away from the prompt itself"):
        lens.invert(noise(), 2, guidance=4.0)
    with pytest.raises(ValueError, match=r"got guidance 0\.5"):
        lens.invert(noise(), 2, guidance=0.5, prompt=Conditioning({TEXT: text(3)}))
    away = lens.invert(noise(), 2, "euler", guidance=4.0, prompt=Conditioning({TEXT: text(3)}))
    assert away.guidance is not None and away.guidance.negative is lens.conditioning
