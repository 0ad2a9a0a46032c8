"""Axis letters, and the grid of video tokens.

Letters, in type hints and einops patterns only: `b` clip, `F H W` pixels, `c f h w` latent, `n` video tokens
(= f*h*w of the grid), `m` text tokens, `a` audio tokens, `k` head, `e` head width, `d` model width, `s` step,
`l` block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Shaped
from torch import Tensor

from dit_lens.arguments import places

Indices = int | slice
Selection = Indices | list[int]  # a list need not be contiguous
Region = tuple[Selection, Selection, Selection]  # (frame, row, column) of the token grid


@dataclass(frozen=True)
class TokenGrid:
    """The grid of n video tokens: frames x rows x columns, columns fastest.

    On a grid of 2 frames, 2 rows and 3 columns, token 7 is frame 1, row 0, column 1 (6 + 0 + 1).
    """

    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Number of video tokens n."""
        return self.frames * self.rows * self.columns

    def unflatten(self, x: Shaped[Tensor, "b n *rest"]) -> Shaped[Tensor, "b f h w *rest"]:
        """Tokens back on their grid."""
        return rearrange(x, "b (f h w) ... -> b f h w ...", f=self.frames, h=self.rows, w=self.columns)

    def mask(
        self, frame: Selection = slice(None), row: Selection = slice(None), column: Selection = slice(None)
    ) -> Bool[Tensor, " n"]:
        """True on the tokens of the given frames, rows and columns (integers, slices or lists, in tokens).

        Raises:
            ValueError: an index outside of the grid. TypeError: another type than these.
        """
        chosen = torch.ones(self.frames, self.rows, self.columns, dtype=torch.bool)
        for axis, (part, what) in enumerate(((frame, "frame"), (row, "row"), (column, "column"))):
            along = torch.zeros(chosen.shape[axis], dtype=torch.bool)
            along[places(part, len(along), what)] = True
            chosen &= along.view([-1 if i == axis else 1 for i in range(3)])
        return chosen.flatten()
