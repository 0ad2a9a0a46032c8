"""SkyReels-V2, text- and image-to-video and diffusion forcing: the hook points of `SkyReelsV2Transformer3DModel`.

It is built like Wan and shares its blocks, conditioning and conventions. Under diffusion forcing every latent frame has
its own noise level, so the model takes one timestep per frame, (b, f). Models with frames per second as an input take
`fps` 0 for 16 and 1 for 24. With `num_frame_per_block` in its config, attention is causal over blocks of frames: masked
entries of the pattern are 0.

- Image-to-video models take the same conditioning as Wan 2.1's.
- Under diffusion forcing the conditioning may hold clean first frames, `first_frame` (one latent frame of an image, or
  several of a video): they replace those of the noisy latent and get timestep 0, as in the stock pipelines without
  noise on these frames (`addnoise_condition` 0) and with frames that fill whole causal blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2Transformer3DModel,
)
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
import dit_lens.families.wan as wan
from dit_lens.families.conventions import for_clips
from dit_lens.families.family import Family
from dit_lens.families.first_frames import FIRST_FRAME, with_first_frames
from dit_lens.hook_points import Table

FPS = "fps"
FAST = 1  # 24 frames per second, the default of the stock pipelines

FORCING = (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
)


def as_in(family: Family, transformer: SkyReelsV2Transformer3DModel) -> Family:
    """The family with the conditioning of one transformer."""
    conditioning, optional = conditioning_of(transformer)
    return replace(family, conditioning=conditioning, optional=optional)


def conditioning_of(transformer: SkyReelsV2Transformer3DModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a transformer's conditioning, and those that are optional."""
    conditioning, optional = wan.conditioning_of(transformer)
    fps = (FPS,) if transformer.config["inject_sample_info"] else ()
    return (*conditioning, *fps), (*optional, *fps)


def example(transformer: SkyReelsV2Transformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, f, 4, 4 patches) of two causal blocks and conditioning, to verify a model with."""
    return wan.example(transformer, generator, 2 * transformer.config["num_frame_per_block"])


def inputs(
    transformer: SkyReelsV2Transformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *f"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Args:
        timestep: one for a clip, or under diffusion forcing one for each of its latent frames.

    Raises:
        ValueError: conditioning is missing; one timestep per token; clean first frames without a timestep per frame;
            or clips with different frames per second.
    """
    names, optional = conditioning_of(transformer)
    tensors = for_clips(conditioning, names, len(latent), optional)
    if timestep.ndim == 2 and timestep.shape[1] != latent.shape[2]:
        raise ValueError(
            f"got timesteps of shape {tuple(timestep.shape)} for latents of {latent.shape[2]} frames"
            " · expected one for a clip, or one for each of its latent frames"
        )
    first_frames = tensors.get(FIRST_FRAME)
    if first_frames is not None:
        timestep = _with_clean_frames(timestep, first_frames.shape[2])
    return wan.call_arguments(transformer, with_first_frames(latent, first_frames), tensors) | {
        "timestep": timestep,
        "enable_diffusion_forcing": timestep.ndim == 2,
        "fps": _speed(tensors) if FPS in names else None,
    }


def _with_clean_frames(timestep: Float[Tensor, "b *f"], frames: int) -> Float[Tensor, "b f"]:
    """Timesteps of latent frames, with 0 for the clean first frames."""
    if timestep.ndim < 2:
        raise ValueError(
            f"got a {FIRST_FRAME} and one time for a clip · expected one for each latent frame · load the model in a"
            " diffusion-forcing pipeline"
        )
    return torch.cat([torch.zeros_like(timestep[:, :frames]), timestep[:, frames:]], 1)


def _speed(tensors: Mapping[str, Tensor]) -> list[int]:
    """The model's `fps` argument: one value for all clips, because the model does not support several."""
    speeds = set(tensors[FPS].flatten().tolist()) if FPS in tensors else {FAST}
    if len(speeds) > 1:
        raise ValueError(f"got fps {sorted(speeds)} in one batch · expected one for all clips · run them one by one")
    return [int(speed) for speed in speeds]


def by_frame(pipeline: Any) -> bool:
    """Whether the pipeline uses one timestep per latent frame (diffusion forcing)."""
    return isinstance(pipeline, FORCING)


@torch.no_grad()
def encode_image(
    pipeline: Any, image: Any, size: tuple[int, int, int], last: Any = None, image_embeds: Tensor | None = None
) -> dict[str, Tensor]:
    """The first-frame conditioning of the image-to-video pipelines.

    Args:
        image, size, last, image_embeds: as for `wan.encode_image`.

    Raises:
        ValueError: a last frame under diffusion forcing; or see `wan.encode_image`.
    """
    if not by_frame(pipeline):
        return wan.encode_image(pipeline, image, size, last, image_embeds)
    if last is not None:
        raise ValueError(
            "got a last frame under diffusion forcing, where the pipeline makes a latent frame of its own of it"
            " · expected a first frame alone"
        )
    pixels = pipeline.video_processor.preprocess(image, height=size[1], width=size[2])
    return {FIRST_FRAME: conventions.encode(pipeline.vae, pixels[:, :, None].to(pipeline.vae.device, torch.float32))}


def hook_table(transformer: SkyReelsV2Transformer3DModel) -> Table:
    """Every hook point of this transformer; modulation is per clip, or per token under diffusion forcing."""
    return wan.spelled(transformer, rows=1)


FAMILY = replace(
    wan.FAMILY,
    name="skyreels",
    transformer=SkyReelsV2Transformer3DModel,
    time_by_token=False,
    for_transformer=as_in,
    example=example,
    inputs=inputs,
    hook_table=hook_table,
    by_frame=by_frame,
    encode_image=encode_image,
)
