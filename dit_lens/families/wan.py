"""Wan 2.1 and 2.2, text- and image-to-video: the hook points of `WanTransformer3DModel`.

`wan_blocks.py` has its blocks. Some models take more conditioning than text:

- Image-to-video models (36 input channels) concatenate a `condition` to the channels of the latent: a mask of the
  conditioning frames, and the latent of these frames followed by grey ones. Wan 2.1 also takes image tokens in
  `encoder_hidden_states_image`, for a cross-attention of their own.
- Wan 2.2 TI2V-5B takes one timestep per token. A clean `first_frame` replaces that of the latent, and its tokens get
  timestep 0.
- Wan 2.2 A14B has two transformers, and the pipeline's `boundary_ratio` selects one at each noise level (see
  `running.model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import ROOT, VELOCITY, check_text_encoders, clean_estimate, for_clips, patches
from dit_lens.families.family import Family
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.first_frames import FIRST_FRAME, clean_first_frames, timestep_by_token, with_first_frames
from dit_lens.families.parts import Part, argument, item, point, section
from dit_lens.families.wan_blocks import Block, absent
from dit_lens.hook_points import HookPoint, Site, Table

TEXT, IMAGE, CONDITION = "encoder_hidden_states", "encoder_hidden_states_image", "condition"
CONDITIONING: tuple[str, ...] = (TEXT, FIRST_FRAME)
OPTIONAL = (FIRST_FRAME,)
CALL = {TEXT: "prompt_embeds", IMAGE: "image_embeds"}  # their names as arguments of pipelines
TEXT_TOKENS = 512  # the number of text tokens that the model expects after image tokens
IMAGE_TOKENS = 5  # of the random image in `example`; CLIP has 257


def as_in(family: Family, transformer: WanTransformer3DModel) -> Family:
    """The family with the conditioning of one transformer."""
    conditioning, optional = conditioning_of(transformer)
    return replace(family, conditioning=conditioning, optional=optional)


def conditioning_of(transformer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a transformer's conditioning, and those that are optional."""
    if not _condition_channels(transformer):
        return CONDITIONING, OPTIONAL
    return ((TEXT, IMAGE, CONDITION) if transformer.config["image_dim"] else (TEXT, CONDITION)), ()


def _condition_channels(transformer: Any) -> int:
    """The number of the transformer's input channels in addition to those of the latent."""
    return transformer.config["in_channels"] - _latent_channels(transformer)


def _latent_channels(transformer: Any) -> int:
    return transformer.config["out_channels"] or transformer.config["in_channels"]


def example(transformer: Any, generator: torch.Generator, frames: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, frames, 4, 4 patches) and conditioning, to verify a model with."""
    (p, q, r), config = transformer.config["patch_size"], transformer.config
    condition_channels = _condition_channels(transformer)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    tokens = TEXT_TOKENS if config["added_kv_proj_dim"] else 3
    conditioning, size = {TEXT: random(tokens, config["text_dim"])}, (frames * p, 4 * q, 4 * r)
    if condition_channels:
        conditioning[CONDITION] = random(condition_channels, *size)
    if config["image_dim"]:
        conditioning[IMAGE] = random(config["pos_embed_seq_len"] or IMAGE_TOKENS, config["image_dim"])
    return random(_latent_channels(transformer), *size), conditioning


def inputs(
    transformer: WanTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Args:
        timestep: one for a clip, or one for each of its latent frames or tokens.

    Raises:
        ValueError: conditioning is missing, or with image tokens, text of another length than the model expects.
    """
    names, optional = conditioning_of(transformer)
    tensors = for_clips(conditioning, names, len(latent), optional)
    first_frames, tokens = tensors.get(FIRST_FRAME), patches(latent.shape[2:], transformer.config["patch_size"])
    return call_arguments(transformer, with_first_frames(latent, first_frames), tensors) | {
        "timestep": timestep_by_token(timestep, tokens, first_frames)
    }


def call_arguments(
    transformer: Any, latent: Float[Tensor, "b c f h w"], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The transformer's keyword arguments except the timestep, from conditioning of the same number of clips.

    Raises:
        ValueError: with image tokens, text of another length than the model expects.
    """
    config, text = transformer.config, tensors[TEXT]
    if config["added_kv_proj_dim"] and text.shape[1] != TEXT_TOKENS:
        raise ValueError(
            f"got {text.shape[1]} text tokens beside an image · expected {TEXT_TOKENS}, which the model counts on"
            " · fill up with zeros, as the pipeline does"
        )
    image = tensors.get(IMAGE)
    if image is not None and config["pos_embed_seq_len"]:  # first and last frame, on the batch axis
        image = rearrange(image, "b (i m) d -> (b i) m d", i=2)
    return {
        "hidden_states": torch.cat([latent, tensors[CONDITION]], 1) if CONDITION in tensors else latent,
        TEXT: text,
        **({} if image is None else {IMAGE: image}),
        "return_dict": False,
    }


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a Wan pipeline with parts that would be ignored silently."""
    experts = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]
    if experts[1] is not None and boundary(pipeline) is None:
        raise TypeError(
            "got two experts and no boundary · expected one transformer, or boundary_ratio in the pipeline's config"
        )
    if pipeline.vae is None:
        return
    latents = pipeline.vae.config["z_dim"]
    image_channels = 2 * latents + pipeline.vae_scale_factor_temporal
    for channels in (transformer.config["in_channels"] for transformer in experts if transformer is not None):
        if channels not in (latents, image_channels):
            raise TypeError(
                f"got a transformer of {channels} input channels over latents of {latents}"
                f" · expected {latents} (text-to-video) or {image_channels} (image-to-video) · it is not handled yet"
            )


def boundary(pipeline: Any) -> float | None:
    """The lowest noise level at which the high-noise expert (`transformer`) is called; None without experts.

    Wan 2.2 T2V-A14B has boundary_ratio 0.875: at noise levels 1.0, 0.9 and 0.875 `transformer` is called, at 0.874 and
    below `transformer_2`.
    """
    return pipeline.config.get("boundary_ratio")


def by_frame(pipeline: Any) -> bool:
    """Whether the pipeline uses one timestep per token (Wan 2.2 TI2V-5B)."""
    return bool(pipeline.config.get("expand_timesteps"))


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The prompt embedding (1, 512, text_dim) of the pipeline's `__call__`, with its default arguments.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, (TEXT,))
    embedding, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    return Conditioning({TEXT: embedding}, prompt)


@torch.no_grad()
def encode_image(
    pipeline: Any, image: Any, size: tuple[int, int, int], last: Any = None, image_embeds: Tensor | None = None
) -> dict[str, Tensor]:
    """The first-frame conditioning of `WanImageToVideoPipeline`.

    Args:
        image: as that pipeline takes it, a PIL image or a tensor (1, 3, H, W) in [0, 1].
        size: frames, height and width of the video.
        last: the last frame likewise, for models that take both.
        image_embeds: image tokens (1, m, image_dim) instead of those of the pipeline's image encoder, for Wan 2.1.

    Raises:
        ValueError: a Wan 2.1 without image encoder, and no tokens given.
    """
    frames, height, width = size
    device, images = pipeline._execution_device, [image] if last is None else [image, last]
    pixels = [
        pipeline.video_processor.preprocess(frame, height=height, width=width).to(device, torch.float32)
        for frame in images
    ]
    # Only the condition is needed. With `latents` given, the method draws no noise.
    _, condition, *_ = pipeline.prepare_latents(
        pixels[0], 1, pipeline.vae.config.z_dim, height, width, frames, torch.float32, device,
        latents=torch.zeros(1), last_image=None if last is None else pixels[1],
    )  # fmt: skip
    if by_frame(pipeline):
        return {FIRST_FRAME: condition}
    present = pipeline.transformer_2 if pipeline.transformer is None else pipeline.transformer
    if not present.config["image_dim"]:
        return {CONDITION: condition}
    if image_embeds is None and pipeline.image_encoder is None:
        raise ValueError("got a pipeline without image encoder · expected one, or image_embeds= (1, m, image_dim)")
    tokens: Any = pipeline.encode_image(images) if image_embeds is None else image_embeds
    return {CONDITION: condition, IMAGE: rearrange(tokens, "i m d -> 1 (i m) d")}


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype of input latents: that of the patch embedding, as other parameters stay float32 in bfloat16."""
    return transformer.patch_embedding.weight.dtype


def grid(transformer: Any, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    return patches(inputs["hidden_states"].shape[2:], transformer.config["patch_size"])


def hook_table(transformer: WanTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    return spelled(transformer, rows=-2)


def spelled(transformer: Any, rows: int) -> Table:
    """The hook points of a transformer built like Wan's.

    Args:
        rows: see `wan_blocks.Block`.
    """
    embed, time = Site("patch_embedding", "output"), Site("condition_embedder.time_embedder", "output")
    latent = section(0, _latent_channels(transformer), argument("hidden_states"), axis=1)
    points = [
        point("hook_latent", "b c f h w", ROOT, latent if _condition_channels(transformer) else LATENT),
        point("hook_embed", "b n d", embed, EMBEDDED),
        point("hook_time_embed", "b d", time),
    ]
    sites, laws, paths = [ROOT, embed, time], [], []
    for index, module in enumerate(transformer.blocks):
        block = Block(f"blocks.{index}", module, rows)
        named = block.sites()
        sites += named.values()
        points += block.points(named)
        laws += block.laws(named)
        paths.append(block.path)
    points += [point("hook_velocity", "b c f h w", VELOCITY, item(0)), _clean_estimate(transformer)]
    table = Table(
        (*sites, VELOCITY), {point.name: point for point in points}, tuple(paths), absent(transformer), laws=tuple(laws)
    )
    last = final("p q r c", transformer.config["patch_size"], ("norm_out",))
    return with_final(table, last, (ROOT, time), partial(_final_modulation, transformer))


def _final_modulation(transformer: Any, root: tuple, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale before the final projection, (b, d) or (b, n, d)."""
    embedded = embedded.type_as(root[1][TEXT])  # the model's own cast
    if embedded.ndim == 3 and embedded.shape[1] != (tokens := grid(transformer, root[1])).tokens:
        embedded = repeat(embedded, "b f d -> b (f n) d", n=tokens.rows * tokens.columns)
    shift, scale = transformer.scale_shift_table[0]
    return shift + embedded, scale + embedded


LATENT = argument("hidden_states")
EMBEDDED = Part(
    lambda raw: rearrange(raw, "b d f h w -> b (f h w) d"),
    lambda new, raw: rearrange(new, "b (f h w) d -> b d f h w", f=raw.shape[2], h=raw.shape[3]),
)


def _clean_estimate(transformer: Any) -> HookPoint:
    latent = section(0, _latent_channels(transformer), conventions.LATENT, axis=1)
    return clean_estimate(partial(grid, transformer), latent)


FAMILY = Family(
    name="wan",
    transformer=WanTransformer3DModel,
    conditioning=CONDITIONING,
    optional=OPTIONAL,
    call_names=CALL,
    contexts=("cond", "uncond"),  # the calls of a step in `WanVideoToVideoPipeline`, which sets no cache_context
    time_by_token=True,
    for_transformer=as_in,
    example=example,
    inputs=inputs,
    input_dtype=input_dtype,
    grid=grid,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    boundary=boundary,
    by_frame=by_frame,
    given_frames=clean_first_frames,
    encode_prompt=encode_prompt,
    encode_image=encode_image,
)
