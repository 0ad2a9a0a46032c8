"""What families have in common outside their blocks: flow time, conditioning, the clean estimate, the autoencoder.

A flow model is fed 1000 sigma and puts out noise - data; `to_timestep`, `to_sigma` and `velocity` say so. Families of
another kind (Mochi, Cosmos, and those over `levels`) have their own.
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
    """What the model is fed at a noise level."""
    return 1000 * sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep fed."""
    return timestep.float() / 1000


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The output as noise - data: it is that already."""
    return output[0]


def at_latent(sigma: Float[Tensor, "b *n"], latent: Float[Tensor, "b c f h w"], grid: TokenGrid) -> Tensor:
    """Noise levels where they meet a latent, (b, 1, f, h, w) or of ones: one for a clip, a frame or a token."""
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
        latent: where x lies in them.
        to_sigma: timesteps fed -> noise levels.
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
    """Conditioning by name; of batch 1 it serves every clip. What is optional is there only where it was given.

    Raises:
        ValueError: some is missing.
    """
    needed = [name for name in names if name not in optional]
    if missed := [name for name in needed if name not in tensors]:
        raise ValueError(
            f"got conditioning without {', '.join(missed)} · expected {', '.join(needed)}"
            " · Conditioning({...}) holds them by name"
        )
    told = {name: tensors[name] for name in names if name in tensors}
    return {name: t.expand(clips, *t.shape[1:]) if len(t) == 1 else t for name, t in told.items()}


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype latents are fed in: the patch embedding's own; other parameters may stay float32 in bfloat16."""
    return transformer.patch_embed.proj.weight.dtype


def patch(transformer: Any) -> tuple[int, int, int]:
    """Frames, rows and columns of a latent that make a token."""
    size = transformer.config["patch_size"]
    return (transformer.config.get("patch_size_t") or 1, size, size) if isinstance(size, int) else tuple(size)


def patches(sizes: Sequence[int], patch: Sequence[int]) -> TokenGrid:
    """The token grid of a latent of so many frames, rows and columns."""
    return TokenGrid(*(size // length for size, length in zip(sizes, patch, strict=True)))


def grid(transformer: Any, inputs: Mapping[str, Any]) -> TokenGrid:
    """The token grid of an evaluation's latent."""
    return patches(inputs["hidden_states"].shape[2:], patch(transformer))


def block_paths(transformer: Any, blocks: str = "transformer_blocks") -> tuple[str, ...]:
    """Module paths of a list of blocks, in the order in which they are run."""
    return tuple(f"{blocks}.{index}" for index in range(len(getattr(transformer, blocks))))


# What its pipeline holds beside the transformer.


def check_channels(pipeline: Any, fed: str = "in_channels", made: str = "latent_channels") -> None:
    """Raises TypeError where latents are not what the transformer takes.

    Args:
        fed: what the transformer's config calls the channels of a latent.
        made: what the autoencoder's does.
    """
    channels, latents = pipeline.transformer.config[fed], pipeline.vae.config[made]
    if channels != latents:
        raise TypeError(
            f"got a transformer of {channels} input channels over latents of {latents} · expected as many:"
            " text-to-video, where it is fed nothing beside · it is not handled yet"
        )


def check_text_encoders(pipeline: Any, told: Sequence[str], parts: Sequence[str] = TEXT_ENCODER) -> None:
    """Raises ValueError where a pipeline cannot say what a prompt is told as."""
    if any(getattr(pipeline, part, None) is None for part in parts):
        lacked, wanted = ("both text encoders", "them") if len(parts) > 1 else ("text encoder", "one")
        raise ValueError(
            f"got a pipeline without {lacked} · expected {wanted}, or conditioning=Conditioning({{...}}) of"
            f" {', '.join(told)} · DiTLens.from_pretrained(folder) finds the folder's empty_prompt.safetensors"
        )


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The embedding (1, m, d) that a pipeline of one text encoder feeds for a prompt by default.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, ("encoder_hidden_states",))
    embedding, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return Conditioning({"encoder_hidden_states": embedding}, prompt)


def encode(vae: Any, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
    """The normalised latent: the mode of the posterior, per channel (z - mean) · scaling factor / std."""
    return normalised(vae, vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float())


def decode(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
    """The video in about [-1, 1]."""
    return vae.decode(denormalised(vae, latent)).sample.float()


def normalised(vae: Any, z: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """What pipelines feed of an autoencoder's latent: (z - mean) · scaling factor / std, each 0, 1 or 1 if untold."""
    mean, std = _statistics(vae, z)
    return (z - mean) * vae.config.get("scaling_factor", 1.0) / std


def denormalised(vae: Any, latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """The autoencoder's own latent, on its device and in its dtype."""
    mean, std = _statistics(vae, latent)
    return (latent * std / vae.config.get("scaling_factor", 1.0) + mean).to(vae.device, vae.dtype)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, ...]:
    """Mean and standard deviation (c, 1 or f, 1, 1) of latents; by frame in Cosmos Predict 1."""
    channels, frames = like.shape[1:3]
    buffers = dict(vae.named_buffers(recurse=False))  # where LTX holds them

    def by_channel(name: str, untold: float) -> Tensor:
        told = vae.config.get(name)
        told = buffers.get(name) if told is None else torch.tensor(told)
        return like.new_tensor(untold) if told is None else told.view(channels, -1, 1, 1)[:, :frames].to(like)

    return by_channel("latents_mean", 0.0), by_channel("latents_std", 1.0)
