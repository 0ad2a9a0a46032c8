"""Small random pipelines in the layout of their releases: classes, folders, schedulers and settings are the released
ones, latents have the released channels and compression, transformers are in shards; widths and depths are tiny.

Each function writes a folder that `DiffusionPipeline.from_pretrained` loads, and returns it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from released import tokenizers

TEXT_WIDTH = 32
PROMPT = "a red ball rolls behind a wall"

# As released, but for widths and layers.

WAN = {
    "added_kv_proj_dim": None, "attention_head_dim": 12, "cross_attn_norm": True, "eps": 1e-6, "ffn_dim": 32,
    "freq_dim": 32, "image_dim": None, "in_channels": 16, "num_attention_heads": 2, "num_layers": 3, "out_channels": 16,
    "patch_size": (1, 2, 2), "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024, "text_dim": TEXT_WIDTH,
}  # fmt: skip
WAN_VAE = {
    "base_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
    "z_dim": 16,
}  # fmt: skip
UNIPC = {
    "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [],
    "final_sigmas_type": "zero", "lower_order_final": True, "num_train_timesteps": 1000, "predict_x0": True,
    "prediction_type": "flow_prediction", "solver_order": 2, "solver_type": "bh2", "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
}  # fmt: skip
COGVIDEOX = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 16, "out_channels": 16, "time_embed_dim": 16,
    "text_embed_dim": TEXT_WIDTH, "num_layers": 3, "sample_width": 90, "sample_height": 60, "sample_frames": 49,
    "max_text_seq_length": 226, "patch_size": 2, "spatial_interpolation_scale": 1.875,
    "temporal_interpolation_scale": 1.0, "activation_fn": "gelu-approximate", "timestep_activation_fn": "silu",
    "temporal_compression_ratio": 4,
}  # fmt: skip
COGVIDEOX_SCHEDULER = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "trailing",
}  # fmt: skip
LTX = {
    "in_channels": 128, "out_channels": 128, "patch_size": 1, "patch_size_t": 1, "num_attention_heads": 2,
    "attention_head_dim": 12, "cross_attention_dim": 24, "num_layers": 3, "activation_fn": "gelu-approximate",
    "qk_norm": "rms_norm_across_heads", "norm_elementwise_affine": False, "caption_channels": TEXT_WIDTH,
}  # fmt: skip
LTX_SCHEDULER = {
    "base_image_seq_len": 1024, "base_shift": 0.95, "invert_sigmas": False, "max_image_seq_len": 4096,
    "max_shift": 2.05, "num_train_timesteps": 1000, "shift": 1.0, "shift_terminal": 0.1, "use_dynamic_shifting": True,
}  # fmt: skip
HUNYUAN = {
    "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
    "num_single_layers": 2, "num_refiner_layers": 2, "mlp_ratio": 4.0, "patch_size": 2, "patch_size_t": 1,
    "qk_norm": "rms_norm", "guidance_embeds": True, "text_embed_dim": TEXT_WIDTH, "pooled_projection_dim": 16,
    "rope_theta": 256.0, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip


def write_wan21(folder: Path) -> Path:
    """Wan 2.1 T2V: UniPC at flow shift 3; latents of 16 channels, 4 x 8 x 8."""
    parts = _wan_parts(folder, WanTransformer3DModel(**WAN), _wan_vae(**WAN_VAE), flow_shift=3.0)
    return write_index(folder, "WanPipeline", "0.33.0.dev0", parts)


def write_wan22_ti2v(folder: Path) -> Path:
    """Wan 2.2 TI2V-5B: a time for every token, UniPC at flow shift 5; latents of 48 channels, 4 x 16 x 16."""
    vae = _wan_vae(
        **WAN_VAE | {"z_dim": 48}, decoder_base_dim=8, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=16, scale_factor_temporal=4,
    )  # fmt: skip
    transformer = WanTransformer3DModel(**WAN | {"in_channels": 48, "out_channels": 48})
    parts = _wan_parts(folder, transformer, vae, flow_shift=5.0) | {"transformer_2": [None, None]}
    settings = {"boundary_ratio": None, "expand_timesteps": True}
    return write_index(folder, "WanPipeline", "0.35.0.dev0", parts, **settings)


def write_wan_13b_shaped(folder: Path, layers: int = 3, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Wan 2.1 T2V-1.3B in its released widths, but of few layers and with a text encoder of one small layer.

    Args:
        folder: may exist; it takes about 47 MB and 93 MB a layer in bfloat16, twice that in float32.
        layers: transformer blocks; the release has 30.
        dtype: of the transformer's weights on disk.
    """
    widths = {"attention_head_dim": 128, "num_attention_heads": 12, "ffn_dim": 8960, "freq_dim": 256, "text_dim": 4096}
    transformer = WanTransformer3DModel(**WAN | widths | {"num_layers": layers})
    nn.Module.to(transformer, dtype)
    parts = _wan_parts(folder, transformer, _wan_vae(**WAN_VAE), flow_shift=3.0, text_width=4096)
    return write_index(folder, "WanPipeline", "0.33.0.dev0", parts)


def write_cogvideox_2b(folder: Path, sentencepiece: bool = False) -> Path:
    """CogVideoX-2b: sine positions, DDIM whose signal is shifted by 3; latents of 16 channels, 4 x 8 x 8.

    Args:
        folder: may exist.
        sentencepiece: the tokenizer is spiece.model alone, as in the release (see `tokenizers.write_t5`).
    """
    transformer = CogVideoXTransformer3DModel(**COGVIDEOX, use_rotary_positional_embeddings=False)
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULER, snr_shift_scale=3.0)
    return _write_cogvideox(folder, transformer, scheduler, 1.15258426, sentencepiece)


def write_cogvideox_5b(folder: Path, sentencepiece: bool = False) -> Path:
    """CogVideoX-5b: rotary positions, the DPM scheduler, no shift of the signal; arguments as for the 2b."""
    transformer = CogVideoXTransformer3DModel(**COGVIDEOX, use_rotary_positional_embeddings=True)
    scheduler = CogVideoXDPMScheduler(**COGVIDEOX_SCHEDULER, snr_shift_scale=1.0)
    return _write_cogvideox(folder, transformer, scheduler, 0.7, sentencepiece)


def _write_cogvideox(folder: Path, transformer: Any, scheduler: Any, scale: float, sentencepiece: bool) -> Path:
    vae = _filled(
        AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=16,
            temporal_compression_ratio=4, sample_height=480, sample_width=720, scaling_factor=scale,
        )
    )  # fmt: skip
    _write(folder, transformer=transformer, vae=vae, scheduler=scheduler)
    _write_t5_encoder(folder, T5EncoderModel, T5Config, 226, sentencepiece=sentencepiece)
    parts = {
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    return write_index(folder, "CogVideoXPipeline", "0.30.0.dev0", parts)


def write_ltx(folder: Path, sentencepiece: bool = False) -> Path:
    """LTX-Video: levels shift with the latent's size and end at 0.1; latents of 128 channels, 8 x 32 x 32.

    Args:
        folder: may exist.
        sentencepiece: the tokenizer is spiece.model alone, as in the release (see `tokenizers.write_t5`).
    """
    vae: Any = _filled(
        AutoencoderKLLTXVideo(
            latent_channels=128, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=4, patch_size_t=1,
            spatio_temporal_scaling=(True, True, True, False), encoder_causal=True, decoder_causal=False,
            scaling_factor=1.0,
        )
    )  # fmt: skip
    draws = torch.Generator().manual_seed(3)
    vae.latents_mean.copy_(0.3 * torch.randn(128, generator=draws))
    vae.latents_std.copy_(0.5 + torch.rand(128, generator=draws))
    scheduler = FlowMatchEulerDiscreteScheduler(**LTX_SCHEDULER)
    _write(folder, transformer=LTXVideoTransformer3DModel(**LTX), vae=vae, scheduler=scheduler)
    _write_t5_encoder(folder, T5EncoderModel, T5Config, 128, sentencepiece=sentencepiece)
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
    }
    return write_index(folder, "LTXPipeline", "0.32.0.dev0", parts)


def write_hunyuan(folder: Path) -> Path:
    """HunyuanVideo T2V: Llama 3 behind a prompt template, CLIP, flow shift 7; latents of 16 channels, 4 x 8 x 8."""
    vae = _filled(
        AutoencoderKLHunyuanVideo(
            latent_channels=16, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
            scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
        )
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=7.0)
    _write(folder, transformer=HunyuanVideoTransformer3DModel(**HUNYUAN), vae=vae, scheduler=scheduler)
    ids = tokenizers.write_llama3(folder / "tokenizer")
    llama = LlamaConfig(
        vocab_size=len(ids), hidden_size=TEXT_WIDTH, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, rope_theta=500000.0, rms_norm_eps=1e-5,
        bos_token_id=ids["<|begin_of_text|>"], eos_token_id=ids["<|end_of_text|>"], pad_token_id=ids["<|pad|>"],
    )  # fmt: skip
    _save_encoder(LlamaModel(llama), folder / "text_encoder")
    ids = tokenizers.write_clip(folder / "tokenizer_2")
    clip = CLIPTextConfig(
        vocab_size=len(ids), hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=ids["<|startoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
    )  # fmt: skip
    _save_encoder(CLIPTextModel(clip), folder / "text_encoder_2")
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "LlamaModel"],
        "text_encoder_2": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "LlamaTokenizerFast"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "HunyuanVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLHunyuanVideo"],
    }
    return write_index(folder, "HunyuanVideoPipeline", "0.32.0.dev0", parts)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "wan21": write_wan21,
    "wan22_ti2v": write_wan22_ti2v,
    "cogvideox_2b": write_cogvideox_2b,
    "cogvideox_5b": write_cogvideox_5b,
    "ltx": write_ltx,
    "hunyuan": write_hunyuan,
}
# A small clip for each, (frames, height, width), of two tokens along height and width and two or three in time.
# CogVideoX's autoencoder gives back as many frames as it took only where its latent has an odd number of them.
SMALL_CLIPS = {
    "wan21": (5, 32, 32),
    "wan22_ti2v": (5, 64, 64),
    "cogvideox_2b": (9, 32, 32),
    "cogvideox_5b": (9, 32, 32),
    "ltx": (9, 64, 64),
    "hunyuan": (5, 32, 32),
}


# Parts and how they are written.


def _wan_vae(**config: Any) -> AutoencoderKLWan:
    """A Wan autoencoder; latents of another number than 16 channels get statistics of their own."""
    channels = config["z_dim"]
    if channels != 16:  # 16 are the released ones by default
        draws = np.random.default_rng(channels)
        config["latents_mean"] = draws.normal(0, 0.3, channels).round(4).tolist()
        config["latents_std"] = draws.uniform(0.4, 1.2, channels).round(4).tolist()
    return _filled(AutoencoderKLWan(**config))


def _wan_parts(
    folder: Path, transformer: nn.Module, vae: nn.Module, flow_shift: float, text_width: int = TEXT_WIDTH
) -> dict[str, list[str | None]]:
    """Writes what a Wan is made of, and returns the classes for its index."""
    scheduler = UniPCMultistepScheduler(**UNIPC, flow_shift=flow_shift)
    _write(folder, transformer=transformer, vae=vae, scheduler=scheduler)
    _write_t5_encoder(folder, UMT5EncoderModel, UMT5Config, 512, text_width)
    return {
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def _write(folder: Path, transformer: Any, vae: Any, scheduler: Any) -> None:
    """Transformer in a few shards, autoencoder, scheduler."""
    size = sum(parameter.nbytes for parameter in transformer.parameters())
    _filled(transformer).save_pretrained(folder / "transformer", max_shard_size=size // 3)
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")


def _write_t5_encoder(
    folder: Path, model: Any, config: Any, length: int, width: int = TEXT_WIDTH, sentencepiece: bool = False
) -> None:
    """A tokenizer and a text encoder of the T5 kind, whose file has the embedding once, as `shared.weight`."""
    vocabulary = tokenizers.write_t5(folder / "tokenizer", length, sentencepiece)
    small = config(
        vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=32, num_layers=2 if width == TEXT_WIDTH else 1, num_heads=2,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=32, relative_attention_max_distance=128,
        dropout_rate=0.0,
    )  # fmt: skip
    _save_encoder(model(small), folder / "text_encoder")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}, indent=2))


def _save_encoder(encoder: Any, folder: Path) -> None:
    """A text encoder whose prompts differ."""
    _filled(encoder, least=0.3).save_pretrained(folder)


def _filled(model: Any, least: float = 0.0) -> Any:
    """The model with weights drawn from a seed: nothing is left at zero, so that no velocity and no prompt is idle.

    Matrices and kernels get the standard deviation that keeps a signal's size, but not less than `least`; biases that
    are zero get a tenth of a unit; norms keep their ones.
    """
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=max(least, parameter[0].numel() ** -0.5), generator=draws)
            elif not parameter.any():
                parameter.normal_(std=0.1, generator=draws)
    return model.eval().requires_grad_(False)


def write_index(folder: Path, pipeline: str, version: str, parts: dict[str, list[str | None]], **settings: Any) -> Path:
    """Writes model_index.json; returns the folder."""
    index = {"_class_name": pipeline, "_diffusers_version": version, **settings, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder
