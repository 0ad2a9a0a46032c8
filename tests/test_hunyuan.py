"""HunyuanVideo and HunyuanVideo 1.5: padding, parallel blocks, and what their pipelines feed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, laws
from dit_lens.conditioning import Conditioning
from dit_lens.families import hunyuan, hunyuan15
from dit_lens.hook_points import Hook
from dit_lens.running import HookedTransformer, Request

DUAL, SINGLE = "blocks.0", "blocks.2"  # of the small HunyuanVideo


@pytest.fixture(scope="module", params=["hunyuan", "hunyuan15"])
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return HookedTransformer(build(request.param), request.param)


def kept(model: HookedTransformer, *names: str, functions: Any = None) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.run_with(laws.example(model), functions or {}, Request(names))[1]


def test_padded_text_is_not_attended_to(model: HookedTransformer) -> None:
    padded = {"hunyuan": 2, "hunyuan15": 5}[model.name]  # of 1.5: an image of 2 tokens, 2 glyphs, 1 word
    pattern = kept(model, f"{DUAL}.attn.hook_pattern")[f"{DUAL}.attn.hook_pattern"]
    assert not pattern[..., -padded:].any()
    assert (pattern[..., :-padded] > 0).all()
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))


def test_padded_text_attends_to_nothing_in_hunyuan15() -> None:
    model = HookedTransformer(build("hunyuan15"), "small hunyuan15")
    cache = kept(model, f"{DUAL}.text.attn.hook_pattern", f"{DUAL}.text.attn.hook_z")
    rows = cache[f"{DUAL}.text.attn.hook_pattern"].sum(-1)
    torch.testing.assert_close(rows, torch.tensor([1.0] * 4 + [0.0] * 5).expand_as(rows))
    assert not cache[f"{DUAL}.text.attn.hook_z"][:, 4:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stream_and_its_write_make_the_next_stream_to_the_bit(dtype: torch.dtype) -> None:
    model = HookedTransformer(build("hunyuan15").to(dtype), "small hunyuan15")
    cache = kept(model, "*")
    stretches = list(laws.streams(list(model.table.points)))
    assert len(stretches) == 2 * 2 * 3  # writes, streams, blocks
    for before, (write,), after in stretches:
        assert torch.equal(cache[before] + cache[write], cache[after])


@pytest.mark.parametrize("short", ["attn.hook_result", "attn.hook_raw_out", "attn.hook_pattern", "hook_attn_out"])
@pytest.mark.parametrize("stream", ["", "text."])
def test_what_attention_adds_in_a_parallel_block_can_be_removed_at_every_stage(short: str, stream: str) -> None:
    model = HookedTransformer(build("hunyuan"), "small hunyuan")
    home = f"{SINGLE}.{stream}"
    names = [f"{home}{name}" for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")]

    def zero(x: Tensor, hook: Hook) -> Tensor:
        return 0 * x

    plain = kept(model, *names)
    by_mix = kept(model, *names, functions={f"{home}attn.hook_z": [zero]})
    cache = kept(model, *names, functions={f"{home}{short}": [zero]})
    before, attn_out, mlp_out, after = names
    assert plain[attn_out].abs().max() > 1e-2
    torch.testing.assert_close(cache[attn_out], 0 * cache[attn_out], atol=1e-6, rtol=0)
    torch.testing.assert_close(cache[after], cache[before] + cache[mlp_out], atol=1e-6, rtol=0)
    torch.testing.assert_close(cache[after], by_mix[after], atol=1e-6, rtol=0)


def test_an_image_conditioned_transformer_is_refused() -> None:
    transformer = build("hunyuan")
    transformer.register_to_config(image_condition_type="token_replace")
    with pytest.raises(TypeError, match="got image_condition_type 'token_replace'"):
        HookedTransformer(transformer, "small")


def pipeline(transformer: Any) -> HunyuanVideoPipeline:
    widths: Any = (8, 8, 8, 8)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=widths, layers_per_block=1, norm_num_groups=4,
        mid_block_add_attention=False,
    )  # fmt: skip
    absent: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = HunyuanVideoPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_an_evaluation_is_fed_what_the_pipeline_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = build("hunyuan")
    _, tensors = hunyuan.example(transformer, torch.Generator().manual_seed(0))
    pipe = pipeline(transformer)
    calls: list[dict[str, Any]] = []
    forward = transformer.forward
    with monkeypatch.context() as patch:
        patch.setattr(transformer, "forward", lambda **kwargs: calls.append(kwargs) or forward(**kwargs))
        pipe(
            prompt_embeds=tensors["encoder_hidden_states"], pooled_prompt_embeds=tensors["pooled_projections"],
            prompt_attention_mask=tensors["encoder_attention_mask"], height=32, width=32, num_frames=5,
            num_inference_steps=2, output_type="latent",
        )  # fmt: skip
    lens = DiTLens(pipe, conditioning=Conditioning(tensors), verify=False)
    fed = calls[1]
    evaluation = lens.model.evaluation(fed["hidden_states"], float(fed["timestep"]), lens.conditioning)
    for name in ("hidden_states", "timestep", *hunyuan.CONDITIONING):
        assert torch.equal(evaluation.inputs[name].float(), fed[name].float()), name
    assert float(evaluation.inputs["guidance"]) == 6000


def test_latents_go_to_pixels_and_back_in_scale() -> None:
    pipe = pipeline(build("hunyuan"))
    video = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 3, 5, 16, 16))).float()
    with torch.no_grad():
        raw = pipe.vae.encode(video).latent_dist.mode()
        latent = hunyuan.FAMILY.encode(pipe.vae, video)
        assert torch.equal(latent, raw * pipe.vae.config.scaling_factor)
        torch.testing.assert_close(
            hunyuan.FAMILY.decode(pipe.vae, latent), pipe.vae.decode(raw).sample, atol=1e-4, rtol=1e-4
        )


def test_prompts_are_told_by_name() -> None:
    text, mask, pooled = torch.zeros(1, 4, 16), torch.ones(1, 4), torch.zeros(1, 8)
    old = SimpleNamespace(text_encoder=1, text_encoder_2=1, encode_prompt=lambda prompt: (text, pooled, mask))
    tensors = hunyuan.encode_prompt(old, "a ball").tensors
    assert tuple(tensors) == hunyuan.CONDITIONING
    assert tensors["pooled_projections"] is pooled
    glyphs = torch.zeros(1, 3, 8), torch.zeros(1, 3)
    new = SimpleNamespace(
        text_encoder=1,
        text_encoder_2=1,
        transformer=build("hunyuan15"),
        encode_prompt=lambda prompt: (text, mask, *glyphs),
    )
    tensors = hunyuan15.encode_prompt(new, "a ball").tensors
    assert tuple(tensors) == hunyuan15.CONDITIONING
    assert tensors["image_embeds"].shape == (1, 729, 6)
    for family in (hunyuan, hunyuan15):
        with pytest.raises(ValueError, match="got a pipeline without both text encoders"):
            family.encode_prompt(SimpleNamespace(text_encoder=None), "a ball")
