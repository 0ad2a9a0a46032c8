"""SkyReels-V2, text- and image-to-video and diffusion forcing: how `SkyReelsV2Transformer3DModel` spells it.

It is built like Wan, whose blocks, conditioning and conventions these are. Under diffusion forcing every latent frame
has a noise level of its own: the model is told a time for each, (b, f). Where it is told of frames per second, `fps`
is 0 for 16 of them and 1 for 24. With `num_frame_per_block` in its config, attention is causal from one block of frames
to the next: what is masked has pattern 0.

- Image-to-video models are fed and told what Wan 2.1's are.
- Under diffusion forcing a clip may begin with given frames, `first_frame` (one latent frame of an image, or several of
  a video): they are fed clean in the place of the latent's own and told time 0, as the stock pipelines do where they
  are not told to add noise to them (`addnoise_condition`) and the frames fill whole causal blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
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
from dit_lens.families.given import FIRST, beginning_with
from dit_lens.hook_points import Table

NAME = "skyreels"
TRANSFORMER = SkyReelsV2Transformer3DModel
FPS = "fps"
CONDITIONING: tuple[str, ...] = wan.CONDITIONING
OPTIONAL: tuple[str, ...] = wan.OPTIONAL
CALL = wan.CALL
FAST = 1  # 24 frames a second, as the stock pipelines have it by default

to_timestep, to_sigma, velocity = conventions.to_timestep, conventions.to_sigma, conventions.velocity
encode, decode = wan.encode, wan.decode
encode_prompt, check_pipeline, given_frames = wan.encode_prompt, wan.check_pipeline, wan.given_frames
input_dtype, grid = wan.input_dtype, wan.grid
FORCING = (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
)


def of(transformer: SkyReelsV2Transformer3DModel) -> ModuleType:
    """The family as one transformer has it: they differ in what they are told."""
    own, (told, optional) = ModuleType(__name__, __doc__), told_of(transformer)
    vars(own).update(globals(), CONDITIONING=told, OPTIONAL=optional)
    return own


def told_of(transformer: SkyReelsV2Transformer3DModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a transformer is told, and what of it is optional."""
    told, optional = wan.told_of(transformer)
    fps = (FPS,) if transformer.config["inject_sample_info"] else ()
    return (*told, *fps), (*optional, *fps)


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
        ValueError: conditioning is missing; times for tokens; given frames without times for frames; or several clips
            of other frames per second.
    """
    names, optional = told_of(transformer)
    told = for_clips(conditioning, names, len(latent), optional)
    if timestep.ndim == 2 and timestep.shape[1] != latent.shape[2]:
        raise ValueError(
            f"got timesteps of shape {tuple(timestep.shape)} for latents of {latent.shape[2]} frames"
            " · expected one for a clip, or one for each of its latent frames"
        )
    given = told.get(FIRST)
    if given is not None:
        timestep = _clean(given.shape[2], timestep)
    return wan.fed(transformer, beginning_with(given, latent), told) | {
        "timestep": timestep,
        "enable_diffusion_forcing": timestep.ndim == 2,
        "fps": _speed(told) if FPS in names else None,
    }


def _clean(frames: int, timestep: Float[Tensor, "b *f"]) -> Float[Tensor, "b f"]:
    """Times of latent frames, 0 in so many given ones."""
    if timestep.ndim < 2:
        raise ValueError(
            f"got a {FIRST} and one time for a clip · expected one for each latent frame · load the model in a"
            " diffusion-forcing pipeline"
        )
    return torch.cat([torch.zeros_like(timestep[:, :frames]), timestep[:, frames:]], 1)


def _speed(told: Mapping[str, Tensor]) -> list[int]:
    """Frames per second as the model has them, one for all clips: it cannot tell clips of several apart."""
    speeds = set(told[FPS].flatten().tolist()) if FPS in told else {FAST}
    if len(speeds) > 1:
        raise ValueError(f"got fps {sorted(speeds)} in one batch · expected one for all clips · run them one by one")
    return [int(speed) for speed in speeds]


def by_frame(pipeline: Any) -> bool:
    """Whether the pipeline tells a time for every latent frame (diffusion forcing)."""
    return isinstance(pipeline, FORCING)


@torch.no_grad()
def encode_image(
    pipeline: Any, image: Any, size: tuple[int, int, int], last: Any = None, image_embeds: Tensor | None = None
) -> dict[str, Tensor]:
    """What the image-to-video pipelines tell of a first frame, beside the text.

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
    return {FIRST: encode(pipeline.vae, pixels[:, :, None].to(pipeline.vae.device, torch.float32))}


def hook_table(transformer: SkyReelsV2Transformer3DModel) -> Table:
    """Every hook point of this transformer; modulation is by clip, or by token under diffusion forcing."""
    return wan.spelled(transformer, rows=1)
