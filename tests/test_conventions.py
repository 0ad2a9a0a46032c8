"""What families have in common: levels on latents, conditioning by clip, latents as pipelines feed them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLLTXVideo, AutoencoderKLMochi, AutoencoderKLWan

from dit_lens.axes import TokenGrid
from dit_lens.families import conventions

GRID = TokenGrid(2, 3, 4)
LATENT = torch.zeros(2, 5, 2, 6, 8)  # patches of 1 x 2 x 2


def test_a_level_per_clip_frame_or_token_lies_where_its_latent_does() -> None:
    sigma = torch.rand(2)
    assert torch.equal(conventions.at_latent(sigma, LATENT, GRID), sigma.view(2, 1, 1, 1, 1))
    by_frame = torch.rand(2, 2)
    for levels in (by_frame, by_frame.view(2, 1, 2, 1, 1)):
        assert torch.equal(conventions.at_latent(levels, LATENT, GRID), by_frame.view(2, 1, 2, 1, 1))
    by_token = torch.rand(2, 24)
    spread = conventions.at_latent(by_token, LATENT, GRID)
    assert spread.shape == (2, 1, 2, 6, 8)
    for token, (frame, row, column) in {0: (0, 0, 0), 5: (0, 3, 3), 23: (1, 5, 7), 12: (1, 1, 0)}.items():
        assert torch.equal(spread[:, 0, frame, row, column], by_token[:, token])


def test_levels_by_frame_are_those_of_all_its_tokens() -> None:
    by_frame = torch.rand(2, 2)
    by_token = by_frame.repeat_interleave(12, dim=1)
    spread = conventions.at_latent(by_frame, LATENT, GRID).expand(2, 1, 2, 6, 8)
    assert torch.equal(spread, conventions.at_latent(by_token, LATENT, GRID))


def test_conditioning_of_one_clip_serves_all_and_what_is_missing_is_named() -> None:
    tensors = {"text": torch.randn(1, 3, 4), "mask": torch.ones(2, 3), "beside": torch.ones(1)}
    spread = conventions.for_clips(tensors, ("text", "mask", "image"), 2, optional=("image",))
    assert list(spread) == ["text", "mask"]
    assert torch.equal(spread["text"][1], tensors["text"][0]) and spread["mask"] is tensors["mask"]
    with pytest.raises(ValueError, match="got conditioning without image · expected text, image"):
        conventions.for_clips(tensors, ("text", "image"), 2)


@pytest.fixture(scope="module")
def autoencoders() -> dict[str, torch.nn.Module]:
    small = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
    ltx = AutoencoderKLLTXVideo(scaling_factor=0.5)
    ltx.latents_mean.normal_()
    ltx.latents_std.uniform_(0.5, 2)
    return {
        "ltx": ltx,
        "cogvideox": AutoencoderKLCogVideoX(latent_channels=4, **small),
        "wan": AutoencoderKLWan(base_dim=4, num_res_blocks=1),
        "mochi": AutoencoderKLMochi(
            encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1, 1, 1, 1, 1), scaling_factor=0.7,
        ),
        "mochi_untold": AutoencoderKLMochi(
            encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1, 1, 1, 1, 1), scaling_factor=0.7, latents_mean=None, latents_std=None,
        ),
    }  # fmt: skip


def test_latents_are_normalised_by_what_the_autoencoder_says(autoencoders: dict[str, torch.nn.Module]) -> None:
    for name, vae in autoencoders.items():
        mean, std = torch.zeros(1), torch.ones(1)
        if name == "ltx":
            mean, std = vae.latents_mean.view(-1, 1, 1, 1), vae.latents_std.view(-1, 1, 1, 1)
        elif name in ("wan", "mochi"):
            mean, std = (torch.tensor(vae.config[key]).view(-1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        channels = vae.config["z_dim" if name == "wan" else "latent_channels"]
        z, scale = torch.randn(2, channels, 2, 3, 3), vae.config.get("scaling_factor", 1.0)
        latent = conventions.normalised(vae, z)
        torch.testing.assert_close(latent, (z - mean) / std * scale, msg=name)
        torch.testing.assert_close(conventions.denormalised(vae, latent), z, msg=name)


def test_a_pipeline_without_its_parts_is_told_which() -> None:
    with pytest.raises(ValueError, match=r"without text encoder · expected one, or conditioning=.* of text"):
        conventions.check_text_encoders(SimpleNamespace(text_encoder=None), ("text",))
    both = SimpleNamespace(text_encoder=torch.nn.Identity(), text_encoder_2=None)
    with pytest.raises(ValueError, match="without both text encoders"):
        conventions.check_text_encoders(both, ("text",), ("text_encoder", "text_encoder_2"))
    conventions.check_text_encoders(both, ("text",))
