"""Attention that frames pay to frames: worked out by hand, and in chunks the same as from the whole pattern."""

from __future__ import annotations

import pytest
import torch
from small_models import SMALL, build

from dit_lens import laws
from dit_lens.axes import TokenGrid
from dit_lens.hook_points import Hook
from dit_lens.reductions import FrameMasses, frame_mass, parse
from dit_lens.reductions.attention import VIDEO_ALONE
from dit_lens.running.evaluation import Request
from dit_lens.running.hooked import HookedTransformer

GRID = TokenGrid(3, 2, 2)


def reduced(pattern: torch.Tensor, axes: str = "b k n n2") -> torch.Tensor:
    result = parse("frame_mass")(pattern, Hook("blocks.1.attn.hook_pattern", axes, GRID, 3, 0.5))
    assert result.axes == ("clip", "head", "frame", "key_frame")
    return result.values


def test_all_attention_on_one_frame_by_hand() -> None:
    pattern = torch.zeros(1, 1, 12, 12)
    pattern[..., :4, 5] = 1  # the first frame looks at a token of the second
    pattern[..., 4:, 0] = 0.25  # the others at one of the first ...
    pattern[..., 4:, 11] = 0.75  # ... and at one of the third
    by_hand = torch.tensor([[0, 1, 0], [0.25, 0, 0.75], [0.25, 0, 0.75]])
    assert torch.equal(reduced(pattern)[0, 0], by_hand)
    with_text = torch.cat([pattern / 2, torch.full((1, 1, 12, 5), 0.1)], dim=-1)
    assert torch.equal(reduced(with_text, "b k n n+m")[0, 0], by_hand / 2)


def test_text_alone_has_no_frames() -> None:
    with pytest.raises(ValueError, match="hook_pattern, frame_mass"):
        reduced(torch.rand(1, 1, 12, 12), "b k n m")


@pytest.mark.parametrize("weights", [1, 150, 2**20])
def test_in_chunks_of_any_size_it_is_that_of_the_whole_pattern(weights: int) -> None:
    q, k = torch.randn(2, 2, 12, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pattern = (torch.einsum("bnke,bmke->bknm", q, k) / 8**0.5).softmax(-1)
    masses = frame_mass(q, k, GRID.frames, weights)
    torch.testing.assert_close(masses, reduced(pattern))
    torch.testing.assert_close(masses.sum(-1), torch.ones(2, 3, 3, dtype=torch.float64))
    assert (masses - frame_mass(k, q, GRID.frames)).abs().max() > 0.01


def test_no_more_weights_are_held_than_told(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: (held.append(x.numel()), softmax(x, dim))[1])
    q = torch.randn(2, 12, 3, 8)
    for weights in (150, 2**20):
        held.clear()
        frame_mass(q, q, GRID.frames, weights)
        assert max(held) <= weights and sum(held) == 2 * 3 * 12 * 12
    assert len(held) == GRID.frames


def test_it_is_bfloat16_worked_out_in_float32() -> None:
    q, k = torch.randn(2, 1, 12, 1, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    masses = frame_mass(q, k, GRID.frames)
    assert masses.dtype == torch.float32 and (masses.sum(-1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", list(SMALL))
def test_masked_gated_or_with_text_it_is_refused_else_from_queries_and_keys_it_is_that_of_the_models_pattern(
    name: str,
) -> None:
    model = HookedTransformer(build(name), f"small {name}")
    patterns = [f"blocks.{block}.attn.hook_pattern" for block in range(len(model.table.blocks))]
    step = parse("frame_mass")
    request = Request(patterns, lambda x, hook: step(x, hook).values)
    if name in ("skyreels", "ltx2_gated") or any(model.table.points[point].axes != VIDEO_ALONE for point in patterns):
        with pytest.raises(ValueError, match="hook_pattern, reduced by frame_mass"):
            masses = FrameMasses(model.table)
            model.run_with(laws.example(model), {point: [masses] for point in masses.points}, request)
        return
    masses = FrameMasses(model.table)
    _, kept = model.run_with(laws.example(model), {point: [masses] for point in masses.points}, request)
    assert list(masses.taken) == list(range(len(patterns)))
    for block, point in enumerate(patterns):
        torch.testing.assert_close(masses.taken[block], kept[point], atol=1e-6, rtol=1e-5)
        assert (kept[point] - 1 / kept[point].shape[-1]).abs().max() > 1e-5
