"""Defaults that most families share: flow timesteps, conditioning, the clean estimate, the text and video encoders.

A flow model takes the timestep 1000 sigma and predicts noise - data: see `to_timestep`, `to_sigma` and `velocity`.
Families with another convention (Mochi, Cosmos, and those that use `levels`) define their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.parts import Part, argument, read_only
from dit_lens.hook_points import HookPoint, Site

ROOT = Site("", "inputs")
VELOCITY = Site("", "output")
LATENT = argument("hidden_states")
TEXT_ENCODER = ("text_encoder",)


# Time and output of a flow.


def to_timestep(sigma: float) -> float:
    """The timestep that the model takes at a noise level."""
    return 1000 * sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep."""
    return timestep.float() / 1000


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The velocity, noise - data, which is the output itself."""
    return output[0]


def at_latent(sigma: Float[Tensor, "b *n"], latent: Float[Tensor, "b c f h w"], grid: TokenGrid) -> Tensor:
    """Noise levels that broadcast over a latent (b, c, f, h, w), from one per clip, per frame or per token."""
    levels = sigma.reshape(len(sigma), -1)
    if levels.shape[1] == 1:
        return levels.view(-1, 1, 1, 1, 1)
    sizes = zip(latent.shape[2:], (grid.frames, grid.rows, grid.columns), strict=True)
    p, q, r = (size // tokens for size, tokens in sizes)
    if levels.shape[1] == grid.frames:
        return repeat(levels, "b f -> b 1 (f p) 1 1", p=p)
    return repeat(levels, "b (f h w) -> b 1 (f p) (h q) (w r)", f=grid.frames, h=grid.rows, p=p, q=q, r=r)


def clean_estimate(
    grid: Callable[[Mapping[str, Any]], TokenGrid],
    latent: Part = LATENT,
    to_sigma: Callable[[Tensor], Tensor] = to_sigma,
    velocity: Callable[[Mapping[str, Any], tuple], Tensor] = velocity,
) -> HookPoint:
    """`hook_x0`, x - sigma v (b, c, f, h, w).

    Args:
        grid: inputs of the transformer -> their token grid.
        latent: the part of the transformer's inputs that is x.
        to_sigma: timesteps -> noise levels.
        velocity: inputs and output of the transformer -> noise - data.
    """

    def read(root: tuple, out: tuple) -> Tensor:
        x, inputs = latent.get(root), root[1]
        return x - at_latent(to_sigma(inputs["timestep"]), x, grid(inputs)) * velocity(inputs, out)

    return read_only("hook_x0", "b c f h w", (ROOT, VELOCITY), read)


# How the transformer is called.


def for_clips(
    tensors: Mapping[str, Tensor], names: Iterable[str], clips: int, optional: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Conditioning tensors by name, expanded from batch 1 to all clips; optional ones only where they were given.

    Raises:
        ValueError: a tensor is missing.
    """
    needed = [name for name in names if name not in optional]
    if missed := [name for name in needed if name not in tensors]:
        raise ValueError(
            f"got conditioning without {', '.join(missed)} · expected {', '.join(needed)}"
            " · Conditioning({...}) holds them by name"
        )
    present = {name: tensors[name] for name in names if name in tensors}
    return {name: t.expand(clips, *t.shape[1:]) if len(t) == 1 else t for name, t in present.items()}


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype of latents: that of the patch embedding, as others may stay float32 in a bfloat16 model."""
    return transformer.patch_embed.proj.weight.dtype


def patch(transformer: Any) -> tuple[int, int, int]:
    """Frames, rows and columns of the latent patch of one token."""
    size = transformer.config["patch_size"]
    return (transformer.config.get("patch_size_t") or 1, size, size) if isinstance(size, int) else tuple(size)


def patches(sizes: Sequence[int], patch: Sequence[int]) -> TokenGrid:
    """The token grid of a latent, from its frames, rows and columns and those of a patch."""
    return TokenGrid(*(size // length for size, length in zip(sizes, patch, strict=True)))


def grid(transformer: Any, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    return patches(inputs["hidden_states"].shape[2:], patch(transformer))


def block_paths(transformer: Any, blocks: str = "transformer_blocks") -> tuple[str, ...]:
    """Module paths of a list of blocks, in the order in which they are run."""
    return tuple(f"{blocks}.{index}" for index in range(len(getattr(transformer, blocks))))


# The other parts of the pipeline.


def check_channels(pipeline: Any, transformer_key: str = "in_channels", vae_key: str = "latent_channels") -> None:
    """Raises TypeError if the autoencoder's latents do not fit the transformer; passes without an autoencoder.

    Args:
        transformer_key: the name of the latent channels in the transformer's config.
        vae_key: their name in the autoencoder's config.
    """
    if pipeline.vae is None:
        return
    channels, latents = pipeline.transformer.config[transformer_key], pipeline.vae.config[vae_key]
    if channels != latents:
        raise TypeError(
            f"got a transformer of {channels} input channels over latents of {latents} · expected as many:"
            " text-to-video, where it is fed nothing beside · it is not handled yet"
        )


def check_text_encoders(pipeline: Any, names: Sequence[str], parts: Sequence[str] = TEXT_ENCODER) -> None:
    """Raises ValueError if a pipeline lacks the encoders of a prompt.

    Args:
        names: the conditioning to give instead, for the message.
        parts: the names of the pipeline's text encoders.
    """
    if any(getattr(pipeline, part, None) is None for part in parts):
        lacked, wanted = ("both text encoders", "them") if len(parts) > 1 else ("text encoder", "one")
        raise ValueError(
            f"got a pipeline without {lacked} · expected {wanted}, or conditioning=Conditioning({{...}}) of"
            f" {', '.join(names)} · DiTLens.from_pretrained(folder) finds the folder's empty_prompt.safetensors"
        )


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The prompt embedding (1, m, d) of a pipeline with one text encoder, with its default arguments.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, ("encoder_hidden_states",))
    embedding, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return Conditioning({"encoder_hidden_states": embedding}, prompt)


def encode(vae: Any, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
    """The normalised latent of a video: the mode of the posterior, as (z - mean) · scaling factor / std per channel."""
    return normalised(vae, vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float())


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]."""
    return vae.decode(denormalised(vae, latent)).sample.float()


def normalised(vae: Any, z: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """The latent as the transformer takes it: (z - mean) · scaling factor / std; without these 0, 1 and 1."""
    mean, std = _statistics(vae, z)
    return (z - mean) * vae.config.get("scaling_factor", 1.0) / std


def denormalised(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """The latent as the autoencoder takes it, on its device and in its dtype: the inverse of `normalised`."""
    mean, std = _statistics(vae, latent)
    return (latent * std / vae.config.get("scaling_factor", 1.0) + mean).to(vae.device, vae.dtype)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, ...]:
    """Mean and standard deviation (c, 1 or f, 1, 1) of latents; by frame in Cosmos Predict 1."""
    channels, frames = like.shape[1:3]
    buffers = dict(vae.named_buffers(recurse=False))  # LTX keeps them in buffers, not in the config

    def by_channel(name: str, default: float) -> Tensor:
        values = vae.config.get(name)
        values = buffers.get(name) if values is None else torch.tensor(values)
        return like.new_tensor(default) if values is None else values.view(channels, -1, 1, 1)[:, :frames].to(like)

    return by_channel("latents_mean", 0.0), by_channel("latents_std", 1.0)
