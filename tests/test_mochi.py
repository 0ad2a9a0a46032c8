"""Mochi: time runs backward, the output is data - noise, text is padded, and a norm stands before each write."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMochi, MochiPipeline
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, laws
from dit_lens.conditioning import Conditioning
from dit_lens.families import mochi
from dit_lens.hook_points import Hook
from dit_lens.running import HookedTransformer, Request
from dit_lens.tracing import in_layout


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer(build("mochi"), "mochi")


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLMochi:
    torch.manual_seed(0)
    return AutoencoderKLMochi(
        latent_channels=4, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1, 1, 1, 1, 1), latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0),
        scaling_factor=0.5,
    ).eval()  # fmt: skip


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """As the published model has it."""
    return FlowMatchEulerDiscreteScheduler(invert_sigmas=True)


def example_inputs(model: HookedTransformer) -> dict[str, Tensor]:
    return model.family.example(model.transformer, torch.Generator().manual_seed(0))[1]


def test_the_stock_pipeline_follows_the_velocity(vae: AutoencoderKLMochi) -> None:
    transformer = build("mochi")
    text = {name: tensor[:1] for name, tensor in example_inputs(HookedTransformer(transformer, "mochi")).items()}
    pipe: Any = MochiPipeline(scheduler(), vae, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    lens = DiTLens(pipe, "mochi", Conditioning(text), verify=False)
    path: list[dict[str, Any]] = []

    def look(x: Tensor, hook: Hook) -> None:
        if hook.name == "hook_latent":
            path.append({"sigma": hook.sigma})
        path[-1][hook.name] = x.clone()

    embeds, mask = text["encoder_hidden_states"], text["encoder_attention_mask"]
    with lens.hooks([(["hook_latent", "hook_velocity"], look)]):
        pipe(
            prompt_embeds=embeds, prompt_attention_mask=mask, guidance_scale=1.0, height=32, width=32, num_frames=7,
            num_inference_steps=8, output_type="latent", negative_prompt_embeds=embeds,
            negative_prompt_attention_mask=mask, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    assert len(path) == 8
    assert path[0]["sigma"] == 1.0
    for here, there in itertools.pairwise(path):
        change = there["sigma"] - here["sigma"]
        assert change < 0
        following = here["hook_latent"] + change * here["hook_velocity"]
        torch.testing.assert_close(there["hook_latent"], following, atol=1e-5, rtol=1e-5)


def test_time_runs_backward() -> None:
    assert mochi.to_timestep(0.0) == 1000
    assert mochi.to_timestep(1.0) == 0
    torch.testing.assert_close(mochi.to_sigma(torch.tensor([mochi.to_timestep(0.3)])), torch.tensor([0.3]))


def test_the_laws_hold_in_bfloat16() -> None:
    assert all(finding.holds for finding in laws.verify(HookedTransformer(build("mochi").to(torch.bfloat16), "mochi")))


def test_a_value_written_back_lies_in_memory_as_it_did() -> None:
    """The mix that Mochi projects is a part of a longer sequence; kernels, and so the last bit, depend on that."""
    part, text = torch.zeros(2, 7, 4).split((5, 2), dim=1)
    assert not part.is_contiguous()
    new = torch.rand(2, 5, 4, requires_grad=True)
    laid = in_layout((new, {"text": text + 1, "rest": None}), (part, {"text": text, "rest": None}))
    assert torch.equal(laid[0], new)
    assert laid[0].stride() == part.stride()
    assert laid[1]["text"].stride() == text.stride()
    laid[0].sum().backward()
    assert torch.equal(new.grad, torch.ones(2, 5, 4))
    expanded = torch.zeros(1, 4).expand(3, 4)
    assert in_layout(expanded + 1, expanded).stride() == (4, 1)


def test_padded_text_is_neither_read_nor_does_it_read(model: HookedTransformer) -> None:
    evaluation = laws.example(model)
    _, cache = model.run_with(evaluation, {}, Request(["blocks.1.*hook_pattern", "blocks.1.text.attn.hook_z"]))
    grid = model.grid(evaluation)
    video = grid.frames * grid.rows * grid.columns
    pattern, text = cache["blocks.1.attn.hook_pattern"], cache["blocks.1.text.attn.hook_pattern"]
    assert pattern.shape == (2, 2, video, video + 5)
    assert text.shape == (2, 2, 5, video + 5)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 2, video))
    assert not pattern[0, ..., video + 3 :].any()
    assert not text[0, :, 3:].any()
    assert not cache["blocks.1.text.attn.hook_z"][0, 3:].any()
    assert pattern[1, ..., video + 3 :].all()


def test_a_clip_is_served_alone_as_it_is_beside_another(model: HookedTransformer) -> None:
    evaluation = laws.example(model)
    together = model.velocity(evaluation)
    for clip in range(2):
        some = {
            name: value[clip : clip + 1] if isinstance(value, Tensor) else value
            for name, value in evaluation.inputs.items()
        }
        alone = model.velocity(replace(evaluation, inputs=some))
        torch.testing.assert_close(alone[0], together[clip], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("home", ["blocks.1.attn", "blocks.1.text.attn"])
def test_a_pattern_in_place_of_another_mixes_values_by_it(model: HookedTransformer, home: str) -> None:
    """All weight on one video key: z is that key's value."""
    evaluation, key = laws.example(model), 4

    def attend(pattern: Tensor, hook: Hook) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(key), pattern.shape[-1]).expand_as(pattern).to(pattern)

    names = [f"{home}.hook_z", "blocks.1.attn.hook_v"]
    _, cache = model.run_with(evaluation, {f"{home}.hook_pattern": [attend]}, Request(names))
    z, v = cache[names[0]], cache[names[1]]
    torch.testing.assert_close(z, v[:, key : key + 1].expand_as(z), atol=1e-5, rtol=1e-5)


def test_the_write_of_attention_is_its_output_under_norm_and_tanh_gate(model: HookedTransformer) -> None:
    names = [f"blocks.1.{name}" for name in ("attn.hook_raw_out", "mod.hook_gate_attn", "hook_attn_out")]
    _, cache = model.run_with(laws.example(model), {}, Request(names))
    raw, gate, write = (cache[name] for name in names)
    normed = raw / (raw.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(write, normed * gate.tanh().unsqueeze(1), atol=1e-5, rtol=1e-5)


def test_the_mlp_s_hidden_layer_is_a_product(model: HookedTransformer) -> None:
    for home in ("blocks.1.mlp", "blocks.1.text.mlp"):
        _, cache = model.run_with(laws.example(model), {}, Request(f"{home}.*"))
        pre, linear = cache[f"{home}.hook_pre"], cache[f"{home}.hook_pre_linear"]
        torch.testing.assert_close(cache[f"{home}.hook_post"], torch.nn.functional.silu(pre) * linear)


def test_the_last_block_says_why_text_ends_there(model: HookedTransformer) -> None:
    with pytest.raises(KeyError, match="does not update text"):
        model.table.select("blocks.2.text.hook_attn_out", "mochi")
    assert "blocks.2.text.attn.hook_k" in model.table.points


def test_one_time_serves_a_clip(model: HookedTransformer) -> None:
    latent = torch.zeros(1, 4, 2, 8, 8)
    with pytest.raises(ValueError, match="expected one per clip"):
        mochi.inputs(model.transformer, latent, torch.zeros(1, 2), example_inputs(model))


@torch.no_grad()
def test_latents_are_those_of_the_stock_pipeline(vae: AutoencoderKLMochi) -> None:
    video = torch.rand(1, 3, 7, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = mochi.FAMILY.encode(vae, video)
    assert latent.shape == (1, 4, 2, 4, 4)
    mean, std = (torch.tensor(s).view(1, 4, 1, 1, 1) for s in (vae.config.latents_mean, vae.config.latents_std))
    raw = latent * std / vae.config.scaling_factor + mean  # as MochiPipeline.__call__ undoes it
    torch.testing.assert_close(raw, vae.encode(video).latent_dist.mode())
    torch.testing.assert_close(mochi.FAMILY.decode(vae, latent), vae.decode(raw).sample)


def test_what_does_not_fit_is_refused(model: HookedTransformer) -> None:
    parts = SimpleNamespace(transformer=model.transformer, vae=SimpleNamespace(config={"latent_channels": 12}))
    with pytest.raises(TypeError, match="4 input channels over latents of 12"):
        mochi.FAMILY.check_pipeline(parts)
    with pytest.raises(ValueError, match="without text encoder"):
        mochi.encode_prompt(parts, "")
