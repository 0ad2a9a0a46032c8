"""LTX-Video: the hook points of `LTXVideoTransformer3DModel`.

A block writes three times: self-attention and MLP through a gate, cross-attention to text without one. Queries of
cross-attention read the stream itself, without a norm.

There is one timestep per clip, or one per frame or token. The conditioning may hold clean first frames, `first_frame`
(one latent frame of an image, or several of a video): they replace those of the noisy latent and get timestep 0, as in
the image-to-video pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import LTXVideoTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.ltx_parts as ltx_parts
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import ROOT, VELOCITY, check_text_encoders, for_clips
from dit_lens.families.family import Family
from dit_lens.families.final_layer import by_table
from dit_lens.families.first_frames import FIRST_FRAME, clean_first_frames, timestep_by_token, with_first_frames
from dit_lens.families.ltx_parts import root_points
from dit_lens.families.ltx_streams import Layer, Stream, modulations
from dit_lens.families.parts import point
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = ("encoder_hidden_states", "encoder_attention_mask", FIRST_FRAME)
OPTIONAL = (FIRST_FRAME,)
MODULATIONS = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
FRAME_RATE = 25  # the default of `LTXPipeline.__call__`
BY_COORDINATES = "LTXConditionPipeline", "LTXI2VLongMultiPromptPipeline"  # `video_coords` instead of a grid
COMPRESSION = 8, 32  # the released autoencoders' in time and space, for a transformer without a pipeline
ABSENT = {
    "blocks.*.cross_attn.hook_rot_?": "no rotary: see hook_q and hook_k",
    "blocks.*.mod.hook_*_cross_attn": "cross-attention is neither modulated nor gated",
    "blocks.*.text.*": "LTX reads text by cross-attention; there is no text stream",
}


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a pipeline that places tokens by coordinates, and as `ltx_parts.check_pipeline` does."""
    if type(pipeline).__name__ in BY_COORDINATES:
        raise TypeError(
            f"got a {type(pipeline).__name__}, which places tokens by coordinates, those of given images among them"
            " · expected an LTXPipeline or LTXImageToVideoPipeline, whose tokens lie on a grid"
            " · DiTLens(LTXPipeline.from_pipe(pipeline))"
        )
    ltx_parts.check_pipeline(pipeline)


def example(transformer: LTXVideoTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 3, 2) and conditioning with one token masked, to verify a model with."""
    config = transformer.config
    text = torch.randn(1, 3, config["caption_channels"], generator=generator)
    conditioning = {"encoder_hidden_states": text, "encoder_attention_mask": torch.tensor([[True, True, False]])}
    return torch.randn(1, config["in_channels"], 2, 3, 2, generator=generator), conditioning


def inputs(
    transformer: LTXVideoTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
    compression: tuple[int, int] = COMPRESSION,
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Args:
        timestep: one for a clip, or one for each of its latent frames or tokens.
        compression: of the autoencoder in time and space; the rotary embedding counts in seconds and pixels.
    """
    frames, height, width = latent.shape[2:]
    tensors = for_clips(conditioning, CONDITIONING, len(latent), OPTIONAL)
    first_frames = tensors.pop(FIRST_FRAME, None)
    return tensors | {
        "hidden_states": ltx_parts.pack(with_first_frames(latent, first_frames)),
        "timestep": timestep_by_token(timestep, TokenGrid(frames, height, width), first_frames),
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (compression[0] / FRAME_RATE, compression[1], compression[1]),
        "return_dict": False,
    }


def as_in(family: Family, pipeline: Any) -> Family:
    """The family for one pipeline: its rotary embedding uses the compression of the pipeline's autoencoder."""
    compression = pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio
    return replace(family, inputs=partial(inputs, compression=compression))


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The prompt embedding (1, 128, caption_channels) of `LTXPipeline.__call__`, and its mask (1, 128).

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
    """The first-frame conditioning of `LTXImageToVideoPipeline`: a latent frame (1, c, 1, h, w).

    Args:
        image: as that pipeline takes it, a PIL image or a tensor (1, 3, H, W) in [0, 1].
        size: frames, height and width of the video.
        generator: for the pipeline's sample from the autoencoder's posterior.
    """
    frames, height, width = size
    device, channels = pipeline._execution_device, pipeline.transformer.config["in_channels"]
    pixels = pipeline.video_processor.preprocess(image, height=height, width=width).to(device, pipeline.vae.dtype)
    packed, _ = pipeline.prepare_latents(
        pixels, 1, channels, height, width, frames, torch.float32, device, generator=generator
    )
    pixels_to_row = pipeline.vae_spatial_compression_ratio
    rows, columns = height // pixels_to_row, width // pixels_to_row
    return {FIRST_FRAME: rearrange(packed[:, : rows * columns], "b (h w) c -> b c 1 h w", h=rows)}


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


FAMILY = Family(
    name="ltx",
    transformer=LTXVideoTransformer3DModel,
    conditioning=CONDITIONING,
    optional=OPTIONAL,
    call_names={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
    time_by_token=True,
    for_pipeline=as_in,
    example=example,
    inputs=inputs,
    input_dtype=ltx_parts.input_dtype,
    velocity=ltx_parts.velocity,
    grid=ltx_parts.grid,
    decode=ltx_parts.decode,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    schedule_arguments=ltx_parts.schedule_arguments,
    given_frames=clean_first_frames,
    encode_prompt=encode_prompt,
    encode_image=encode_image,
)
