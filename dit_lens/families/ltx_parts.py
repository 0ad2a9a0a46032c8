"""Code that LTX-Video and LTX-2 share outside their blocks: packed latents, timesteps, the autoencoder.

The transformer takes latents packed into tokens (b, n, c), with the numbers of frames, rows and columns as arguments.
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
    """The tokens of a latent, as from `LTXPipeline._pack_latents` at patch sizes 1."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def unpack(tokens: Float[Tensor, "b n c"], inputs: Mapping[str, Any]) -> Float[Tensor, "b c f h w"]:
    """The latent of packed tokens, on the grid in the transformer's arguments."""
    return rearrange(token_grid(inputs).unflatten(tokens), "b f h w c -> b c f h w")


def token_grid(inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of a call.

    Raises:
        ValueError: the number of tokens is not frames x rows x columns.
    """
    sizes = tuple(inputs.get(name) or 0 for name in ("num_frames", "height", "width"))
    grid, tokens = TokenGrid(*sizes), inputs["hidden_states"].shape[1]
    if grid.tokens != tokens:
        where = f"for num_frames, height, width = {sizes}" if all(sizes) else "that are placed by coordinates alone"
        raise ValueError(
            f"got {tokens} tokens {where} · expected one token for each place of the latent, on a grid of num_frames,"
            " height and width · pipelines that append tokens of conditioning frames, such as LTXConditionPipeline, are"
            " not handled"
        )
    return grid


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
    """A time embedding (b, d), or (b, n, d) with one timestep per token; at `site` it is flattened to (b n, d)."""

    def read(root: tuple, raw: Tensor) -> Tensor:
        clips = len(root[1]["hidden_states"])
        return raw if len(raw) == clips else rearrange(raw, "(b n) d -> b n d", b=clips)

    return HookPoint(name, "b d", (ROOT, site), read, lambda new, old, root, raw: new.reshape(raw.shape))


# Conventions of both models.


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype of input latents."""
    return transformer.proj_in.weight.dtype


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The velocity, noise - data, which is the output itself, unpacked."""
    return unpack(output[0], inputs)


def grid(transformer: Any, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    return token_grid(inputs)


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]; an autoencoder with a timestep gets 0, the default of pipelines."""
    z = denormalised(vae, latent)
    return vae.decode(z, z.new_zeros(len(z)) if vae.config.timestep_conditioning else None).sample.float()


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a transformer with larger patches, or with more input channels than the latent has."""
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
    """The scheduler arguments of the pipeline: evenly spaced sigmas, and a shift that grows with the number of tokens.

    Args:
        shifts: the pipeline's defaults for values that the scheduler's config lacks.

    Raises:
        ValueError: no latent, although the scheduler shifts sigmas by its size.
    """
    from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift  # imports the text encoder's code

    even = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    if latent is None and not pipeline.scheduler.config.get("use_dynamic_shifting"):
        return even
    if latent is None:
        raise ValueError(
            "got no latent · expected one, for LTX shifts its noise levels by the latent's size"
            " · schedule(steps, latent), or schedule(steps, lens.latent_shape(frames, height, width))"
        )
    values = [pipeline.scheduler.config.get(name, default) for name, default in shifts.items()]
    return even | {"mu": calculate_shift(latent[0, 0].numel(), *values)}
