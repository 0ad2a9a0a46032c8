"""Reductions: answers known by hand, bits kept where they are only chosen, a word for every axis of every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import SMALL, build
from torch import Tensor

from dit_lens import families
from dit_lens.axes import TokenGrid
from dit_lens.hook_points import Hook
from dit_lens.reductions import Named, Projection, Reduction, parse
from dit_lens.reductions.named import WORDS

GRID = TokenGrid(3, 2, 4)


def hook(axes: str) -> Hook:
    return Hook("blocks.1.hook_there", axes, GRID, 3, 0.5)


def reduced(text: str, x: Tensor, axes: str = "b n d") -> Named:
    return parse(text)(x, hook(axes))


@pytest.fixture
def tokens() -> Tensor:
    """(b, n, d) of 2 clips and 5 features, counted up, so that every place is told from every other."""
    return torch.arange(2 * GRID.tokens * 5, dtype=torch.float32).reshape(2, GRID.tokens, 5)


def test_means_are_over_the_axes_they_name(tokens: Tensor) -> None:
    whole = tokens.reshape(2, 3, 2, 4, 5)
    for text, dims, axes in [
        ("mean", (1, 2, 3), ("clip", "feature")),
        ("space_mean", (2, 3), ("clip", "frame", "feature")),
        ("time_mean", (1,), ("clip", "row", "column", "feature")),
    ]:
        result = reduced(text, tokens)
        assert result.axes == axes and torch.equal(result.values, whole.mean(dims))
    assert not torch.equal(reduced("time_mean.space_mean", tokens).values, reduced("mean", tokens.flip(0)).values)


def test_a_mean_of_bfloat16_is_taken_and_kept_in_float32() -> None:
    x = torch.ones(1, GRID.tokens, 1, dtype=torch.bfloat16)
    x[0, 0, 0] += 2**-7
    exact = 1 + 2**-7 / GRID.tokens  # between two numbers of bfloat16
    assert (reduced("mean", x).values - exact).abs() < 1e-7
    assert (x.mean().double() - exact).abs() > 1e-4
    assert reduced("mean", x.double()).values.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_only_chosen_keeps_its_bits(tokens: Tensor, dtype: torch.dtype) -> None:
    x = (tokens / 7).to(dtype)
    whole = x.reshape(2, 3, 2, 4, 5)
    assert torch.equal(reduced("none", x).values, whole) and reduced("none", x).values.dtype == dtype
    chosen, region = reduced("tokens:5:0", x), reduced("region:1-2:*:3", x)
    assert torch.equal(chosen.values, x[:, [5, 0]]) and chosen.labels == {"token": (5, 0)}
    assert chosen.axes == ("clip", "token", "feature") and chosen.values.dtype == dtype
    assert torch.equal(region.values, whole[:, 1:3, :, 3:4])
    assert region.labels == {"frame": (1, 2), "row": (0, 1), "column": (3,)}
    assert not torch.equal(chosen.values, x[:, [0, 5]])


def test_a_coarse_grid_holds_the_means_of_its_cells(tokens: Tensor) -> None:
    result = reduced("coarse:3:1:2", tokens)
    by_hand = tokens.reshape(2, 3, 1, 2, 2, 2, 5).mean((3, 5))
    torch.testing.assert_close(result.values, by_hand)
    torch.testing.assert_close(reduced("coarse:1:1:1", tokens).values[:, 0, 0, 0], tokens.mean(1))
    assert torch.equal(reduced("coarse:3:2:4", tokens).values, tokens.reshape(2, 3, 2, 4, 5))


def test_a_coarse_grid_leaves_other_axes_where_they_are(tokens: Tensor) -> None:
    heads = torch.stack([tokens, 2 * tokens], dim=2)
    result = reduced("coarse:1:2:2", heads, "b n k e")
    assert result.axes == ("clip", "frame", "row", "column", "head", "feature")
    torch.testing.assert_close(result.values[..., 1, :], 2 * reduced("coarse:1:2:2", tokens).values)


def test_a_random_projection_keeps_lengths_and_is_its_seeds() -> None:
    x = torch.randn(1, GRID.tokens, 600, generator=torch.Generator().manual_seed(1))
    result = reduced("random:400:7", x)
    ratio = result.values.square().sum(-1) / x.reshape(1, 3, 2, 4, 600).square().sum(-1)
    assert ratio.mean() == pytest.approx(1, abs=0.05) and ratio.std() < 0.15
    assert torch.equal(result.values, reduced("random:400:7", x).values)
    assert not torch.equal(result.values, reduced("random:400:8", x).values)
    assert str(parse("random:400")) == "random:400:0"  # the seed is told even where it is the usual one


def test_moments_by_hand() -> None:
    course = torch.tensor([0.0, 0.0, 3.0])  # mean 1, variance 2, third central moment (-1 - 1 + 8) / 3 = 2
    x = course[:, None, None].expand(3, 2, 4).reshape(1, GRID.tokens, 1)
    result = reduced("moments", x)
    assert result.axes == ("clip", "moment", "row", "column", "feature")
    expected = torch.tensor([1.0, 2**0.5, 2 ** (1 / 3)])
    torch.testing.assert_close(result.values, expected[None, :, None, None, None].expand(1, 3, 2, 4, 1))
    mirrored, moved = reduced("moments.space_mean", -x).values, reduced("moments.space_mean", x + 5).values
    torch.testing.assert_close(mirrored.flatten(), expected * torch.tensor([-1.0, 1.0, -1.0]))
    torch.testing.assert_close(moved.flatten(), expected + torch.tensor([5.0, 0.0, 0.0]))


def test_a_clip_that_stands_still_moves_no_moment_but_the_mean(tokens: Tensor) -> None:
    still = tokens.reshape(2, 3, 2, 4, 5)[:, :1].expand(2, 3, 2, 4, 5).reshape(2, GRID.tokens, 5)
    assert not reduced("moments", still).values[:, 1:].any()
    assert reduced("moments", tokens).values[:, 1].all()


def test_a_direction_reads_off_what_was_planted(tokens: Tensor, tmp_path: Path) -> None:
    vector = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0])
    save_file({"direction": vector}, tmp_path / "up.safetensors")
    result = reduced(f"mean.direction:{tmp_path}/up.safetensors", tokens)
    torch.testing.assert_close(result.values, 2 * tokens.mean(1)[:, 1])
    assert result.axes == ("clip",)
    both = Reduction((Projection("both", torch.ones(2, 5)),))(torch.stack([tokens, tokens], dim=2), hook("b n k e"))
    torch.testing.assert_close(both.values.flatten(1), 2 * tokens.sum(-1))
    assert str(Projection("up", vector)) != str(Projection("up", 2 * vector))


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("b k n n2", (2, 2, 24, 24), ("clip", "head", "frame", "row", "column", "key")),
        ("b k n m", (2, 2, 24, 7), ("clip", "head", "frame", "row", "column", "text_key")),
        ("b k m n+m", (2, 2, 7, 31), ("clip", "head", "text_token", "key")),
        ("b m d", (2, 7, 5), ("clip", "text_token", "feature")),
        ("b c f h w", (2, 4, 3, 4, 8), ("clip", "channel", "frame", "row", "column")),
        ("b d", (2, 5), ("clip", "feature")),
    ],
)
def test_axes_in_words(axes: str, shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    x = torch.rand(shape)
    result = reduced("none", x, axes)
    assert result.axes == words and torch.equal(result.values.flatten(), x.flatten())


@pytest.mark.parametrize("name", list(SMALL))
def test_every_axis_of_every_family_has_a_word(name: str) -> None:
    transformer = build(name)
    for point in families.find(transformer).hook_table(transformer).points.values():
        letters = point.axes.split()
        keys = letters[3:] if letters[1] == "k" else []
        assert {*letters} - {*keys} <= {*WORDS}, point.name


@pytest.mark.parametrize(
    "text", ["mean", "frame_mass", "space_mean.random:16:3", "moments.space_mean", "region:1-2:*:3", "none"]
)
def test_a_reduction_reads_what_it_writes(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maen", "did you mean 'mean'"),
        ("mean.randon:4", "did you mean 'random'"),
        ("random", "random"),
        ("random:0", "1 or more"),
        ("coarse:1:2", "coarse"),
        ("tokens", "numbers of tokens"),
        ("region:x:1:1", "region"),
        ("direction:nowhere.safetensors", "nowhere.safetensors"),
        ("", "empty"),
    ],
)
def test_what_is_no_reduction_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["tokens:24", "region:3:0:0", "coarse:4:1:1", "mean.space_mean", "mean.moments"])
def test_what_an_activation_has_not_is_refused_naming_the_hook_point(text: str, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_there"):
        reduced(text, tokens)


def test_an_activation_of_other_axes_than_told_is_refused(tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected axes 'b d'"):
        reduced("none", tokens, "b d")
