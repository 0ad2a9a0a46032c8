"""LTX-Video: how `LTXVideoTransformer3DModel` spells the vocabulary.

A block writes three times: self-attention and MLP through a gate, cross-attention to text without one. Queries of
cross-attention read the stream itself, no norm between.

Time is one for a clip, or one for each frame or token. A clip may begin with given frames, `first_frame` (one latent
frame of an image, or several of a video): they are fed clean in the place of the latent's own and told time 0, as the
image-to-video pipeline does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import LTXVideoTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.given as given
import dit_lens.families.ltx_parts as ltx_parts
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import ROOT, VELOCITY, check_text_encoders, for_clips
from dit_lens.families.final_layer import by_table
from dit_lens.families.given import FIRST, beginning_with, by_token
from dit_lens.families.ltx_parts import root_points
from dit_lens.families.ltx_streams import Layer, Stream, modulations
from dit_lens.families.parts import point
from dit_lens.hook_points import HookPoint, Site, Table

NAME = "ltx"
TRANSFORMER = LTXVideoTransformer3DModel
CONDITIONING = ("encoder_hidden_states", "encoder_attention_mask", FIRST)
OPTIONAL = (FIRST,)
CALL = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
MODULATIONS = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
# Of `LTXPipeline.__call__` by default: frames a second, and the autoencoder's compression in time and space.
FRAME_RATE, FRAMES, PIXELS = 25, 8, 32
ABSENT = {
    "blocks.*.cross_attn.hook_rot_?": "no rotary: see hook_q and hook_k",
    "blocks.*.mod.hook_*_cross_attn": "cross-attention is neither modulated nor gated",
    "blocks.*.text.*": "LTX reads text by cross-attention; there is no text stream",
}

to_timestep, to_sigma, encode = conventions.to_timestep, conventions.to_sigma, conventions.encode
input_dtype, decode, velocity, grid = ltx_parts.input_dtype, ltx_parts.decode, ltx_parts.velocity, ltx_parts.grid
schedule_arguments, given_frames = ltx_parts.schedule_arguments, given.given_frames


def example(transformer: LTXVideoTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 3, 2) and conditioning with one token masked, to verify a model with."""
    config = transformer.config
    text = torch.randn(1, 3, config["caption_channels"], generator=generator)
    told = {"encoder_hidden_states": text, "encoder_attention_mask": torch.tensor([[True, True, False]])}
    return torch.randn(1, config["in_channels"], 2, 3, 2, generator=generator), told


def inputs(
    transformer: LTXVideoTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Args:
        timestep: one for a clip, or one for each of its latent frames or tokens.
    """
    frames, height, width = latent.shape[2:]
    told = for_clips(conditioning, CONDITIONING, len(latent), OPTIONAL)
    first = told.pop(FIRST, None)
    return told | {
        "hidden_states": ltx_parts.pack(beginning_with(first, latent)),
        "timestep": by_token(timestep, TokenGrid(frames, height, width), first),
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (FRAMES / FRAME_RATE, PIXELS, PIXELS),
        "return_dict": False,
    }


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for an LTX whose latents are of another kind than the rotary embedding here takes them for."""
    ltx_parts.check_pipeline(pipeline)
    found = pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio
    if found != (FRAMES, PIXELS):
        raise TypeError(
            f"got an autoencoder of compression {found} · expected {(FRAMES, PIXELS)} in time and space"
            " · it is not handled yet"
        )


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The embedding (1, 128, caption_channels) that `LTXPipeline.__call__` feeds for a prompt, and its mask (1, 128).

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, CONDITIONING)
    embedding, mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=128)
    return Conditioning({"encoder_hidden_states": embedding, "encoder_attention_mask": mask}, prompt)


@torch.no_grad()
def encode_image(
    pipeline: Any, image: Any, size: tuple[int, int, int], generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """What `LTXImageToVideoPipeline` tells of a first frame, beside the text: a latent frame (1, c, 1, h, w).

    Args:
        image: as that pipeline takes it, a PIL image or a tensor (1, 3, H, W) in [0, 1].
        size: frames, height and width of the video.
        generator: of what the pipeline draws from the autoencoder's posterior.
    """
    frames, height, width = size
    device, channels = pipeline._execution_device, pipeline.transformer.config["in_channels"]
    pixels = pipeline.video_processor.preprocess(image, height=height, width=width).to(device, pipeline.vae.dtype)
    packed, _ = pipeline.prepare_latents(
        pixels, 1, channels, height, width, frames, torch.float32, device, generator=generator
    )
    rows, columns = height // PIXELS, width // PIXELS
    return {FIRST: rearrange(packed[:, : rows * columns], "b (h w) c -> b c 1 h w", h=rows)}


def hook_table(transformer: LTXVideoTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed, time = Site("proj_in", "output"), Site("time_embed.emb", "output")
    latent, velocity, clean = root_points()
    points = [latent, point("hook_embed", "b n d", embed), ltx_parts.time_embedding("hook_time_embed", time)]
    sites, laws = [ROOT, embed, time], []
    paths = conventions.block_paths(transformer)
    for index, path in enumerate(paths):
        block = _block(f"blocks.{index}", path, transformer.get_submodule(path))
        sites += block.sites
        points += block.points
        laws += block.laws
    points += [velocity, clean]
    table = Table((*sites, VELOCITY), {point.name: point for point in points}, paths, ABSENT, laws=tuple(laws))
    return by_table(table, transformer.scale_shift_table, *ltx_parts.TOKEN)


def _block(home: str, path: str, block: Any) -> Layer:
    stream = Stream(home, path, block, modulations(block, "scale_shift_table", "temb", MODULATIONS))
    layers = (
        stream.attention("attn", "attn1", 0),
        stream.attention("cross_attn", "attn2", 1, keys="m", rotary=False),
        stream.mlp(2),
    )
    output = Site(path, "output")
    points: list[HookPoint] = [*stream.entry(), *(point for layer in layers for point in layer.points)]
    return Layer(
        (stream.inputs, *(site for layer in layers for site in layer.sites), output),
        [*points, point(f"{home}.hook_resid_post", "b n d", output)],
        [law for layer in layers for law in layer.laws],
    )
