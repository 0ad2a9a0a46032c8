"""Edits: pure functions (tensor, hook) -> tensor that know no model.

Each takes `heads` (indices on the k axis) and `tokens` (a (frame, row, column) triple of integers or slices on the
token grid) and leaves everything else as it is, bit for bit. Use them as hooks:
`lens.run_with_hooks(traj, step=25, fwd_hooks=[("blocks.3.attn.hook_z", dl.edits.zero(heads=[2]))])`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import Part
from dit_lens.hook_points import Hook, HookFunction

Tokens = tuple[Part, Part, Part]


def zero(heads: Sequence[int] | None = None, tokens: Tokens | None = None) -> HookFunction:
    """Sets the chosen heads and tokens to zero."""
    return _edit(torch.zeros_like, heads, tokens)


def patch(source: Tensor, heads: Sequence[int] | None = None, tokens: Tokens | None = None) -> HookFunction:
    """Takes the chosen heads and tokens from `source`, an activation of the same shape from another run.

    Raises:
        ValueError: (when run) the shapes differ.
    """

    def take(x: Tensor) -> Tensor:
        if source.shape != x.shape:
            raise ValueError(
                f"got a source of shape {tuple(source.shape)} for an activation of shape {tuple(x.shape)}"
                " · expected equal shapes · cache the source with the same batch and step"
            )
        return source.to(x)

    return _edit(take, heads, tokens)


def add(vector: Float[Tensor, "..."], heads: Sequence[int] | None = None, tokens: Tokens | None = None) -> HookFunction:
    """Adds a vector that broadcasts against the activation."""
    return _edit(lambda x: x + vector.to(x), heads, tokens)


def project_out(
    direction: Float[Tensor, " d"], heads: Sequence[int] | None = None, tokens: Tokens | None = None
) -> HookFunction:
    """Removes the component along a direction of the last axis.

    Raises:
        ValueError: the direction is zero.
    """
    if not direction.any():
        raise ValueError("got a direction of length zero · expected a direction · was the probe fitted?")
    unit = direction / direction.norm()
    return _edit(lambda x: x - (x @ unit.to(x))[..., None] * unit.to(x), heads, tokens)


def _edit(change: Callable[[Tensor], Tensor], heads: Sequence[int] | None, tokens: Tokens | None) -> HookFunction:
    def edit(x: Tensor, hook: Hook) -> Tensor:
        return torch.where(_chosen(x, hook, heads, tokens), change(x), x)

    return edit


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
