"""Edits change what was chosen and, bit for bit, nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit_lens.axes import Region, TokenGrid
from dit_lens.edits import Edit, add, mean, noise, patch, project_out, resample, scale, zero
from dit_lens.hook_points import Hook

GRID = TokenGrid(frames=2, rows=3, columns=4)
HEADS, WIDTH = 5, 6
Z = Hook("blocks.0.attn.hook_z", "b n k e", GRID, step=3, sigma=0.5)
STREAM = Hook("blocks.0.hook_resid_post", "b n d", GRID, step=3, sigma=0.5)
LATENT = Hook("hook_latent", "b c f h w", GRID, step=None, sigma=0.5)


@pytest.fixture
def z(generator: torch.Generator) -> Tensor:
    return torch.randn(2, GRID.tokens, HEADS, WIDTH, generator=generator)


@pytest.fixture
def stream(generator: torch.Generator) -> Tensor:
    return torch.randn(2, GRID.tokens, WIDTH, generator=generator)


def all_edits(heads: list[int] | None, tokens: Region | None) -> dict[str, Edit]:
    return {
        "zero": zero(heads, tokens),
        "patch": patch(torch.full((2, GRID.tokens, HEADS, WIDTH), 7.0), heads, tokens),
        "mean": mean(torch.full((GRID.tokens, HEADS, WIDTH), 5.0), heads, tokens),
        "resample": resample(torch.full((3, GRID.tokens, HEADS, WIDTH), 6.0), torch.tensor([2, 0]), heads, tokens),
        "add": add(torch.ones(WIDTH), heads, tokens),
        "scale": scale(0.5, heads, tokens),
        "noise": noise(0.5, 0, heads, tokens),
        "project_out": project_out(torch.ones(WIDTH), heads, tokens),
    }


def same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x.view(torch.int32), y.view(torch.int32))


@pytest.mark.parametrize("name", all_edits(None, None))
def test_an_edit_leaves_all_that_was_not_chosen_bit_for_bit(z: Tensor, name: str) -> None:
    z[0, 0, 0, 0], z[1, 5, 4, 2] = -0.0, float("inf")
    chosen = torch.zeros_like(z, dtype=torch.bool)
    chosen[:, 12:, [1, 3]] = True
    edited = all_edits([1, 3], (1, slice(None), slice(None)))[name](z, Z)
    assert edited.dtype == z.dtype and edited.shape == z.shape
    assert same_bits(edited[~chosen], z[~chosen])
    assert (edited[chosen] != z[chosen]).all()


@pytest.mark.parametrize("name", all_edits(None, None))
@pytest.mark.parametrize("tokens", [None, (slice(0, 0), slice(None), slice(None))])
def test_an_edit_of_nothing_is_the_identity_bit_for_bit(z: Tensor, name: str, tokens: Region | None) -> None:
    heads = [] if tokens is None else None
    assert same_bits(all_edits(heads, tokens)[name](z, Z), z)
    assert not same_bits(all_edits(None, None)[name](z, Z), z)


@pytest.mark.parametrize("name", all_edits(None, None))
def test_the_input_is_left_as_it_was(z: Tensor, name: str) -> None:
    before = z.clone()
    all_edits([0], None)[name](z, Z)
    assert same_bits(z, before)


def test_patching_with_oneself_is_the_identity(z: Tensor) -> None:
    assert same_bits(patch(z.clone())(z, Z), z)


def test_zero_of_heads_by_hand(z: Tensor) -> None:
    expected = z.clone()
    expected[:, :, 0], expected[:, :, 4] = 0, 0
    assert torch.equal(zero(heads=[0, -1])(z, Z), expected)


def test_zero_of_tokens_by_hand(stream: Tensor) -> None:
    expected = stream.clone()
    for frame in (0, 1):
        for column in (2, 3):
            expected[:, frame * 12 + 1 * 4 + column] = 0
    assert torch.equal(zero(tokens=(slice(None), 1, slice(2, None)))(stream, STREAM), expected)


def test_patch_of_heads_and_tokens_by_hand(z: Tensor, generator: torch.Generator) -> None:
    source = torch.randn(z.shape, generator=generator)
    expected = z.clone()
    expected[:, 1 * 12 + 2 * 4 + 0, 3] = source[:, 1 * 12 + 2 * 4 + 0, 3]
    assert torch.equal(patch(source, heads=[3], tokens=(1, 2, 0))(z, Z), expected)


def test_patch_with_everything_chosen_is_the_source(z: Tensor, generator: torch.Generator) -> None:
    source = torch.randn(z.shape, generator=generator)
    assert torch.equal(patch(source)(z, Z), source)


def test_add_by_hand(stream: Tensor) -> None:
    vector = torch.arange(float(WIDTH))
    expected = stream.clone()
    expected[:, :12] += vector
    assert torch.equal(add(vector, tokens=(0, slice(None), slice(None)))(stream, STREAM), expected)


def test_project_out_leaves_nothing_along_the_direction_and_all_across_it(stream: Tensor) -> None:
    direction = torch.tensor([3.0, 0, 4.0, 0, 0, 0])
    across = torch.tensor([4.0, 0, -3.0, 0, 1.0, 0])
    edited = project_out(direction)(stream, STREAM)
    assert (edited @ direction).abs().max() < 1e-5 < (stream @ direction).abs().max()
    assert torch.allclose(edited @ across, stream @ across, atol=1e-5)
    assert torch.allclose(project_out(direction)(edited, STREAM), edited, atol=1e-6)
    assert torch.equal(project_out(5 * direction)(stream, STREAM), edited)


def test_edits_keep_half_precision(z: Tensor) -> None:
    half = z.bfloat16()
    for name, edit in all_edits([2], None).items():
        assert edit(half, Z).dtype == torch.bfloat16, name
        assert torch.equal(edit(half, Z)[:, :, :2], half[:, :, :2]), name


def test_gradients_reach_the_input_where_it_is_kept_and_the_source_where_it_is_taken(z: Tensor) -> None:
    source = torch.zeros_like(z, requires_grad=True)
    z.requires_grad_()
    patch(source, heads=[1])(z, Z).sum().backward()
    assert z.grad is not None and source.grad is not None
    taken = torch.zeros(HEADS).index_fill(0, torch.tensor([1]), 1.0)
    assert torch.equal(source.grad[0, 0, :, 0], taken)
    assert torch.equal(z.grad[0, 0, :, 0], 1 - taken)


def test_heads_where_there_are_none_are_refused(stream: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got an edit of heads at blocks\.0\.hook_resid_post \(b n d\) .* axis k"):
        zero(heads=[0])(stream, STREAM)


def test_tokens_where_there_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got an edit of video tokens at hook_latent .* axis n"):
        zero(tokens=(0, 0, 0))(torch.zeros(1, 16, 2, 3, 4), LATENT)


@pytest.mark.parametrize("head", [HEADS, -HEADS - 1])
def test_a_head_that_is_not_there_is_refused(z: Tensor, head: int) -> None:
    with pytest.raises(ValueError, match=rf"got head {head} on an axis of {HEADS} · expected -{HEADS} to {HEADS - 1}"):
        zero(heads=[0, head])(z, Z)


def test_a_token_that_is_not_there_is_refused(z: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got frame 2 on an axis of 2 · expected -2 to 1"):
        zero(tokens=(2, 0, 0))(z, Z)


def test_a_source_of_another_shape_is_refused_and_not_broadcast(z: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got a source of shape \(1, 24, 5, 6\) for an activation of shape \(2, 24"):
        patch(z[:1])(z, Z)


def test_mean_by_hand_and_one_for_every_step(stream: Tensor) -> None:
    means = {3: stream.mean(0), 4: torch.zeros(GRID.tokens, WIDTH)}
    expected = stream.clone()
    expected[:, 12:] = (stream[0, 12:] + stream[1, 12:]) / 2
    last_frame = (1, slice(None), slice(None))
    torch.testing.assert_close(mean(means, tokens=last_frame)(stream, STREAM), expected)
    assert torch.equal(mean(stream.mean(0))(stream, STREAM), mean(means)(stream, STREAM))
    assert not mean(means)(stream, replace(STREAM, step=4)).any()


def test_a_mean_over_tokens_serves_every_token(z: Tensor) -> None:
    shared = z.mean((0, 1), keepdim=True)[0]
    assert torch.equal(mean(shared)(z, Z), shared.expand(2, GRID.tokens, HEADS, WIDTH))


@pytest.mark.parametrize("shape", [(2, 24, 5, 6), (24, 5), (12, 5, 6), (6,)])
def test_means_of_another_shape_are_refused_and_not_broadcast(z: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"got means of shape .* for an activation of shape \(2, 24, 5, 6\) · expected"
    ):
        mean(torch.zeros(shape))(z, Z)


@pytest.mark.parametrize("step", [5, None])
def test_a_step_without_means_or_source_is_refused(z: Tensor, step: int | None) -> None:
    there = {3: z, 4: z}
    for edit in (mean({3: z[0], 4: z[0]}), patch(there), resample(there, torch.tensor([1, 0]))):
        assert edit(z, Z).shape == z.shape
        with pytest.raises(KeyError, match=rf"got a call at step {step} of blocks\.0\.attn\.hook_z .* 3, 4,"):
            edit(z, replace(Z, step=step))


def test_resample_by_hand(z: Tensor, generator: torch.Generator) -> None:
    source = torch.randn(4, *z.shape[1:], generator=generator)
    expected = z.clone()
    expected[0, :, 2], expected[1, :, 2] = source[3, :, 2], source[1, :, 2]
    assert torch.equal(resample(source, torch.tensor([3, 1]), heads=[2])(z, Z), expected)


@pytest.mark.parametrize(("clips", "width"), [(3, WIDTH), (2, WIDTH + 1)])
def test_donors_for_another_number_of_clips_or_of_another_point_are_refused(z: Tensor, clips: int, width: int) -> None:
    edit = resample(torch.zeros(4, GRID.tokens, HEADS, width), torch.zeros(clips, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"got {clips} donors and a source of shape .* for each of its 2 clips"):
        edit(z, Z)


def test_scale_by_hand(z: Tensor) -> None:
    expected = z.clone()
    expected[:, :, 1] *= -2
    assert torch.equal(scale(-2, heads=[1])(z, Z), expected)
    assert same_bits(scale(1)(z, Z), z)


def test_noise_is_in_proportion_to_the_spread_of_each_head_and_token() -> None:
    wide = torch.randn(1, GRID.tokens, HEADS, 4096, generator=torch.Generator().manual_seed(1))
    wide *= torch.arange(1.0, HEADS + 1)[:, None] * torch.linspace(0.1, 2, GRID.tokens)[:, None, None]
    moved = noise(0.5, seed=0)(wide, Z) - wide
    torch.testing.assert_close(moved.std(-1) / wide.std(-1), torch.full((1, 24, 5), 0.5), atol=0.03, rtol=0)
    assert (moved.mean(-1) / wide.std(-1)).abs().max() < 0.05
    torch.testing.assert_close(noise(1.5, seed=0)(wide, Z) - wide, 3 * moved, rtol=1e-3, atol=1e-3)
    constant = torch.ones(1, GRID.tokens, WIDTH)
    assert same_bits(noise(0.5, seed=0)(constant, STREAM), constant)


def test_noise_repeats_for_its_seed_and_place_and_differs_elsewhere(z: Tensor) -> None:
    once = noise(0.5, seed=3)(z, Z)
    assert same_bits(noise(0.5, seed=3)(z, Z), once)
    elsewhere = [replace(Z, step=4), replace(Z, name="blocks.1.attn.hook_z"), replace(Z, step=None, sigma=0.25)]
    for different in [noise(0.5, seed=4)(z, Z), *(noise(0.5, seed=3)(z, hook) for hook in elsewhere)]:
        assert (different != once).all()


def test_what_noise_does_to_a_clip_depends_neither_on_its_batch_nor_on_other_heads(z: Tensor) -> None:
    together, alone = noise(0.5, seed=3)(z, Z), noise(0.5, seed=3)(z[1:], Z)
    assert same_bits(together[1:], alone)
    one_head = noise(0.5, seed=3, heads=[2])(z, Z)
    assert same_bits(one_head[:, :, 2], together[:, :, 2])


def test_noise_of_a_latent_is_in_proportion_to_the_spread_over_channels() -> None:
    latent = torch.randn(1, 8, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    latent[..., 0] = latent[:, :1, ..., 0]
    moved = noise(0.5, seed=0)(latent, LATENT) != latent
    assert not moved[..., 0].any() and moved[..., 1:].all()


def test_an_edit_tells_what_it_is(z: Tensor) -> None:
    assert repr(zero(heads=[2])) == "zero(heads=[2])"
    assert repr(patch({3: z}, tokens=(0, slice(1, 2), 3))) == (
        "patch(source={3: <2x24x5x6 float32>}, tokens=(0, slice(1, 2, None), 3))"
    )
