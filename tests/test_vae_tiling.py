"""What a user sets on the autoencoder reaches the lens: tiles, slices, and weights in bfloat16.

A random autoencoder makes much of rounding: pixels agree to 5e-4, where tiles change them by more than 1e-2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_pipelines import autoencoder, lens_on, wan
from torch import Tensor

from dit_lens import DiTLens
from dit_lens.video import to_tensor

TILES = {
    "tile_sample_min_height": 32, "tile_sample_min_width": 32, "tile_sample_stride_height": 24,
    "tile_sample_stride_width": 24,
}  # fmt: skip


def frames(clips: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, 5, 64, 64, 3), dtype=np.uint8)


def decoded(lens: DiTLens, latent: Tensor) -> Tensor:
    """What the lens decodes of a latent: step 0 of a trajectory is what was inverted."""
    return lens.decode(lens.invert(latent, steps=1, solver="euler"))


@pytest.fixture
def lens() -> DiTLens:
    return lens_on(wan())


def stock(vae: Any, latent: Tensor) -> Tensor:
    """What `WanPipeline` decodes of a latent."""
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, 4, 1, 1, 1) for name in ("mean", "std"))
    return vae.decode(latent / (1 / std) + mean, return_dict=False)[0]


@torch.no_grad()
def test_tiles_are_encoded_and_decoded_as_the_pipeline_does(lens: DiTLens) -> None:
    vae = lens.pipeline.vae
    latent, pixels = lens.encode(frames()), decoded(lens, lens.encode(frames()))
    vae.enable_tiling(**TILES)
    tiled = lens.encode(frames())
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, 4, 1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(tiled, (vae.encode(to_tensor(frames()[0])[None]).latent_dist.mode() - mean) / std)
    assert tiled.shape == latent.shape and (tiled - latent).abs().max() > 1e-3
    torch.testing.assert_close(decoded(lens, latent), stock(vae, latent), rtol=0, atol=5e-4)
    assert (decoded(lens, latent) - pixels).abs().max() > 1e-2
    vae.disable_tiling()
    assert torch.equal(lens.encode(frames()), latent) and torch.equal(decoded(lens, latent), pixels)


@torch.no_grad()
def test_slices_are_encoded_and_decoded_clip_by_clip(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, sizes = lens.pipeline.vae, []
    latent = lens.encode(frames(2))
    pixels = decoded(lens, latent)
    encode, decode = vae._encode, vae._decode
    monkeypatch.setattr(vae, "_encode", lambda x: sizes.append(len(x)) or encode(x))
    monkeypatch.setattr(vae, "_decode", lambda z, **options: sizes.append(len(z)) or decode(z, **options))
    decoded(lens, lens.encode(frames(2)))
    vae.enable_slicing()
    torch.testing.assert_close(lens.encode(frames(2)), latent, rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded(lens, latent), pixels, rtol=0, atol=5e-4)
    assert sizes == [2, 2, 1, 1, 1, 1]


@torch.no_grad()
def test_an_autoencoder_in_bfloat16_takes_a_float32_latent() -> None:
    exact, coarse = lens_on(wan()), lens_on(wan(vae=autoencoder().to(torch.bfloat16)))
    latent = exact.encode(frames())
    rounded = coarse.encode(frames())
    assert rounded.dtype == latent.dtype == torch.float32 and coarse.pipeline.vae.dtype == torch.bfloat16
    assert 0 < (rounded - latent).abs().mean() < 0.05 * latent.abs().mean()
    pixels, rounded_pixels = decoded(exact, latent), decoded(coarse, latent)
    assert rounded_pixels.dtype == torch.float32
    assert 0 < (rounded_pixels - pixels).abs().mean() < 0.3 * pixels.abs().mean()
