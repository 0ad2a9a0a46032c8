"""Axis letters and the token grid.

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

Part = int | slice


@dataclass(frozen=True)
class TokenGrid:
    """How n video tokens lie on the clip: frames x rows x columns, columns fastest."""

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
        self, frame: Part = slice(None), row: Part = slice(None), column: Part = slice(None)
    ) -> Bool[Tensor, " n"]:
        """True on the tokens of the given frames, rows and columns (integers or slices, in tokens)."""
        chosen = torch.zeros(self.frames, self.rows, self.columns, dtype=torch.bool)
        chosen[frame, row, column] = True
        return chosen.flatten()
