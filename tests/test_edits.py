"""Edits change what was chosen and, bit for bit, nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.edits import Tokens, add, patch, project_out, zero
from dit_lens.hook_points import Hook, HookFunction

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


def all_edits(heads: list[int] | None, tokens: Tokens | None) -> dict[str, HookFunction]:
    return {
        "zero": zero(heads, tokens),
        "patch": patch(torch.full((2, GRID.tokens, HEADS, WIDTH), 7.0), heads, tokens),
        "add": add(torch.ones(WIDTH), heads, tokens),
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
def test_an_edit_of_nothing_is_the_identity_bit_for_bit(z: Tensor, name: str, tokens: Tokens | None) -> None:
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
    with pytest.raises(ValueError, match=rf"got index {head} on an axis of {HEADS} · expected -{HEADS} to {HEADS - 1}"):
        zero(heads=[0, head])(z, Z)


def test_a_token_that_is_not_there_is_refused(z: Tensor) -> None:
    with pytest.raises(IndexError):
        zero(tokens=(2, 0, 0))(z, Z)


def test_a_source_of_another_shape_is_refused_and_not_broadcast(z: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got a source of shape \(1, 24, 5, 6\) for an activation of shape \(2, 24"):
        patch(z[:1])(z, Z)
