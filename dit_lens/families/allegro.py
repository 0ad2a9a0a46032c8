"""Allegro text-to-video: the hook points of `AllegroTransformer3DModel`, which predicts noise at unit variance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AllegroTransformer3DModel
from diffusers.schedulers import DDIMScheduler
from einops import rearrange
from torch import Tensor

import dit_lens.families.conventions as conventions
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import LATENT, ROOT, VELOCITY, check_text_encoders, denormalised, for_clips
from dit_lens.families.embedding import embedded_by_frame
from dit_lens.families.family import Family
from dit_lens.families.final_layer import by_table
from dit_lens.families.levels import Levels
from dit_lens.families.parts import item, point
from dit_lens.families.single_stream import ABSENT, Block
from dit_lens.hook_points import Site, Table

CONDITIONING = ("encoder_hidden_states", "encoder_attention_mask")
LEVELS = Levels.of(DDIMScheduler())  # betas linear from 0.0001 to 0.02, the defaults of the pipeline's scheduler too
AFTER = ("hidden_states_0", "hidden_states_2", "hidden_states_3")


def example(transformer: AllegroTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and text conditioning whose last token is masked."""
    shape = 1, transformer.config["in_channels"], 2, *2 * [4 * transformer.config["patch_size"]]
    text = torch.randn(1, 3, transformer.config["caption_channels"], generator=generator)
    return torch.randn(shape, generator=generator), {CONDITIONING[0]: text, CONDITIONING[1]: torch.tensor([[1, 1, 0]])}


def inputs(transformer: Any, latent: Tensor, timestep: Tensor, conditioning: Any) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation of a latent, with the rotary of the pipeline."""
    from diffusers import AllegroPipeline  # imports the text encoder's code, so only where it is needed

    stub: Any = SimpleNamespace(transformer=transformer, vae_scale_factor_spatial=1)
    clips, _, frames, height, width = latent.shape
    rotary = AllegroPipeline._prepare_rotary_positional_embeddings(stub, clips, height, width, frames, latent.device)
    text, mask = for_clips(conditioning, CONDITIONING, clips).values()
    return {
        "hidden_states": latent,
        "timestep": timestep,
        "encoder_hidden_states": text.unsqueeze(1),
        "encoder_attention_mask": mask,
        "image_rotary_emb": rotary,
        "return_dict": False,
    }


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError where the pipeline's scheduler has other noise levels than the model was trained on."""
    LEVELS.check(pipeline.scheduler)


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The pipeline's prompt embedding (1, 512, caption_channels) and mask (1, 512), with its default arguments."""
    check_text_encoders(pipeline, CONDITIONING)
    text, mask, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, clean_caption=True)
    return Conditioning({CONDITIONING[0]: text, CONDITIONING[1]: mask}, prompt)


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype of input latents."""
    return transformer.pos_embed.proj.weight.dtype


def velocity(inputs: Any, output: tuple) -> Tensor:
    """The output as noise - data (b, c, f, h, w), in float32."""
    return LEVELS.velocity(inputs["hidden_states"], output[0], inputs["timestep"])


def encode(vae: Any, video: Tensor) -> Tensor:
    """The normalised latent (b, c, f, h, w), clip by clip: the tiled autoencoder takes one clip at a time."""
    vae.enable_tiling()
    return torch.cat([conventions.encode(vae, clip) for clip in video.split(1)])


def decode(vae: Any, latent: Tensor) -> Tensor:
    """The video (b, 3, F, H, W) in about [-1, 1], clip by clip."""
    vae.enable_tiling()
    frames = torch.cat([vae.decode(clip).sample.float() for clip in denormalised(vae, latent).split(1)])
    return rearrange(frames, "b f c h w -> b c f h w")


def hook_table(transformer: Any) -> Table:
    """Every hook point of this transformer."""
    time, embed = Site("adaln_single.emb", "output"), Site("pos_embed.proj", "output")
    paths = conventions.block_paths(transformer)
    blocks = [Block(f"blocks.{i}", paths[i], b).spelled(*AFTER) for i, b in enumerate(transformer.transformer_blocks)]
    points = [point("hook_latent", "b c f h w", ROOT, LATENT), point("hook_time_embed", "b d", time)]
    points += [embedded_by_frame(embed), *(point for block in blocks for point in block.points)]
    points += LEVELS.points(LATENT, item(0))
    sites = (ROOT, time, embed, *(site for block in blocks for site in block.sites), VELOCITY)
    laws = [law for block in blocks for law in block.laws]
    table = Table(sites, {point.name: point for point in points}, paths, ABSENT, laws=tuple(laws))
    return by_table(table, transformer.scale_shift_table, "p q r c", conventions.patch(transformer))


FAMILY = Family(
    name="allegro",
    transformer=AllegroTransformer3DModel,
    conditioning=CONDITIONING,
    contexts=("cond_uncond",),  # `AllegroPipeline` calls once a step, for both branches, and names it by no context
    example=example,
    inputs=inputs,
    input_dtype=input_dtype,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    encode_prompt=encode_prompt,
    encode=encode,
    decode=decode,
    to_timestep=LEVELS.to_timestep,
    to_sigma=LEVELS.to_sigma,
    velocity=velocity,
    noise_levels=LEVELS.noise_levels,
    as_fed=LEVELS.as_fed,
)
