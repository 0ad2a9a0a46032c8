"""CogVideoX, text- and image-to-video: how `CogVideoXTransformer3DModel` spells the vocabulary.

Text and video are two streams that meet in one attention and one MLP, over the sequence [text, video]. The local
variables `hidden_states_{0,1}` and `encoder_hidden_states_{0,1}` of `CogVideoXBlock.forward` are the streams after
attention and MLP. All writes are in the model's own arithmetic: stream + write is the next stream, to the bit.
The keys of `hook_pattern` are put in the order of all families, video before text.

The model predicts v under variance-preserving noise. Its levels are those of `CogVideoXDDIMScheduler` with zero
terminal signal, at snr_shift_scale 3 for models without rotary (2B) and 1 for those with it (5B, 1.5), as their
published schedulers have it; `check_pipeline` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType, SimpleNamespace
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
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.levels import Levels
from dit_lens.families.parts import Part, item, point, section
from dit_lens.hook_points import Site, Table

NAME = "cogvideox"
TRANSFORMER = CogVideoXTransformer3DModel
CONDITIONING = ("encoder_hidden_states",)
IMAGE = "image_latents"
OFS = 2.0  # what CogVideoX 1.5 image-to-video is fed at all times

# CogVideoX was hardly trained on the empty prompt; a neutral one ("a video of an object") is told to serve better.
encode_prompt, input_dtype = conventions.encode_prompt, conventions.input_dtype
encode, decode = conventions.encode, conventions.decode


def of(transformer: CogVideoXTransformer3DModel) -> ModuleType:
    """The family as one transformer has it: noise levels and conditioning differ between the models."""
    levels, own = _levels(transformer), ModuleType(__name__, __doc__)
    vars(own).update(
        globals(),
        CONDITIONING=(*CONDITIONING, IMAGE) if _image_conditioned(transformer) else CONDITIONING,
        to_timestep=levels.to_timestep,
        to_sigma=levels.to_sigma,
        noise_levels=levels.noise_levels,
        as_fed=levels.as_fed,
        velocity=partial(velocity, levels=levels),
    )
    return own


def _levels(transformer: CogVideoXTransformer3DModel) -> Levels:
    shift = 1.0 if transformer.config["use_rotary_positional_embeddings"] else 3.0
    return Levels.of(
        CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=shift)
    )


def _image_conditioned(transformer: CogVideoXTransformer3DModel) -> bool:
    return transformer.config["in_channels"] == 2 * transformer.config["out_channels"]


def example(transformer: CogVideoXTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning, to verify a model with.

    Learned positions are bound to the model's own height and width, those without rotary to its number of text tokens.
    """
    config, tokens = transformer.config, 3
    patch, frames = config["patch_size"], config["patch_size_t"] or 1
    size, frames = (4 * patch, 4 * patch), 2 * frames
    if config["use_learned_positional_embeddings"]:
        size = config["sample_height"], config["sample_width"]
    if config["use_learned_positional_embeddings"] or not config["use_rotary_positional_embeddings"]:
        tokens = config["max_text_seq_length"]
    shape = (1, config["out_channels"], frames, *size)
    told = {"encoder_hidden_states": torch.randn(1, tokens, config["text_embed_dim"], generator=generator)}
    if _image_conditioned(transformer):
        told[IMAGE] = torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator), told


def inputs(
    transformer: CogVideoXTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Raises:
        ValueError: no image latents for an image-to-video model, or frames that make no whole patches.
    """
    config, (clips, frames) = transformer.config, (len(latent), latent.shape[2])
    if frames % (config["patch_size_t"] or 1):
        raise ValueError(
            f"got latents of {frames} frames · expected a multiple of {config['patch_size_t']}"
            " · the stock pipeline puts more frames of noise in front and drops them before it decodes"
        )
    told = for_clips(conditioning, (*CONDITIONING, IMAGE), clips, (IMAGE,))
    if _image_conditioned(transformer):
        if IMAGE not in told:
            raise ValueError("got no image_latents · expected those of the first frame, see encode_image")
        latent = torch.cat([latent, told[IMAGE]], 1)
    rotary = config["use_rotary_positional_embeddings"]
    return {
        "hidden_states": rearrange(latent, "b c f h w -> b f c h w"),
        "timestep": timestep,
        "encoder_hidden_states": told["encoder_hidden_states"],
        "image_rotary_emb": _rotary(transformer, latent) if rotary else None,
        "ofs": latent.new_full((clips,), OFS) if config["ofs_embed_dim"] else None,
        "return_dict": False,
    }


def _rotary(transformer: CogVideoXTransformer3DModel, latent: Float[Tensor, "b c f h w"]) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, e) as the stock pipeline makes them; it counts in pixels, so a latent is its own here."""
    from diffusers import CogVideoXPipeline  # brings the text encoder's code along: only where it is needed

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
    """What an image-to-video model is fed beside a latent of so many frames: the first frame's latent, then zeros."""
    scale = vae.config.scaling_factor
    # CogVideoX 1.5 was trained on images divided by it; the stock pipeline does the same.
    scale = 1 / scale if vae.config.invert_scale_latents else scale
    first = scale * vae.encode(image.to(vae.device, vae.dtype).unsqueeze(2)).latent_dist.mode().float()
    return torch.cat([first, first.new_zeros(first.shape).repeat(1, 1, frames - 1, 1, 1)], 2)


def _frames_first(inside: Part) -> Part:
    """A latent (b c f h w) where the model has (b f c h w)."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b f c h w -> b c f h w"),
        lambda new, raw: inside.put(rearrange(new, "b c f h w -> b f c h w"), raw),
    )


def _latent(behind: int, first: int = 0) -> Part:
    """Some channels of what the model is fed: the noisy latent, then the image's."""
    return _frames_first(section(first, behind, LATENT, axis=2))


PREDICTION = _frames_first(item(0))


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
    absent = dict(blocks.ABSENT)
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
        (ROOT, time, embed, *(site for block in spelled for site in block.sites), VELOCITY),
        {point.name: point for point in points},
        tuple(f"transformer_blocks.{i}" for i in range(len(spelled))),
        absent,
        streams=("hook_resid_pre", "text.hook_resid_pre"),
        laws=tuple(law for block in spelled for law in block.laws),
    )
    patch, norms = conventions.patch(transformer), ("norm_final", "norm_out.norm")
    told = (Site("norm_out.linear", "output"),)
    return with_final(table, final("c p q r", patch, norms), told, lambda raw: raw.chunk(2, -1))
