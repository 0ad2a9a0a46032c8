"""The token grid: how tokens lie on frames, rows and columns."""

from __future__ import annotations

import torch

from dit_lens.axes import TokenGrid

GRID = TokenGrid(frames=2, rows=3, columns=4)


def test_tokens_is_the_product_of_the_sides() -> None:
    assert GRID.tokens == 2 * 3 * 4


def test_unflatten_puts_columns_fastest_and_keeps_other_axes() -> None:
    x = torch.arange(2 * 24 * 5).reshape(2, 24, 5)
    on_grid = GRID.unflatten(x)
    assert on_grid.shape == (2, 2, 3, 4, 5)
    for frame, row, column in [(0, 0, 1), (0, 2, 0), (1, 1, 3)]:
        assert torch.equal(on_grid[:, frame, row, column], x[:, frame * 12 + row * 4 + column])


def test_mask_of_one_token_is_its_place_in_the_sequence() -> None:
    assert GRID.mask(1, 2, 3).nonzero().flatten().tolist() == [1 * 12 + 2 * 4 + 3]


def test_mask_takes_integers_slices_and_everything() -> None:
    assert GRID.mask(frame=1).nonzero().flatten().tolist() == list(range(12, 24))
    assert GRID.mask(row=slice(0, 1), column=-1).nonzero().flatten().tolist() == [3, 15]
    assert GRID.mask().all()
    assert not GRID.mask(frame=slice(0, 0)).any()
