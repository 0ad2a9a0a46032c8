"""Allegro: noise levels of a model that predicts noise, masked text, what its pipeline feeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AllegroPipeline, AutoencoderKLAllegro
from diffusers.schedulers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from small_models import build

from dit_lens import laws
from dit_lens.families import allegro
from dit_lens.running import HookedTransformer, Request


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer(build("allegro"), "small allegro")


@pytest.mark.parametrize("timestep", [0, 1, 500, 998, 999])
def test_velocity_is_noise_minus_data_at_the_levels_of_the_stock_scheduler(timestep: int) -> None:
    torch.manual_seed(0)
    stock, timesteps = DDIMScheduler(), torch.tensor([timestep])
    data, noise = torch.randn(2, 1, 4, 2, 8, 8).unbind()
    inputs = {"hidden_states": stock.add_noise(data, noise, timesteps), "timestep": timesteps}
    torch.testing.assert_close(allegro.velocity(inputs, (noise,)), noise - data, atol=2e-4, rtol=1e-4)
    assert allegro.FAMILY.to_timestep(float(allegro.FAMILY.to_sigma(timesteps))) == pytest.approx(timestep, abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stream_and_its_write_make_the_next_stream_to_the_bit(dtype: torch.dtype) -> None:
    model = HookedTransformer(build("allegro").to(dtype), "small allegro")
    _, cache = model.run_with(laws.example(model), {}, Request("*"))
    stretches = list(laws.streams(list(model.table.points)))
    assert len(stretches) == 3 * 3  # writes, blocks
    for before, (write,), after in stretches:
        assert torch.equal(cache[before] + cache[write], cache[after])


def test_masked_text_is_not_attended_to(model: HookedTransformer) -> None:
    _, cache = model.run_with(laws.example(model), {}, Request("blocks.0.cross_attn.hook_pattern"))
    pattern = cache["blocks.0.cross_attn.hook_pattern"]
    assert (pattern[..., :2] > 0).all() and not pattern[..., 2:].any()


def test_inputs_are_what_the_stock_pipeline_feeds(model: HookedTransformer) -> None:
    vae: Any = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1, 1, 1, 1), temporal_compression_ratio=4))
    pipe: Any = AllegroPipeline.__new__(AllegroPipeline)  # its parts are told apart by class, its autoencoder is large
    pipe.__dict__.update(
        vae=vae, transformer=model.transformer, vae_scale_factor_spatial=8, vae_scale_factor_temporal=4
    )
    latent, text, mask = torch.randn(2, 4, 2, 8, 6), torch.randn(1, 3, 16), torch.tensor([[1, 1, 0]])
    conditioning = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
    inputs = allegro.inputs(model.transformer, latent, torch.ones(2), conditioning)
    (frequencies, places) = pipe._prepare_rotary_positional_embeddings(2, 64, 48, 2, torch.device("cpu"))
    for ours, theirs in zip(inputs["image_rotary_emb"][0], frequencies, strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert all(map(torch.equal, inputs["image_rotary_emb"][1], places))
    assert inputs["encoder_hidden_states"].shape == (2, 1, 3, 16)
    assert inputs["encoder_attention_mask"].shape == (2, 3)


def test_latents_are_decoded_as_the_stock_pipeline_decodes_them() -> None:
    vae: Any = AutoencoderKLAllegro(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, sample_size=160
    )
    vae.enable_tiling()
    latent, stub = torch.randn(1, 4, 6, 20, 20), SimpleNamespace(vae=vae.requires_grad_(False).eval())
    stock = AllegroPipeline.decode_latents(stub, latent)  # type: ignore
    assert stock.abs().max() > 0.01
    torch.testing.assert_close(allegro.decode(vae, latent), stock)


def test_another_schedule_than_the_model_s_does_not_load() -> None:
    allegro.check_pipeline(SimpleNamespace(scheduler=DDIMScheduler()))
    for stranger in (
        DDIMScheduler(beta_schedule="scaled_linear"),
        DDIMScheduler(prediction_type="v_prediction"),
        FlowMatchEulerDiscreteScheduler(),
    ):
        with pytest.raises(TypeError, match="load the model's own scheduler"):
            allegro.check_pipeline(SimpleNamespace(scheduler=stranger))
