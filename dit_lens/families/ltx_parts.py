"""What LTX-Video and LTX-2 have in common outside their blocks: packed latents, time, the autoencoder.

Latents are packed into tokens before the transformer is called, (b, n, c) with frames, rows and columns told beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.families.conventions import LATENT, ROOT, VELOCITY, check_channels, clean_estimate, denormalised
from dit_lens.families.parts import Part, item, point
from dit_lens.hook_points import HookPoint, Site

# Latents and their tokens.

TOKEN = "p q r c", (1, 1, 1)  # see `Final`


def pack(latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b n c"]:
    """Tokens of a latent, as `LTXPipeline._pack_latents` makes them at patch sizes 1."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def unpack(tokens: Float[Tensor, "b n c"], inputs: Mapping[str, Any]) -> Float[Tensor, "b c f h w"]:
    """The latent of tokens, on the grid that the transformer was told."""
    return rearrange(token_grid(inputs).unflatten(tokens), "b f h w c -> b c f h w")


def token_grid(inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of a call.

    Raises:
        ValueError: the call holds other tokens than those of its frames, rows and columns.
    """
    sizes = tuple(inputs.get(name) or 0 for name in ("num_frames", "height", "width"))
    told, found = TokenGrid(*sizes), inputs["hidden_states"].shape[1]
    if told.tokens != found:
        raise ValueError(
            f"got {found} tokens for num_frames, height, width = {sizes} · expected one token for each place of the"
            " latent · pipelines that append tokens of conditioning frames are not handled"
        )
    return told


def root_points() -> list[HookPoint]:
    """`hook_latent`, `hook_velocity` and `hook_x0`, (b, c, f, h, w)."""

    def put(new: Tensor, raw: tuple) -> tuple:
        return LATENT.put(pack(new), raw)

    latent = Part(lambda raw: unpack(raw[1]["hidden_states"], raw[1]), put)
    written = HookPoint(
        "hook_velocity",
        "b c f h w",
        (ROOT, VELOCITY),
        lambda root, out: velocity(root[1], out),
        lambda new, old, root, out: item(0).put(pack(new), out),
    )
    return [
        point("hook_latent", "b c f h w", ROOT, latent),
        written,
        clean_estimate(token_grid, latent, velocity=velocity),
    ]


def time_embedding(name: str, site: Site) -> HookPoint:
    """An embedding of time (b, d), or (b, n, d) where every token has its own; `site` holds them all in one row."""

    def read(root: tuple, raw: Tensor) -> Tensor:
        clips = len(root[1]["hidden_states"])
        return raw if len(raw) == clips else rearrange(raw, "(b n) d -> b n d", b=clips)

    return HookPoint(name, "b d", (ROOT, site), read, lambda new, old, root, raw: new.reshape(raw.shape))


# Conventions of both.


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype latents are fed in."""
    return transformer.proj_in.weight.dtype


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The output as noise - data: it is that already."""
    return unpack(output[0], inputs)


def grid(transformer: Any, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    return token_grid(inputs)


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]; an autoencoder that is told a time is told 0, as pipelines do by default."""
    z = denormalised(vae, latent)
    return vae.decode(z, z.new_zeros(len(z)) if vae.config.timestep_conditioning else None).sample.float()


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a transformer of packed patches, or one fed more than a latent."""
    config = pipeline.transformer.config
    patches = config["patch_size"], config["patch_size_t"]
    if patches != (1, 1):
        raise TypeError(
            f"got a transformer of {config['in_channels']} channels in patches of {patches}"
            " · expected patches of (1, 1) · it is not handled yet"
        )
    check_channels(pipeline)


# Noise levels.

SHIFTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


def schedule_arguments(
    pipeline: Any, latent: Float[Tensor, "b c f h w"] | None, steps: int, shifts: Mapping[str, int | float] = SHIFTS
) -> dict[str, Any]:
    """What the pipeline hands to its scheduler: even levels, and a shift that grows with the number of tokens.

    Args:
        shifts: what the pipeline takes where the scheduler's config says nothing.

    Raises:
        ValueError: no latent, whose size decides.
    """
    from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift  # brings the text encoder's code along

    if latent is None:
        raise ValueError(
            "got no latent · expected one, for LTX shifts its levels by its size · schedule(steps, latent)"
        )
    told = [pipeline.scheduler.config.get(name, untold) for name, untold in shifts.items()]
    return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": calculate_shift(latent[0, 0].numel(), *told)}
