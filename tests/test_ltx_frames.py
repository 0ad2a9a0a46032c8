"""LTX-Video from a given frame, fed clean and told time 0 as the stock image-to-video pipeline does; times by token."""

from __future__ import annotations

from typing import Any

import pytest
import test_ltx
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXImageToVideoPipeline
from small_models import build
from small_pipelines import image, quiet
from torch import Tensor

from dit_lens import Conditioning, DiTLens, edits
from dit_lens.families import ltx
from dit_lens.hook_points import Hook

STEPS, VIDEO, TOKENS = 3, (17, 64, 96), 6  # tokens of a frame
MASK = torch.tensor([[True, True, False]])
PROMPT = {"encoder_hidden_states": torch.ones(1, 3, 16), "encoder_attention_mask": MASK}

# Of tensors in stock schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    """Told of a first frame."""
    absent: Any = {"tokenizer": None, "text_encoder": None}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    pipe = quiet(LTXImageToVideoPipeline(scheduler, test_ltx.autoencoder(False), transformer=build("ltx"), **absent))
    first = ltx.encode_image(pipe, image(), VIDEO, generator())
    return DiTLens(pipe, "small", Conditioning(PROMPT | first), verify=False)


def call(lens: DiTLens, **options: Any) -> Tensor:
    """Tokens of the latent that the pipeline makes."""
    frames, height, width = VIDEO
    inputs = {"prompt_embeds": PROMPT["encoder_hidden_states"], "prompt_attention_mask": MASK, "image": image()}
    size = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
    fixed = {"guidance_scale": 1.0, "output_type": "latent", "generator": generator()}
    return lens.pipeline(**inputs | size | fixed | options).frames


def fed(lens: DiTLens) -> list[dict[str, Any]]:
    """What the pipeline feeds its transformer, step by step."""
    calls: list[dict[str, Any]] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    call(lens)
    handle.remove()
    return calls


def test_what_is_fed_is_what_the_pipeline_feeds(lens: DiTLens) -> None:
    for expected in fed(lens):
        latent = ltx.ltx_parts.unpack(expected["hidden_states"], expected).clone()
        latent[:, :, 0] = 7.0  # the given frame takes its place
        inputs = lens.model.evaluation(latent, float(expected["timestep"].max()), lens.conditioning).inputs
        assert inputs.keys() == expected.keys() - {"attention_kwargs"}
        for name, value in inputs.items():
            assert torch.equal(value, expected[name]) if isinstance(value, Tensor) else value == expected[name], name
        assert not inputs["timestep"][:, :TOKENS].any() and inputs["timestep"][:, TOKENS:].all()


def test_our_sampler_is_the_pipelines_own(lens: DiTLens) -> None:
    first = fed(lens)[0]
    start = ltx.ltx_parts.unpack(first["hidden_states"], first)
    ours = lens.sample(start, "euler", steps=STEPS).latents[0]
    torch.testing.assert_close(ltx.ltx_parts.pack(ours), call(lens), rtol=0, atol=1e-5)
    assert (call(lens, image=image(3)) - call(lens)).abs().max() > 1e-2


def test_a_given_frame_stays_along_the_path_and_in_the_clean_estimate(lens: DiTLens) -> None:
    first = lens.conditioning.tensors["first_frame"]
    start = torch.randn(1, 4, 3, 2, 3, generator=generator())
    path = lens.invert(start, 16, "heun")
    assert all(torch.equal(latent[:, :, :1], first) for latent in path.latents)
    back = lens.sample(path).latents[0]
    assert (back - path.latents[0]).norm() < 0.05 * (path.latents[-1] - path.latents[0]).norm()
    velocity, cache = lens.run_with_cache(path, step=8)
    assert torch.equal(cache["hook_x0"][:, :, :1], first)
    expected = path.latents[8] - path.schedule.sigmas[8] * velocity
    torch.testing.assert_close(cache["hook_x0"][:, :, 1:], expected[:, :, 1:])


def test_modulation_is_by_token_and_the_laws_hold(lens: DiTLens) -> None:
    path = lens.invert(torch.randn(1, 4, 3, 2, 3, generator=generator()), 2, "euler")
    _, cache = lens.run_with_cache(path, step=1)
    gate = cache["gate_attn", 1].unflatten(1, (3, TOKENS))
    assert not torch.equal(gate[:, 0], gate[:, 1]) and torch.equal(gate[:, 1], gate[:, 2])
    torch.testing.assert_close(
        cache["resid_pre", 1] + cache["attn_out", 1], cache["resid_mid_attn", 1], rtol=0, atol=1e-5
    )


def test_a_level_for_every_frame_is_that_level_for_all_its_tokens() -> None:
    free = DiTLens(transformer=build("ltx"), conditioning=Conditioning(PROMPT), verify=False)
    latent, levels = torch.randn(1, 4, 3, 2, 3, generator=generator()), torch.tensor([[0.0, 300.0, 800.0]])
    by_frame, cache = free.run_with_cache(latent=latent, timestep=levels)
    by_token, _ = free.run_with_cache(latent=latent, timestep=levels.repeat_interleave(TOKENS, dim=1))
    assert torch.equal(by_frame, by_token)
    assert torch.equal(cache["hook_x0"][:, :, 0], latent[:, :, 0])
    alike, _ = free.run_with_cache(latent=latent, timestep=800.0)
    assert not torch.allclose(alike, by_frame, atol=1e-4)


def test_hooks_act_on_the_pipelines_own_calls_by_step(lens: DiTLens) -> None:
    plain, calls = call(lens), []

    def look(x: Tensor, hook: Hook) -> None:
        calls.append((hook.step, hook.branch))

    with lens.hooks([("hook_latent", look)]):
        assert torch.equal(call(lens), plain)
    assert calls == [(3, "cond"), (2, "cond"), (1, "cond")]
    with lens.hooks([("blocks.1.hook_attn_out", edits.zero())], steps=[2]):
        assert not torch.equal(call(lens), plain)
