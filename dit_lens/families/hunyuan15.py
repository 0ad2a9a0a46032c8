"""HunyuanVideo 1.5 text-to-video: the hook points of `HunyuanVideo15Transformer3DModel`.

All blocks are dual-stream. The text stream holds image, glyph and prompt tokens, masked ones last; masked tokens
neither attend nor are attended to. The transformer takes the latent concatenated with an image latent and its mask,
which are zeros for text-to-video.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.hunyuan_parts as hunyuan_parts
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import LATENT, check_channels, check_text_encoders, for_clips
from dit_lens.families.dual_stream import ABSENT, dual_block
from dit_lens.families.family import Family
from dit_lens.families.parts import point, section
from dit_lens.hook_points import Site, Table

CONDITIONING = (
    "encoder_hidden_states",
    "encoder_attention_mask",
    "encoder_hidden_states_2",
    "encoder_attention_mask_2",
    "image_embeds",
)
OPTIONAL = ("image_embeds",)
IMAGE_TOKENS = 729  # as many as in the pipeline; masked without an image


def example(
    transformer: HunyuanVideo15Transformer3DModel, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning with padded text, to verify a model with."""
    config, (p, q, r) = transformer.config, conventions.patch(transformer)
    conditioning = {
        "encoder_hidden_states": torch.randn(1, 4, config["text_embed_dim"], generator=generator),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "encoder_hidden_states_2": torch.randn(1, 3, config["text_embed_2_dim"], generator=generator),
        "encoder_attention_mask_2": torch.tensor([[1, 0, 0]]),
        "image_embeds": torch.zeros(1, 2, config["image_embed_dim"]),
    }
    return torch.randn(1, _channels(transformer), 2 * p, 4 * q, 4 * r, generator=generator), conditioning


def inputs(
    transformer: HunyuanVideo15Transformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Without `image_embeds` in the conditioning they are zeros, as in text-to-video. The timestep gets the dtype of the
    latent, which the model's time embedding takes from it.
    """
    config = transformer.config
    image_latent = latent.new_zeros(len(latent), config["in_channels"] - latent.shape[1], *latent.shape[2:])
    with_image = {"image_embeds": latent.new_zeros(1, IMAGE_TOKENS, config["image_embed_dim"]), **conditioning}
    tensors = for_clips(with_image, CONDITIONING, len(latent))
    hidden_states = torch.cat([latent, image_latent], dim=1)
    return {
        "hidden_states": hidden_states,
        "timestep": timestep.to(latent.dtype),
        **tensors,
        "return_dict": False,
    }


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for image-to-video, and if the autoencoder's latents do not fit the transformer."""
    if getattr(pipeline, "image_encoder", None) is not None:
        raise TypeError("got an image-to-video pipeline · expected text-to-video · it is not handled yet")
    check_channels(pipeline, "out_channels")


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The conditioning of `HunyuanVideo15Pipeline.__call__` for a prompt, with its default arguments.

    Embeddings and mask of the prompt, (1, 1000, d) and (1, 1000), and of the glyphs quoted in it, (1, 256, d) and
    (1, 256), all masked without a quotation; and zeros (1, 729, d) for image embeddings.

    Raises:
        ValueError: the pipeline lacks a text encoder.
    """
    check_text_encoders(pipeline, CONDITIONING, hunyuan_parts.TEXT_ENCODERS)
    text, mask, glyphs, glyph_mask = pipeline.encode_prompt(prompt)
    image = text.new_zeros(1, IMAGE_TOKENS, pipeline.transformer.config["image_embed_dim"])
    tensors = (text, mask.long(), glyphs, glyph_mask.long(), image)
    return Conditioning(dict(zip(CONDITIONING, tensors, strict=True)), prompt)


def _channels(transformer: HunyuanVideo15Transformer3DModel) -> int:
    """The number of channels of the noisy latent, without the image latent and mask."""
    return transformer.config["out_channels"]


def hook_table(transformer: HunyuanVideo15Transformer3DModel) -> Table:
    """Every hook point of this transformer."""
    paths = conventions.block_paths(transformer)
    blocks = {path: dual_block(f"blocks.{i}", path, transformer.get_submodule(path)) for i, path in enumerate(paths)}
    time = point("hook_time_embed", "b d", Site("time_embed", "output"))
    latent = section(0, _channels(transformer), LATENT, axis=1)
    return hunyuan_parts.table(transformer, blocks, time, ABSENT, latent)


FAMILY = Family(
    name="hunyuan15",
    transformer=HunyuanVideo15Transformer3DModel,
    conditioning=CONDITIONING,
    optional=OPTIONAL,
    example=example,
    inputs=inputs,
    input_dtype=hunyuan_parts.input_dtype,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    schedule_arguments=hunyuan_parts.schedule_arguments,
    encode_prompt=encode_prompt,
)
