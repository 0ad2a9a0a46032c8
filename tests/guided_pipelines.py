"""Small random stock pipelines that guide in ways of their own, and the arguments of a guided call of each."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    CogVideoXPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTXPipeline,
    MochiPipeline,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.schedulers import CogVideoXDDIMScheduler, DDIMScheduler
from small_models import build
from small_pipelines import quiet, text
from torch import Tensor

WITHOUT_TEXT: Any = {"tokenizer": None, "text_encoder": None}


def cogvideox() -> tuple[Any, dict[str, Any]]:
    """A stock CogVideoX pipeline and the arguments of a guided call."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=64,
        sample_width=64, scaling_factor=0.7,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing"
    )
    absent: Any = {"tokenizer": None, "text_encoder": None}
    pipe = CogVideoXPipeline(transformer=build("cogvideox"), vae=vae.eval(), scheduler=scheduler, **absent)
    prompts = {"prompt_embeds": text()[..., :12], "negative_prompt_embeds": text(7)[..., :12]}
    return quiet(pipe), prompts | {"height": 64, "width": 64, "num_frames": 5}


def ltx() -> tuple[Any, dict[str, Any]]:
    """A stock LTX pipeline and the arguments of a guided call."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    absent: Any = {"tokenizer": None, "text_encoder": None}
    pipe = LTXPipeline(FlowMatchEulerDiscreteScheduler(), vae.eval(), transformer=build("ltx"), **absent)
    prompts = {"prompt_embeds": text(), "negative_prompt_embeds": text(7)}
    masks = {f"{name.removesuffix('_embeds')}_attention_mask": torch.ones(1, 3, dtype=torch.bool) for name in prompts}
    return quiet(pipe), prompts | masks | {"height": 64, "width": 64, "num_frames": 9}


def masked(width: int = 16) -> dict[str, Tensor]:
    """Two prompts, of whose tokens none is masked."""
    prompts = {"prompt_embeds": text()[..., :width], "negative_prompt_embeds": text(7)[..., :width]}
    masks = {f"{name.removesuffix('_embeds')}_attention_mask": torch.ones(1, 3, dtype=torch.bool) for name in prompts}
    return prompts | masks


def mochi() -> tuple[Any, dict[str, Any]]:
    """A stock Mochi pipeline, whose schedule counts from noise at 0."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLMochi(
        latent_channels=4, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1, 1, 1, 1, 1), latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    pipe = MochiPipeline(scheduler, vae.eval(), transformer=build("mochi"), **WITHOUT_TEXT)
    return quiet(pipe), masked() | {"height": 64, "width": 64, "num_frames": 7}


def allegro() -> tuple[Any, dict[str, Any]]:
    """A stock Allegro pipeline, which names its calls by no context."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLAllegro(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2)
    pipe = AllegroPipeline(transformer=build("allegro"), vae=vae.eval(), scheduler=DDIMScheduler(), **WITHOUT_TEXT)
    return quiet(pipe), masked() | {"negative_prompt": None, "height": 64, "width": 64, "num_frames": 8}


def ltx2() -> tuple[Any, dict[str, Any]]:
    """A stock LTX-2 pipeline, whose transformer can be guided in all four ways."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1, patch_size_t=1, spatial_compression_ratio=32, temporal_compression_ratio=8,
    )  # fmt: skip
    audio_vae: Any = AutoencoderKLLTX2Audio(
        base_channels=6, output_channels=2, ch_mult=(1,), num_res_blocks=1, in_channels=2, resolution=32,
        latent_channels=3, mid_block_add_attention=False, mel_bins=8,
    )  # fmt: skip
    heads = {
        f"{stream}_connector_{part}": value
        for stream, width in (("video", 10), ("audio", 8))
        for part, value in {
            "num_attention_heads": 2, "attention_head_dim": width, "num_layers": 1, "num_learnable_registers": None,
        }.items()
    }  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=1, **heads, connector_rope_base_seq_len=32, rope_type="split",
        per_modality_projections=True, video_hidden_dim=20, audio_hidden_dim=16,
    )  # fmt: skip
    parts: dict[str, Any] = {"vae": vae.eval(), "audio_vae": audio_vae.eval(), "connectors": connectors.eval()}
    absent: Any = {**WITHOUT_TEXT, "vocoder": None}
    pipe = LTX2Pipeline(FlowMatchEulerDiscreteScheduler(), **parts, transformer=build("ltx2_gated"), **absent)
    ways = {"stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
    return quiet(pipe), masked() | ways | {"height": 64, "width": 64, "num_frames": 9}
