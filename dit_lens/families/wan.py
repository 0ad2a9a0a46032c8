"""Wan 2.1 and 2.2, text- and image-to-video: how `WanTransformer3DModel` spells the vocabulary.

`wan_blocks.py` has its blocks. What the models are told beside latent, time and text:

- Image-to-video (36 input channels) is fed a `condition` beside the latent, on its channels: a mask (which frames are
  given) and the latent of the given frames followed by grey ones. Wan 2.1 is told of the image in
  `encoder_hidden_states_image` as well, for a cross-attention of its own.
- Wan 2.2 TI2V-5B is told a time for every token. A `first_frame` is fed clean in the place of the latent's own, and
  its tokens are told time 0.
- Wan 2.2 A14B has two transformers of which the pipeline's `boundary_ratio` chooses (see `running.experts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.given as given
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import ROOT, VELOCITY, check_text_encoders, clean_estimate, for_clips, patches
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.given import FIRST, beginning_with, by_token
from dit_lens.families.parts import Part, argument, item, point, section
from dit_lens.families.wan_blocks import Block, absent
from dit_lens.hook_points import HookPoint, Site, Table

NAME = "wan"
TRANSFORMER = WanTransformer3DModel
TEXT, IMAGE, CONDITION = "encoder_hidden_states", "encoder_hidden_states_image", "condition"
CONDITIONING: tuple[str, ...] = (TEXT, FIRST)
OPTIONAL = (FIRST,)
CALL = {TEXT: "prompt_embeds", IMAGE: "image_embeds"}  # what pipelines call it
TEXT_TOKENS = 512  # where image tokens are told before text, its attention counts on so many of text
IMAGE_TOKENS = 5  # of a made up image; CLIP has 257

to_timestep, to_sigma, velocity = conventions.to_timestep, conventions.to_sigma, conventions.velocity
encode, decode, given_frames = conventions.encode, conventions.decode, given.given_frames


def of(transformer: WanTransformer3DModel) -> ModuleType:
    """The family as one transformer has it: they differ in what they are told."""
    own, (told, optional) = ModuleType(__name__, __doc__), told_of(transformer)
    vars(own).update(globals(), CONDITIONING=told, OPTIONAL=optional)
    return own


def told_of(transformer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a transformer is told, and what of it is optional."""
    if not _condition_channels(transformer):
        return CONDITIONING, OPTIONAL
    return ((TEXT, IMAGE, CONDITION) if transformer.config["image_dim"] else (TEXT, CONDITION)), ()


def _condition_channels(transformer: Any) -> int:
    """How many channels beside the latent's own the transformer is fed."""
    return transformer.config["in_channels"] - _latent_channels(transformer)


def _latent_channels(transformer: Any) -> int:
    return transformer.config["out_channels"] or transformer.config["in_channels"]


def example(transformer: Any, generator: torch.Generator, frames: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, frames, 4, 4 patches) and conditioning, to verify a model with."""
    (p, q, r), config, beside = transformer.config["patch_size"], transformer.config, _condition_channels(transformer)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    tokens = TEXT_TOKENS if config["added_kv_proj_dim"] else 3
    told, size = {TEXT: random(tokens, config["text_dim"])}, (frames * p, 4 * q, 4 * r)
    if beside:
        told[CONDITION] = random(beside, *size)
    if config["image_dim"]:
        told[IMAGE] = random(config["pos_embed_seq_len"] or IMAGE_TOKENS, config["image_dim"])
    return random(_latent_channels(transformer), *size), told


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
        ValueError: conditioning is missing, or text of another length beside an image than the model counts on.
    """
    names, optional = told_of(transformer)
    told = for_clips(conditioning, names, len(latent), optional)
    first, tokens = told.get(FIRST), patches(latent.shape[2:], transformer.config["patch_size"])
    return fed(transformer, beginning_with(first, latent), told) | {"timestep": by_token(timestep, tokens, first)}


def fed(transformer: Any, latent: Float[Tensor, "b c f h w"], told: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments but for time, of conditioning for as many clips.

    Raises:
        ValueError: text of another length beside an image than the model counts on.
    """
    config, text = transformer.config, told[TEXT]
    if config["added_kv_proj_dim"] and text.shape[1] != TEXT_TOKENS:
        raise ValueError(
            f"got {text.shape[1]} text tokens beside an image · expected {TEXT_TOKENS}, which the model counts on"
            " · fill up with zeros, as the pipeline does"
        )
    image = told.get(IMAGE)
    if image is not None and config["pos_embed_seq_len"]:  # first and last frame, which it takes as clips of their own
        image = rearrange(image, "b (i m) d -> (b i) m d", i=2)
    return {
        "hidden_states": torch.cat([latent, told[CONDITION]], 1) if CONDITION in told else latent,
        TEXT: text,
        **({} if image is None else {IMAGE: image}),
        "return_dict": False,
    }


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a Wan whose extra parts would be left out without a word."""
    experts = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]
    if experts[1] is not None and boundary(pipeline) is None:
        raise TypeError(
            "got two experts and no boundary · expected one transformer, or boundary_ratio in the pipeline's config"
        )
    latents = pipeline.vae.config["z_dim"]
    image_channels = 2 * latents + pipeline.vae_scale_factor_temporal
    fed = [transformer.config["in_channels"] for transformer in experts if transformer is not None]
    for channels in fed:
        if channels not in (latents, image_channels):
            raise TypeError(
                f"got a transformer of {channels} input channels over latents of {latents}"
                f" · expected {latents} (text-to-video) or {image_channels} (image-to-video) · it is not handled yet"
            )


def boundary(pipeline: Any) -> float | None:
    """The noise level from which on the first of two experts is called; None without experts."""
    return pipeline.config.get("boundary_ratio")


def by_frame(pipeline: Any) -> bool:
    """Whether the pipeline tells a time for every token (Wan 2.2 TI2V-5B)."""
    return bool(pipeline.config.get("expand_timesteps"))


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The embedding (1, 512, text_dim) that the pipeline's `__call__` feeds for a prompt by default.

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
    """What `WanImageToVideoPipeline` tells of a first frame, beside the text.

    Args:
        image: as that pipeline takes it, a PIL image or a tensor (1, 3, H, W) in [0, 1].
        size: frames, height and width of the video.
        last: the last frame likewise, for models of both.
        image_embeds: image tokens (1, m, image_dim) in the place of the pipeline's image encoder, for Wan 2.1.

    Raises:
        ValueError: a Wan 2.1 without image encoder, and no tokens given.
    """
    frames, height, width = size
    device, images = pipeline._execution_device, [image] if last is None else [image, last]
    pixels = [
        pipeline.video_processor.preprocess(each, height=height, width=width).to(device, torch.float32)
        for each in images
    ]
    # The latents to start from are not asked for: given some, it draws none.
    made = pipeline.prepare_latents(
        pixels[0], 1, pipeline.vae.config.z_dim, height, width, frames, torch.float32, device,
        latents=torch.zeros(1), last_image=None if last is None else pixels[1],
    )  # fmt: skip
    if by_frame(pipeline):
        return {FIRST: made[1]}
    present = pipeline.transformer_2 if pipeline.transformer is None else pipeline.transformer
    if not present.config["image_dim"]:
        return {CONDITION: made[1]}
    if image_embeds is None and pipeline.image_encoder is None:
        raise ValueError("got a pipeline without image encoder · expected one, or image_embeds= (1, m, image_dim)")
    tokens: Any = pipeline.encode_image(images) if image_embeds is None else image_embeds
    return {CONDITION: made[1], IMAGE: rearrange(tokens, "i m d -> 1 (i m) d")}


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype latents are fed in; some parameters stay float32 in a bfloat16 model, the patch embedding does not."""
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
    """Shift and scale before the last projection, (b, d) or (b, n, d)."""
    embedded = embedded.type_as(root[1][TEXT])  # as the model has it
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
