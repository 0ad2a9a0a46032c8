"""An edit: its kind, values, heads and tokens; a hook function that can be saved to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dit_lens.arguments import integers, places, triple
from dit_lens.axes import Region
from dit_lens.edits.changes import CHANGES
from dit_lens.hook_points import Hook

Value = Tensor | Mapping[int, Tensor] | float | int


@dataclass(frozen=True, eq=False)
class Edit:
    """A hook function (tensor, hook) -> tensor that changes the chosen heads and tokens and no other bit.

    Created by the functions of `dit_lens.edits`, such as `edits.zero(heads=[2])`.

    Attributes:
        kind: the name of that function.
        values: its other arguments by name.
        heads: indices on the k axis, or one index; all by default.
        tokens: frame, row and column (integers, slices or lists, on the token grid); all by default.

    Raises:
        TypeError: heads that are no integers, or tokens that are not three parts.
    """

    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)
    heads: Sequence[int] | None = None
    tokens: Region | None = None

    def __post_init__(self) -> None:
        if self.heads is not None:
            object.__setattr__(self, "heads", integers(self.heads, "heads"))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", triple(self.tokens, "tokens"))

    def __call__(self, x: Tensor, hook: Hook) -> Tensor:
        """The activation with the chosen heads and tokens changed.

        Raises:
            ValueError: the activation lacks the axis of heads or video tokens, or an index is outside of it.
        """
        chosen = _chosen(x, hook, self.heads, self.tokens)
        return torch.where(chosen, CHANGES[self.kind](x, hook, **self.values), x)

    def __repr__(self) -> str:
        arguments = {**self.values, "heads": self.heads, "tokens": self.tokens}
        words = [f"{name}={_brief(value)}" for name, value in arguments.items() if value is not None]
        return f"{self.kind}({', '.join(words)})"


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}>"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{step}: {_brief(tensor)}' for step, tensor in value.items())}}}"
    return repr(value)


def _chosen(x: Tensor, hook: Hook, heads: Sequence[int] | None, tokens: Region | None) -> Tensor:
    """A boolean tensor that broadcasts against x: True where the edit applies."""
    axes = hook.axes.split()
    chosen = torch.ones((1,) * x.ndim, dtype=torch.bool, device=x.device)
    if heads is not None:
        chosen = chosen & _along(x, _axis(axes, "k", hook), heads, "head")
    if tokens is not None:
        chosen = chosen & _along(
            x, _axis(axes, "n", hook), hook.grid.mask(*tokens).nonzero().flatten().tolist(), "token"
        )
    return chosen


def _axis(axes: list[str], letter: str, hook: Hook) -> int:
    if letter not in axes:
        what = {"k": "heads", "n": "video tokens"}[letter]
        raise ValueError(
            f"got an edit of {what} at {hook.name} ({hook.axes}) · expected a hook point with axis {letter}"
        )
    return axes.index(letter)


def _along(x: Tensor, axis: int, indices: Sequence[int], what: str) -> Tensor:
    mask = torch.zeros(x.shape[axis], dtype=torch.bool, device=x.device)
    mask[places(indices, x.shape[axis], what)] = True
    return mask.view([-1 if i == axis else 1 for i in range(x.ndim)])
