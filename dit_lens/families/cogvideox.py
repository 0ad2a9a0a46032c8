"""CogVideoX, text- and image-to-video: the hook points of `CogVideoXTransformer3DModel`.

Text and video are two streams that meet in one attention and one MLP, over the sequence [text, video]. The local
variables `hidden_states_{0,1}` and `encoder_hidden_states_{0,1}` of `CogVideoXBlock.forward` are the streams after
attention and MLP. All writes are in the model's own dtype: stream + write equals the next stream, to the bit.
The keys of `hook_pattern` are in the order of all families, video before text.

The model predicts v under variance-preserving noise. Its levels are those of `CogVideoXDDIMScheduler` with zero
terminal signal, at snr_shift_scale 3 for models without rotary (2B) and 1 for those with it (5B, 1.5), as in
their published schedulers; `check_pipeline` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.schedulers import CogVideoXDDIMScheduler
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.cogvideox_blocks as blocks
import dit_lens.families.conventions as conventions
from dit_lens.axes import TokenGrid
from dit_lens.families.conventions import LATENT, ROOT, VELOCITY, for_clips, patches
from dit_lens.families.embedding import embedded_by_frame
from dit_lens.families.family import Family
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.levels import Levels
from dit_lens.families.parts import Part, item, point, section
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = ("encoder_hidden_states",)
IMAGE = "image_latents"
OFS = 2.0  # the constant `ofs` argument of CogVideoX 1.5 image-to-video


def as_in(family: Family, transformer: CogVideoXTransformer3DModel) -> Family:
    """The family with the noise levels and conditioning of one transformer, which differ between the models."""
    levels = _levels(transformer)
    return replace(
        family,
        conditioning=(*CONDITIONING, IMAGE) if _image_conditioned(transformer) else CONDITIONING,
        to_timestep=levels.to_timestep,
        to_sigma=levels.to_sigma,
        noise_levels=levels.noise_levels,
        as_fed=levels.as_fed,
        velocity=partial(velocity, levels=levels),
    )


def _levels(transformer: CogVideoXTransformer3DModel) -> Levels:
    shift = 1.0 if transformer.config["use_rotary_positional_embeddings"] else 3.0
    return Levels.of(
        CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=shift)
    )


def _image_conditioned(transformer: CogVideoXTransformer3DModel) -> bool:
    return transformer.config["in_channels"] == 2 * transformer.config["out_channels"]


def example(transformer: CogVideoXTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning, to verify a model with.

    Learned positions need the model's own height and width; models without rotary need its number of text tokens.
    """
    config, tokens = transformer.config, 3
    patch, frames = config["patch_size"], config["patch_size_t"] or 1
    size, frames = (4 * patch, 4 * patch), 2 * frames
    if config["use_learned_positional_embeddings"]:
        size = config["sample_height"], config["sample_width"]
    if config["use_learned_positional_embeddings"] or not config["use_rotary_positional_embeddings"]:
        tokens = config["max_text_seq_length"]
    shape = (1, config["out_channels"], frames, *size)
    conditioning = {"encoder_hidden_states": torch.randn(1, tokens, config["text_embed_dim"], generator=generator)}
    if _image_conditioned(transformer):
        conditioning[IMAGE] = torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator), conditioning


def inputs(
    transformer: CogVideoXTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Raises:
        ValueError: no image latents for an image-to-video model, or frames that do not fill whole patches.
    """
    config, (clips, frames) = transformer.config, (len(latent), latent.shape[2])
    if frames % (config["patch_size_t"] or 1):
        raise ValueError(
            f"got latents of {frames} frames · expected a multiple of {config['patch_size_t']}"
            " · the stock pipeline puts more frames of noise in front and drops them before it decodes"
        )
    tensors = for_clips(conditioning, (*CONDITIONING, IMAGE), clips, (IMAGE,))
    if _image_conditioned(transformer):
        if IMAGE not in tensors:
            raise ValueError("got no image_latents · expected those of the first frame, see encode_image")
        latent = torch.cat([latent, tensors[IMAGE]], 1)
    rotary = config["use_rotary_positional_embeddings"]
    return {
        "hidden_states": rearrange(latent, "b c f h w -> b f c h w"),
        "timestep": timestep,
        "encoder_hidden_states": tensors["encoder_hidden_states"],
        "image_rotary_emb": _rotary(transformer, latent) if rotary else None,
        "ofs": latent.new_full((clips,), OFS) if config["ofs_embed_dim"] else None,
        "return_dict": False,
    }


def _rotary(transformer: CogVideoXTransformer3DModel, latent: Float[Tensor, "b c f h w"]) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, e) of the stock pipeline, which counts in pixels: factor 1 makes it count in latents."""
    from diffusers import CogVideoXPipeline  # imports the text encoder's code, so only where it is needed

    pipeline: Any = SimpleNamespace(transformer=transformer, vae_scale_factor_spatial=1)
    frames, height, width = latent.shape[2:]
    return CogVideoXPipeline._prepare_rotary_positional_embeddings(pipeline, height, width, frames, latent.device)


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError where the pipeline's scheduler has other noise levels than the model was trained on."""
    _levels(pipeline.transformer).check(pipeline.scheduler)


def velocity(inputs: Mapping[str, Any], output: tuple, levels: Levels) -> Float[Tensor, "b c f h w"]:
    """The output as noise - data, in float32."""
    root, out = ((), inputs), PREDICTION.get(output)
    return levels.velocity(_latent(out.shape[1]).get(root), out, inputs["timestep"])


def grid(transformer: CogVideoXTransformer3DModel, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    frames, _, height, width = inputs["hidden_states"].shape[1:]
    return patches((frames, height, width), conventions.patch(transformer))


def encode_image(vae: Any, image: Float[Tensor, "b 3 H W"], frames: int) -> Float[Tensor, "b c f h w"]:
    """The image latents of an image-to-video model, of so many frames: the first frame's latent, then zeros."""
    scale = vae.config.scaling_factor
    # CogVideoX 1.5 was trained on image latents divided by the scale, and the stock pipeline divides too.
    scale = 1 / scale if vae.config.invert_scale_latents else scale
    first = scale * vae.encode(image.to(vae.device, vae.dtype).unsqueeze(2)).latent_dist.mode().float()
    return torch.cat([first, first.new_zeros(first.shape).repeat(1, 1, frames - 1, 1, 1)], 2)


def _frames_first(inside: Part) -> Part:
    """A part as (b c f h w) that the model holds as (b f c h w)."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b f c h w -> b c f h w"),
        lambda new, raw: inside.put(rearrange(new, "b c f h w -> b f c h w"), raw),
    )


def _latent(stop: int, start: int = 0) -> Part:
    """Channels `start:stop` of the model's input: first the noisy latent, then the image latents."""
    return _frames_first(section(start, stop, LATENT, axis=2))


PREDICTION = _frames_first(item(0))
POSITIONS = Site("patch_embed", "local", "pos_embedding_2")  # in the dtype in which they are added


def _positions(transformer: Any) -> HookPoint:
    """`hook_pos_embed`: the position embedding added to each token's patch embedding, the same for every clip."""

    def read(root: tuple, raw: Tensor) -> Tensor:
        return raw[:, -grid(transformer, root[1]).tokens :].expand(len(LATENT.get(root)), -1, -1)

    def write(new: Tensor, old: Tensor, root: tuple, raw: Tensor) -> Tensor:
        text = raw[:, : -new.shape[1]].expand(len(new), -1, -1)
        return torch.cat([text, new], 1)

    return HookPoint("hook_pos_embed", "b n d", (ROOT, POSITIONS), read, write)


def hook_table(transformer: CogVideoXTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    config = transformer.config
    channels, rotary = config["out_channels"], config["use_rotary_positional_embeddings"]
    time, embed = Site("time_embedding", "output"), Site("patch_embed.proj", "output")
    points = [
        point("hook_latent", "b c f h w", ROOT, _latent(channels)),
        point("hook_time_embed", "b d", time),
        embedded_by_frame(embed) if config["patch_size_t"] is None else point("hook_embed", "b n d", embed),
    ]
    absent, sites = dict(blocks.ABSENT), [ROOT, time, embed]
    if transformer.patch_embed.use_positional_embeddings or transformer.patch_embed.use_learned_positional_embeddings:
        points.append(_positions(transformer))
        sites.append(POSITIONS)
    else:
        absent["hook_pos_embed"] = "no positions are added to the embedding: rotary alone"
    if _image_conditioned(transformer):
        points.insert(1, point("hook_image_latent", "b c f h w", ROOT, _latent(config["in_channels"], channels)))
    else:
        absent["hook_image_latent"] = "a text-to-video model is fed no image"
    if not rotary:
        absent["blocks.*.attn.hook_rot_*"] = "positions are added to the embedding, no rotary: see hook_q and hook_k"
    spelled = [
        blocks.spelled(f"blocks.{i}", f"transformer_blocks.{i}", block, rotary)
        for i, block in enumerate(transformer.transformer_blocks)
    ]
    points += [point for block in spelled for point in block.points]
    points += _levels(transformer).points(_latent(channels), PREDICTION)
    table = Table(
        (*sites, *(site for block in spelled for site in block.sites), VELOCITY),
        {point.name: point for point in points},
        tuple(f"transformer_blocks.{i}" for i in range(len(spelled))),
        absent,
        streams=("hook_resid_pre", "text.hook_resid_pre"),
        laws=tuple(law for block in spelled for law in block.laws),
    )
    patch, norms = conventions.patch(transformer), ("norm_final", "norm_out.norm")
    modulation = (Site("norm_out.linear", "output"),)
    return with_final(table, final("c p q r", patch, norms), modulation, lambda raw: raw.chunk(2, -1))


# CogVideoX was hardly trained on the empty prompt; a neutral one ("a video of an object") is said to serve better.
FAMILY = Family(
    name="cogvideox",
    transformer=CogVideoXTransformer3DModel,
    conditioning=CONDITIONING,
    frames_first=True,
    for_transformer=as_in,
    example=example,
    inputs=inputs,
    grid=grid,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    encode_image=encode_image,
)
