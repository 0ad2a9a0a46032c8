"""An edit: what kind, of which heads and tokens, with which values; a hook function that can be written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dit_lens.axes import Part
from dit_lens.edits.changes import CHANGES
from dit_lens.hook_points import Hook

Tokens = tuple[Part, Part, Part]
Value = Tensor | Mapping[int, Tensor] | float | int


@dataclass(frozen=True, eq=False)
class Edit:
    """A hook function (tensor, hook) -> tensor that changes the chosen heads and tokens and keeps the other bits.

    Made by the functions of `dit_lens.edits`, such as `edits.zero(heads=[2])`.

    Attributes:
        kind: the name of that function.
        values: its other arguments by name.
        heads: indices on the k axis; all unless given.
        tokens: frame, row and column (integers or slices on the token grid); all unless given.
    """

    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)
    heads: Sequence[int] | None = None
    tokens: Tokens | None = None

    def __call__(self, x: Tensor, hook: Hook) -> Tensor:
        """The activation with the chosen places changed.

        Raises:
            ValueError: the activation has no heads or no video tokens where some are asked for, or not as many.
        """
        chosen = _chosen(x, hook, self.heads, self.tokens)
        return torch.where(chosen, CHANGES[self.kind](x, hook, **self.values), x)

    def __repr__(self) -> str:
        told = {**self.values, "heads": self.heads, "tokens": self.tokens}
        return (
            f"{self.kind}({', '.join(f'{name}={_brief(value)}' for name, value in told.items() if value is not None)})"
        )


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}>"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{step}: {_brief(tensor)}' for step, tensor in value.items())}}}"
    return repr(value)


def _chosen(x: Tensor, hook: Hook, heads: Sequence[int] | None, tokens: Tokens | None) -> Tensor:
    """A boolean tensor that broadcasts against x: True where the edit applies."""
    axes = hook.axes.split()
    chosen = torch.ones((1,) * x.ndim, dtype=torch.bool, device=x.device)
    if heads is not None:
        chosen = chosen & _along(x, _axis(axes, "k", hook), heads)
    if tokens is not None:
        chosen = chosen & _along(x, _axis(axes, "n", hook), hook.grid.mask(*tokens).nonzero().flatten().tolist())
    return chosen


def _axis(axes: list[str], letter: str, hook: Hook) -> int:
    if letter not in axes:
        what = {"k": "heads", "n": "video tokens"}[letter]
        raise ValueError(
            f"got an edit of {what} at {hook.name} ({hook.axes}) · expected a hook point with axis {letter}"
        )
    return axes.index(letter)


def _along(x: Tensor, axis: int, indices: Sequence[int]) -> Tensor:
    size = x.shape[axis]
    if outside := [i for i in indices if not -size <= i < size]:
        raise ValueError(f"got index {outside[0]} on an axis of {size} · expected {-size} to {size - 1}")
    mask = torch.zeros(size, dtype=torch.bool, device=x.device)
    mask[list(indices)] = True
    return mask.view([-1 if i == axis else 1 for i in range(x.ndim)])
