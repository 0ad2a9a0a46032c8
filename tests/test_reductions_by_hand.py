"""Every reduction's values, axes and labels on two frames of two rows and two columns, and its refusals in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.hook_points import Hook, HookPoint, Site, Table
from dit_lens.reductions import FrameMass, FrameMasses, Named, Projection, frame_mass, parse
from dit_lens.reductions.attention import _check_rows
from dit_lens.reductions.named import name_axes
from dit_lens.reductions.steps import Coarse, Region, gaussian

GRID = TokenGrid(2, 2, 2)
# One feature of one clip, token by token: 0 to 3 in frame 0, 10 to 13 in frame 1.
TOKENS = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13])[None, :, None]


def reduced(text: str, x: Tensor = TOKENS, axes: str = "b n d") -> Named:
    return parse(text)(x, Hook("there", axes, GRID, 3, 0.5))


@pytest.mark.parametrize(
    ("text", "by_hand", "axes", "labels"),
    [
        ("none", [0, 1, 2, 3, 10, 11, 12, 13], "clip frame row column feature", {}),
        ("mean", [6.5], "clip feature", {}),
        ("space_mean", [1.5, 11.5], "clip frame feature", {}),
        ("time_mean", [5, 6, 7, 8], "clip row column feature", {}),
        ("time_mean.space_mean", [6.5], "clip feature", {}),
        ("coarse:2:1:2", [1, 2, 11, 12], "clip frame row column feature", {}),
        ("coarse:1:2:1", [5.5, 7.5], "clip frame row column feature", {}),
        ("tokens:7:0", [13, 0], "clip token feature", {"token": (7, 0)}),
        ("tokens:7:0.mean", [6.5], "clip feature", {}),
        ("region:1:*:0", [10, 12], "clip frame row column feature", {"frame": (1,), "row": (0, 1), "column": (0,)}),
        ("region:0-1:1-1:1", [3, 13], "clip frame row column feature", {"frame": (0, 1), "row": (1,), "column": (1,)}),
        ("region:1:*:0.region:0:1:0", [12], "clip frame row column feature",
         {"frame": (1,), "row": (1,), "column": (0,)}),
        ("region:1:*:0.space_mean", [11], "clip frame feature", {"frame": (1,)}),
        ("region:*:1:*.coarse:2:1:1", [2.5, 12.5], "clip frame row column feature", {}),
        ("moments", [5, 6, 7, 8, 5, 5, 5, 5, 0, 0, 0, 0], "clip moment row column feature",
         {"moment": ("mean", "deviation", "third")}),
        ("region:*:0:0.moments", [5, 5, 0], "clip moment row column feature",
         {"row": (0,), "column": (0,), "moment": ("mean", "deviation", "third")}),
    ],
)  # fmt: skip
def test_values_axes_and_labels(text: str, by_hand: list[float], axes: str, labels: dict) -> None:
    result = reduced(text)
    assert (
        result.values.flatten().tolist() == by_hand and " ".join(result.axes) == axes and dict(result.labels) == labels
    )
    assert str(parse(text)) == text


def test_cells_of_a_grid_that_does_not_divide_share_tokens() -> None:
    # three columns on two: (0, 1) and (1, 2)
    x = torch.tensor([0.0, 2.0, 10.0])[None, :, None]
    result = Coarse(1, 1, 2)(name_axes(x, "b n d", TokenGrid(1, 1, 3)))
    assert result.values.flatten().tolist() == [1, 6] and result.axes == ("clip", "frame", "row", "column", "feature")


def test_a_random_projection_by_hand() -> None:
    matrix = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / math.sqrt(2)
    assert torch.equal(gaussian(3, 2, 5), matrix)
    x = torch.tensor([1.0, 0.0, -2.0]).expand(1, 8, 3)
    result = reduced("random:2:5", x)
    torch.testing.assert_close(result.values[0, 1, 0, 1], (matrix[0] - 2 * matrix[2]).float())
    heads = reduced("random:2:5", x[:, :, None].expand(1, 8, 4, 3), "b n k e")
    assert heads.values.shape == (1, 2, 2, 2, 4, 2) and heads.axes[-2:] == ("head", "feature")
    channels = x[:, :1].transpose(1, 2)[..., None, None].expand(1, 3, 1, 2, 2)
    with pytest.raises(ValueError, match="one called 'feature'"):
        reduced("random:2:5", channels, "b c f h w")


def test_a_direction_by_hand(tmp_path: Path) -> None:
    save_file({"direction": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, tmp_path / "d.safetensors")
    x = torch.tensor([[1.0, 1.0], [10.0, 0.0]]).expand(1, 8, 2, 2)
    result = reduced(f"mean.direction:{tmp_path}/d.safetensors", x, "b n k e")
    assert result.values.tolist() == [1 + 2 + 30] and result.axes == ("clip",)
    opened = Projection.open(str(tmp_path / "d.safetensors"))
    assert opened.name == "d" and str(opened).startswith("direction:d:") and len(str(opened)) == len("direction:d:") + 8
    with pytest.raises(ValueError, match=r"^there, direction:d:.*: got axes clip, .* · expected features of \(2, 2\)"):
        parse(f"direction:{tmp_path}/d.safetensors")(x[..., :1], Hook("there", "b n k e", GRID, 3, 0.5))
    save_file({"other": torch.zeros(1)}, tmp_path / "o.safetensors")
    for name in ("o.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=rf"^got {tmp_path / name} · expected a safetensors file"):
            Projection.open(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^got an empty reduction · expected one of mean, space_mean, time_mean, coarse, "),
        ("random:0", r"^got reduction 'random:0' \(sizes are 1 or more\) · expected random as"),
        ("coarse:1:0:1", r"\(sizes are 1 or more\)"),
        ("coarse:1:1", r"^got reduction 'coarse:1:1' \("),
        ("tokens", r"^got reduction 'tokens' \(it takes the numbers of tokens\)"),
        ("region:a:1:1", r"^got reduction 'region:a:1:1' \(invalid literal"),
        ("maen", "^got reduction 'maen' · expected one of mean, .*did you mean 'mean'"),
    ],
)
def test_what_is_no_reduction(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens:8", r"^there, tokens:8: got tokens \(8,\) · expected numbers from 0 to 7"),
        ("tokens:-1", r"got tokens \(-1,\)"),
        ("region:2:0:0", "got frame 2 · expected some of 0 to 1"),
        ("region:0:2-3:0", "^there, region:0:2-3:0: got row 2-3 · expected some of 0 to 1"),
        ("coarse:3:1:1", r"got a grid of \(2, 2, 2\) · expected at least \(3, 1, 1\)"),
        ("mean.space_mean", "got axes clip, feature · expected one of row, column to average over"),
        ("mean.moments", "got axes clip, feature · expected one called 'frame'"),
        ("time_mean.tokens:0", "got axes clip, row, column, feature · expected one called 'frame'"),
        ("frame_mass", "got axes clip, frame, row, column, feature · expected one called 'key'"),
    ],
)
def test_what_an_activation_has_not(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reduced(text)


def test_parts_of_regions_in_words() -> None:
    assert str(Region(1, slice(None), slice(0, 2))) == "region:1:*:0-1"
    with pytest.raises(ValueError, match=r"got shape \(1, 8, 1\) · expected axes 'b d'"):
        name_axes(TOKENS, "b d", GRID)


def test_keys_of_a_pattern_stay_in_one_axis() -> None:
    named = name_axes(torch.zeros(1, 2, 3, 8), "b k m n", GRID)
    assert named.axes == ("clip", "head", "text_token", "key") and named.values.shape == (1, 2, 3, 8)
    masses = FrameMass()(Named(torch.ones(2, 1, 1, 2), ("frame", "row", "column", "key")))
    assert masses.axes == ("frame", "key_frame") and masses.values.tolist() == [[1, 1], [1, 1]]


def test_precision() -> None:
    for dtype, wide in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert reduced("mean", TOKENS.to(dtype)).values.dtype == wide
        assert reduced("random:2", TOKENS.to(dtype)).values.dtype == wide
        assert reduced("tokens:1", TOKENS.to(dtype)).values.dtype == dtype


# Attention from frame to frame: two frames of one token, of one head of width 4; logits q k / 2 are 0 or log 3.

LOG = 2 * math.log(3.0)
Q = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])[None, :, None]
K = torch.tensor([[LOG, 0, 0, 0], [0, 0, 0, 0]])[None, :, None]
V = torch.tensor([[8.0, 0, 0, 0], [4.0, 0, 0, 0]])[None, :, None]
Z = torch.tensor([[0.75 * 8 + 0.25 * 4, 0, 0, 0], [6.0, 0, 0, 0]])[None, :, None]
MASS = [[0.75, 0.25], [0.5, 0.5]]


def test_mass_from_queries_and_keys() -> None:
    torch.testing.assert_close(frame_mass(Q, K, 2)[0, 0], torch.tensor(MASS))
    torch.testing.assert_close(frame_mass(Q, K, 2, weights=1)[0, 0], torch.tensor(MASS))
    # both tokens in one frame: all it pays it pays to itself
    torch.testing.assert_close(frame_mass(Q, K, 1)[0, 0], torch.ones(1, 1))


def test_masses_are_kept_when_all_parts_have_been_met() -> None:
    def attention(axes: str) -> Table:
        names = [f"blocks.0.attn.hook_{name}" for name in ("pattern", "v", "rot_q", "rot_k", "z")]
        points = {n: HookPoint(n, axes, (Site("x", "output"),), lambda raw: raw, None) for n in names}
        return Table((), points, ("blocks.0",))

    masses = FrameMasses(attention("b k n n2"))
    assert masses.points == [f"blocks.0.attn.hook_{name}" for name in ("v", "rot_q", "rot_k", "z")]
    for name, x in zip(masses.points, (V, Q, K, Z), strict=True):
        assert masses.taken == {}
        masses(x, Hook(name, "b n k e", TokenGrid(2, 1, 1), 3, 0.5))
    torch.testing.assert_close(masses.taken[0][0, 0], torch.tensor(MASS))
    with pytest.raises(
        ValueError, match=r"^got blocks.0.attn.hook_pattern of axes b k n n\+m · expected b k n n2, video"
    ):
        FrameMasses(attention("b k n n+m"))


def test_attention_that_is_not_softmax_is_refused_with_how_far_it_is_off() -> None:
    _check_rows(Q, K, V, Z, "there")
    with pytest.raises(ValueError, match=r"^got there off by 5.0e-01 of itself · expected no mask and no gate"):
        _check_rows(Q, K, V, 2 * Z, "there")
    _check_rows(Q, K, V, Z * (1 + 1e-4), "there")  # the root of float32's precision is 3.5e-4
    with pytest.raises(ValueError, match="off by"):
        _check_rows(Q, K, V, Z * (1 + 1e-3), "there")
