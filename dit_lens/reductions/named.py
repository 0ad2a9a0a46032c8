"""Tensors with named axes, the inputs and outputs of reductions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dit_lens.axes import TokenGrid

WORDS = {
    "b": ("clip",), "n": ("frame", "row", "column"), "c": ("channel",), "f": ("frame",), "h": ("row",),
    "w": ("column",), "m": ("text_token",), "a": ("audio_token",), "k": ("head",), "e": ("feature",),
    "d": ("feature",), "d_mlp": ("feature",),
}  # fmt: skip
GRID = ("frame", "row", "column")


@dataclass(frozen=True, eq=False)
class Named:
    """A tensor with the names of its axes, and labels for axes that are not simply numbered from 0."""

    values: Tensor
    axes: tuple[str, ...]
    labels: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)

    def dim(self, axis: str) -> int:
        """The index of an axis.

        Raises:
            ValueError: the tensor has no such axis.
        """
        if axis not in self.axes:
            raise ValueError(f"got axes {', '.join(self.axes)} · expected one called {axis!r} · reduce otherwise")
        return self.axes.index(axis)

    def precise(self) -> Tensor:
        """The values in float32 or better."""
        return self.values.to(torch.promote_types(self.values.dtype, torch.float32))


def name_axes(x: Tensor, letters: str, grid: TokenGrid) -> Named:
    """A tensor with named axes and its video tokens on their grid: "b n d" becomes (clip, frame, row, column, feature).

    The key axis of a pattern is "key", or "text_key" where all keys are text.

    Raises:
        ValueError: the numbers of axes and letters differ.
    """
    spelled = letters.split()
    if len(spelled) != x.ndim:
        raise ValueError(f"got shape {tuple(x.shape)} · expected axes {letters!r}")
    is_pattern = len(spelled) == 4 and spelled[1] == "k"
    keys = ("text_key",) if spelled[-1] == "m" else ("key",)
    words = [keys if is_pattern and i == 3 else WORDS[letter] for i, letter in enumerate(spelled)]
    for i, letter in enumerate(spelled):
        if letter == "n" and words[i] == GRID:
            x = x.unflatten(i, (grid.frames, grid.rows, grid.columns))
            break
    return Named(x, tuple(word for several in words for word in several))
