"""The codec: linear, blind across a splice, a projection, and white on the clips it was fitted on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_lens.clips import Scene
from dit_lens.families import wan
from dit_lens.models.codec import AutoencoderPatchPCA, fit_patch_pca
from dit_lens.video import to_tensor


def encode(codec: AutoencoderPatchPCA, video: Tensor) -> Tensor:
    return codec.encode(video).latent_dist.mode()


def project(codec: AutoencoderPatchPCA, video: Tensor) -> Tensor:
    return codec.decode(encode(codec, video)).sample


def clips(q: Scene) -> dict[str, Tensor]:
    return {clip.role: to_tensor(clip.frames)[None] for clip in q.clips}


def test_latents_have_the_causal_layout(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    assert encode(codec, videos[:2]).shape == (2, 16, 5, 8, 8)
    assert project(codec, videos[:2]).shape == videos[:2].shape


def test_latents_of_a_spliced_clip_are_the_splice_of_latents(
    codec: AutoencoderPatchPCA, quadruplets: list[Scene]
) -> None:
    for q in (q for q in quadruplets if q.crossed):
        z = {role: encode(codec, video) for role, video in clips(q).items()}
        latent_splice = (q.splice - 1) // 4 + 1
        c = torch.cat([z["A"][:, :, :latent_splice], z["B"][:, :, latent_splice:]], dim=2)
        d = torch.cat([z["B"][:, :, :latent_splice], z["A"][:, :, latent_splice:]], dim=2)
        torch.testing.assert_close(z["C"], c, rtol=0, atol=1e-6)
        torch.testing.assert_close(z["D"], d, rtol=0, atol=1e-6)
        assert (z["C"] - z["A"])[:, :, latent_splice:].abs().max() > 0.1


def test_a_splice_inside_a_latent_frame_mixes(codec: AutoencoderPatchPCA, quadruplets: list[Scene]) -> None:
    video = clips(quadruplets[0])
    a, b = encode(codec, video["A"]), encode(codec, video["B"])
    mixed = encode(codec, torch.cat([video["A"][:, :, :11], video["B"][:, :, 11:]], dim=2))
    assert torch.equal(mixed[:, :, :3], a[:, :, :3]) and torch.equal(mixed[:, :, 4:], b[:, :, 4:])
    assert min((mixed - z)[:, :, 3].abs().max() for z in (a, b)) > 0.01


def test_a_change_in_one_patch_of_one_group_changes_one_latent(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    changed = videos[:1].clone()
    changed[:, :, 6, 9, 14] += 0.5
    moved = (encode(codec, changed) != encode(codec, videos[:1])).any(1)[0]
    assert moved.nonzero().tolist() == [[2, 2, 3]]


def test_decoding_what_was_encoded_is_a_projection(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    once = project(codec, videos[:4])
    torch.testing.assert_close(project(codec, once), once, rtol=0, atol=1e-5)
    assert (once - videos[:4]).abs().max() > 0.01


def test_latents_survive_the_way_through_pixels(codec: AutoencoderPatchPCA, generator: torch.Generator) -> None:
    z = torch.randn(2, 16, 5, 8, 8, generator=generator)
    torch.testing.assert_close(encode(codec, codec.decode(z).sample), z, rtol=0, atol=1e-4)


def test_more_components_reconstruct_better(videos: Tensor) -> None:
    errors = [
        (project(fit_patch_pca([videos], z_dim=z_dim), videos) - videos).pow(2).mean().item() for z_dim in (1, 4, 16)
    ]
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2] > 0


def test_all_components_reconstruct_exactly(videos: Tensor) -> None:
    # A patch of 2x2 pixels has 12 components; a still clip has no more of them in four frames than in one.
    still = videos[:16, :, :1].expand(-1, -1, 17, -1, -1)
    whole, part = (fit_patch_pca([still], z_dim=z_dim, patch_size=2) for z_dim in (12, 6))
    torch.testing.assert_close(project(whole, still), still, rtol=0, atol=1e-5)
    assert (project(part, still) - still).abs().max() > 1e-3


def test_the_first_frame_is_exact_with_all_its_components(videos: Tensor) -> None:
    whole = fit_patch_pca([videos], z_dim=12, patch_size=2)
    error = (project(whole, videos[:4]) - videos[:4]).abs().amax(dim=(0, 1, 3, 4))
    assert error[0] < 1e-5 and error[1:].min() > 1e-3


def test_groups_of_one_frame_keep_all_components_of_moving_clips(videos: Tensor) -> None:
    whole = fit_patch_pca([videos[:16]], z_dim=12, patch_size=2, group=1)
    torch.testing.assert_close(project(whole, videos[:4]), videos[:4], rtol=0, atol=1e-5)


def test_whitened_latents_have_mean_zero_and_unit_spread_on_their_own_clips(
    codec: AutoencoderPatchPCA, videos: Tensor
) -> None:
    z = wan.FAMILY.encode(codec, videos)
    for latent_frames in (z[:, :, :1], z[:, :, 1:]):
        rows = latent_frames.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.std(1), torch.ones(16), rtol=0, atol=2e-3)
        assert rows.mean(1).abs().max() < 1e-3
    raw = encode(codec, videos).transpose(0, 1).flatten(1).std(1)
    assert raw.max() > 3 * raw.min()


def test_whitened_channels_are_uncorrelated(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    rows = wan.FAMILY.encode(codec, videos)[:, :, 1:].transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.corrcoef(rows), torch.eye(16), rtol=0, atol=5e-3)


def test_the_familys_decode_undoes_its_encode(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    torch.testing.assert_close(
        wan.FAMILY.decode(codec, wan.FAMILY.encode(codec, videos[:4])), project(codec, videos[:4]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("z_dim", [4, 20])
def test_the_statistics_have_one_value_per_channel_whatever_their_number(videos: Tensor, z_dim: int) -> None:
    codec = fit_patch_pca([videos[:8]], z_dim=z_dim)
    assert len(codec.config.latents_std) == z_dim
    assert len(codec.config.latents_mean) == z_dim


def test_batches_are_pooled(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    at_once, uneven = fit_patch_pca([videos]), fit_patch_pca([videos[:5], videos[5:]])
    for fitted in (codec, uneven):
        for name, weight in fitted.state_dict().items():
            torch.testing.assert_close(weight, at_once.state_dict()[name], rtol=0, atol=1e-4)
    partial = fit_patch_pca([videos[:5]])
    assert (partial.encode_later - at_once.encode_later).abs().max() > 1e-2


def test_the_posterior_has_no_spread(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    posterior = codec.encode(videos[:1]).latent_dist
    assert torch.equal(posterior.sample(), posterior.mode())


def test_a_single_frame_is_a_clip(codec: AutoencoderPatchPCA, videos: Tensor) -> None:
    picture = videos[:2, :, :1]
    assert encode(codec, picture).shape == (2, 16, 1, 8, 8)
    torch.testing.assert_close(project(codec, picture), project(codec, videos[:2])[:, :, :1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [4, 16, 18])
def test_a_wrong_number_of_frames_is_refused(codec: AutoencoderPatchPCA, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"got {frames} frames of 32x32 · expected 4k\+1 frames"):
        codec.encode(torch.zeros(1, 3, frames, 32, 32))


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 33)])
def test_a_wrong_side_is_refused(codec: AutoencoderPatchPCA, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"of {height}x{width} .* sides divisible by 4"):
        codec.encode(torch.zeros(1, 3, 17, height, width))
