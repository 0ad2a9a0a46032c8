"""Small random transformers of the real diffusers classes, one line per family: what the conformance tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AllegroTransformer3DModel,
    CogVideoXTransformer3DModel,
    CosmosTransformer3DModel,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTX2VideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
)
from torch import nn

WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 32, "ffn_dim": 32, "num_layers": 3, "rope_max_seq_len": 32,
}  # fmt: skip


def wan(**config: Any) -> nn.Module:
    return WanTransformer3DModel(**WAN | config)


def wan_i2v() -> nn.Module:
    """As Wan 2.1: a mask and the latent of the first frame beside the latent, and image tokens."""
    return wan(in_channels=12, image_dim=10, added_kv_proj_dim=24)


def wan22_i2v() -> nn.Module:
    """As Wan 2.2 A14B: a mask and the latent of the first frame beside the latent, and no image tokens."""
    return wan(in_channels=12)


def skyreels(**config: Any) -> nn.Module:
    """As the diffusion-forcing models, told of frames per second, with attention causal by blocks of two frames."""
    return SkyReelsV2Transformer3DModel(**WAN | {"inject_sample_info": True, "num_frame_per_block": 2} | config)


def skyreels_i2v() -> nn.Module:
    return skyreels(in_channels=12, image_dim=10, added_kv_proj_dim=24, inject_sample_info=False, num_frame_per_block=1)


def ltx() -> nn.Module:
    return LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, cross_attention_dim=20,
        num_layers=3, caption_channels=16,
    )  # fmt: skip


def hunyuan() -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, num_single_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


def hunyuan15() -> nn.Module:
    return HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=3,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=6,
        rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


def ltx2(**options: Any) -> nn.Module:
    return LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, cross_attention_dim=20,
        audio_in_channels=6, audio_out_channels=6, audio_num_attention_heads=2, audio_attention_head_dim=8,
        audio_cross_attention_dim=16, num_layers=2, caption_channels=12, **{"rope_type": "split", **options},
    )  # fmt: skip


def ltx2_gated() -> nn.Module:
    """As LTX-2.3: gated heads, modulated text cross-attention, text projected outside."""
    return ltx2(
        gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True,
        use_prompt_embeddings=False, perturbed_attn=True,
    )  # fmt: skip


def cogvideox(**config: Any) -> nn.Module:
    return CogVideoXTransformer3DModel(**{
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
        "text_embed_dim": 12, "num_layers": 3, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
        "max_text_seq_length": 3, "use_rotary_positional_embeddings": True, **config,
    })  # fmt: skip


def cogvideox_2b() -> nn.Module:
    return cogvideox(use_rotary_positional_embeddings=False)


def cogvideox_i2v() -> nn.Module:
    return cogvideox(in_channels=8, use_learned_positional_embeddings=True)


def cogvideox_15_i2v() -> nn.Module:
    return cogvideox(in_channels=8, patch_size_t=2, ofs_embed_dim=8, patch_bias=False)


def mochi() -> nn.Module:
    return MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=3, pooled_projection_dim=12,
        in_channels=4, text_embed_dim=16, time_embed_dim=16, max_sequence_length=5,
    )  # fmt: skip


def allegro() -> nn.Module:
    return AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=3, caption_channels=16,
    )  # fmt: skip


def cosmos(**config: Any) -> nn.Module:
    """As Predict 2, which is told which frames are given."""
    return CosmosTransformer3DModel(**{
        "in_channels": 5, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3,
        "mlp_ratio": 2.0, "text_embed_dim": 16, "adaln_lora_dim": 4, "max_size": (4, 32, 32),
        "concat_padding_mask": False, "extra_pos_embed_type": None, **config,
    })  # fmt: skip


def cosmos_1() -> nn.Module:
    return cosmos(in_channels=4, extra_pos_embed_type="learnable")


def cosmos_25() -> nn.Module:
    """As Predict 2.5, and as Transfer 2.5 with its image branch."""
    return cosmos(
        use_crossattn_projection=True, crossattn_proj_in_channels=20, encoder_hidden_states_channels=16,
        img_context_dim_in=8, img_context_dim_out=24,
    )  # fmt: skip


SMALL: dict[str, Callable[[], nn.Module]] = {
    "wan": wan,
    "wan_i2v": wan_i2v,
    "wan22_i2v": wan22_i2v,
    "skyreels": skyreels,
    "skyreels_i2v": skyreels_i2v,
    "mochi": mochi,
    "cosmos": cosmos,
    "cosmos_1": cosmos_1,
    "cosmos_25": cosmos_25,
    "ltx": ltx,
    "ltx2": ltx2,
    "ltx2_gated": ltx2_gated,
    "hunyuan": hunyuan,
    "hunyuan15": hunyuan15,
    "cogvideox": cogvideox,
    "cogvideox_2b": cogvideox_2b,
    "cogvideox_i2v": cogvideox_i2v,
    "cogvideox_15_i2v": cogvideox_15_i2v,
    "allegro": allegro,
}


def build(name: str, seed: int = 0) -> Any:
    """The small transformer of a family; layers that a fresh model leaves at zero are filled: nothing is idle."""
    torch.manual_seed(seed)
    transformer = SMALL[name]().eval().requires_grad_(False)
    for parameter in transformer.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return transformer
