"""mini-vae: a stock causal `AutoencoderKLWan` small enough for a laptop.

The residual layout of Wan2.2's autoencoder, whose shortcuts average and repeat pixels, so that an untrained model
already gives a blurred copy; no other residual blocks in the encoder. 17 frames of 32x32 give 16 x 5 x 8 x 8 latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

CONFIG: dict[str, Any] = {
    "base_dim": 32,
    "decoder_base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 0,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 4,
}


def new_autoencoder(seed: int = 0) -> AutoencoderKLWan:
    """A randomly initialised mini-vae; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKLWan(**CONFIG).eval()


@contextmanager
def whole_clips(vae: Any) -> Iterator[None]:
    """A context in which `vae.encoder(x)` and `vae.decoder(z, first_chunk=True)` take all frames of a clip at once.

    Stock `encode` and `decode` process a clip in chunks of four frames and pass a cache between them; without a cache
    the resampling layers skip their temporal convolutions. Hooks restore these; the result is the same, but faster.
    """
    layers = [module for module in vae.modules() if isinstance(module, WanResample)]
    handles = [layer.register_forward_hook(_halve_frames) for layer in layers if layer.mode == "downsample3d"]
    handles += [layer.register_forward_pre_hook(_double_frames) for layer in layers if layer.mode == "upsample3d"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _halve_frames(layer: Any, args: tuple[Any, ...], x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)


def _double_frames(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x = args[0]
    later = rearrange(layer.time_conv(x[:, :, 1:]), "b (two c) f h w -> b c (f two) h w", two=2)
    return (torch.cat([x[:, :, :1], later], dim=2), *args[1:])


@torch.no_grad()
def whiten(vae: Any, videos: Iterable[Float[Tensor, "_ 3 F H W"]]) -> None:
    """Sets `latents_mean` and `latents_std` in the config to the per-channel statistics of the videos' latents.

    Args:
        videos: batches in [-1, 1].
    """
    latents = torch.cat([vae.encode(video, return_dict=False)[0].mode() for video in videos])
    axes = (0, 2, 3, 4)
    vae.register_to_config(latents_mean=latents.mean(axes).tolist(), latents_std=latents.std(axes).tolist())
