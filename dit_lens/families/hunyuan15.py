"""HunyuanVideo 1.5 text-to-video: how `HunyuanVideo15Transformer3DModel` spells the vocabulary.

All blocks are dual-stream. The text stream holds image, glyph and prompt tokens, those that are masked last; masked
tokens neither attend nor are attended to. The transformer is fed the latent beside an image latent and its mask, zeros
for text-to-video.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.dual_stream import ABSENT, dual_block
from dit_lens.families.parts import Part, argument, item, point, read_only, section
from dit_lens.hook_points import Site, Table

NAME = "hunyuan15"
TRANSFORMER = HunyuanVideo15Transformer3DModel
CONDITIONING = (
    "encoder_hidden_states",
    "encoder_attention_mask",
    "encoder_hidden_states_2",
    "encoder_attention_mask_2",
    "image_embeds",
)
OPTIONAL = ("image_embeds",)
IMAGE_TOKENS = 729  # masked without an image, as many as the pipeline feeds
ROOT = Site("", "inputs")
VELOCITY = Site("", "output")


def example(
    transformer: HunyuanVideo15Transformer3DModel, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning with padded text, to verify a model with."""
    config, (p, q, r) = transformer.config, _patch(transformer)
    told = {
        "encoder_hidden_states": torch.randn(1, 4, config["text_embed_dim"], generator=generator),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "encoder_hidden_states_2": torch.randn(1, 3, config["text_embed_2_dim"], generator=generator),
        "encoder_attention_mask_2": torch.tensor([[1, 0, 0]]),
        "image_embeds": torch.zeros(1, 2, config["image_embed_dim"]),
    }
    return torch.randn(1, _channels(transformer), 2 * p, 4 * q, 4 * r, generator=generator), told


def inputs(
    transformer: HunyuanVideo15Transformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Where there are no image embeddings they are zeros, as in text-to-video. Time is in the dtype of the latent, which
    the model's time embedding takes over.
    """
    config = transformer.config
    beside = latent.new_zeros(len(latent), config["in_channels"] - latent.shape[1], *latent.shape[2:])
    told = {"image_embeds": latent.new_zeros(1, IMAGE_TOKENS, config["image_embed_dim"]), **conditioning}
    told = {name: told[name].expand(len(latent), *told[name].shape[1:]) for name in CONDITIONING}
    fed = torch.cat([latent, beside], dim=1)
    return {"hidden_states": fed, "timestep": timestep.to(latent.dtype), **told, "return_dict": False}


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for image-to-video, and where latents are not what the transformer takes."""
    if getattr(pipeline, "image_encoder", None) is not None:
        raise TypeError("got an image-to-video pipeline · expected text-to-video · it is not handled yet")
    channels, latents = _channels(pipeline.transformer), pipeline.vae.config["latent_channels"]
    if channels != latents:
        raise TypeError(f"got a transformer over {channels} channels and latents of {latents} · expected as many")


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """What `HunyuanVideo15Pipeline.__call__` feeds for a prompt by default.

    Embeddings and mask of the prompt, (1, 1000, d) and (1, 1000), and of the glyphs quoted in it, (1, 256, d) and
    (1, 256), all masked without a quotation; and zeros (1, 729, d) for image embeddings.

    Raises:
        ValueError: the pipeline lacks a text encoder.
    """
    if getattr(pipeline, "text_encoder", None) is None or getattr(pipeline, "text_encoder_2", None) is None:
        raise ValueError(
            f"got a pipeline without both text encoders · expected them, or conditioning=Conditioning(...) of"
            f" {', '.join(CONDITIONING)}"
        )
    text, mask, glyphs, glyph_mask = pipeline.encode_prompt(prompt)
    image = text.new_zeros(1, IMAGE_TOKENS, pipeline.transformer.config["image_embed_dim"])
    told = (text, mask.long(), glyphs, glyph_mask.long(), image)
    return Conditioning(dict(zip(CONDITIONING, told, strict=True)), prompt)


def input_dtype(transformer: HunyuanVideo15Transformer3DModel) -> torch.dtype:
    """The dtype latents are fed in."""
    return transformer.x_embedder.proj.weight.dtype


def to_timestep(sigma: float) -> float:
    """What a HunyuanVideo 1.5 is fed at a noise level."""
    return 1000 * sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep fed."""
    return timestep.float() / 1000


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The output as noise - data: it is that already."""
    return output[0]


def grid(transformer: HunyuanVideo15Transformer3DModel, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    shape = inputs["hidden_states"].shape[2:]
    return TokenGrid(*(size // patch for size, patch in zip(shape, _patch(transformer), strict=True)))


def _patch(transformer: HunyuanVideo15Transformer3DModel) -> tuple[int, int, int]:
    size = transformer.config["patch_size"]
    return transformer.config["patch_size_t"], size, size


def _channels(transformer: HunyuanVideo15Transformer3DModel) -> int:
    """Channels of the latent alone."""
    return transformer.config["out_channels"]


def encode(vae: Any, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
    """The scaled latent: the mode of the posterior times the autoencoder's scaling factor."""
    return vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]."""
    return vae.decode((latent / vae.config.scaling_factor).to(vae.device, vae.dtype)).sample.float()


def hook_table(transformer: HunyuanVideo15Transformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed, time = Site("x_embedder", "output"), Site("time_embed", "output")
    latent = section(0, _channels(transformer), argument("hidden_states"), axis=1)
    paths = tuple(f"transformer_blocks.{index}" for index in range(len(transformer.transformer_blocks)))
    blocks = [dual_block(f"blocks.{i}", path, transformer.get_submodule(path)) for i, path in enumerate(paths)]
    points = [
        point("hook_latent", "b c f h w", ROOT, latent),
        point("hook_time_embed", "b d", time),
        point("hook_embed", "b n d", embed),
        *(point for block in blocks for point in block.points),
        point("hook_velocity", "b c f h w", VELOCITY, item(0)),
        read_only("hook_x0", "b c f h w", (ROOT, VELOCITY), lambda root, out: _clean_estimate(latent, root, out)),
    ]
    return Table(
        (ROOT, time, embed, *(site for block in blocks for site in block.sites), VELOCITY),
        {point.name: point for point in points},
        paths,
        ABSENT,
        ("hook_resid_pre", "text.hook_resid_pre"),
        tuple(law for block in blocks for law in block.laws),
    )


def _clean_estimate(latent: Part, root: tuple, out: tuple) -> Tensor:
    return latent.get(root) - to_sigma(root[1]["timestep"]).view(-1, 1, 1, 1, 1) * out[0]
