"""What one evaluation of a transformer is, and what is asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from dit_lens.axes import Part
from dit_lens.hook_points import Hook, NamesFilter
from dit_lens.tracing import Prefix

Reduce = Callable[[Tensor], Tensor] | Callable[[Tensor, Hook], Tensor]
Tokens = tuple[Part, Part, Part]
SHARED = ("padding_mask",)  # of batch 1 for any number of clips (Cosmos)


@dataclass(frozen=True)
class Evaluation:
    """One call of a transformer: its keyword arguments and its place in a generation.

    Attributes:
        step: counted from data; None where it lies on no trajectory.
        sigma: the noise level, that of the noisiest clip and token.
        expert: which transformer is called, where a model has several.
        branches: guidance branches that a pipeline calls it for, in the order of the batch; none where it is not told.
    """

    inputs: Mapping[str, Any]
    step: int | None
    sigma: float
    expert: str | None = None
    branches: tuple[str, ...] = ()

    @property
    def branch(self) -> str | None:
        """The guidance branch of the whole batch, if it is told and there is one."""
        return self.branches[0] if len(self.branches) == 1 else None


@dataclass(frozen=True)
class Request:
    """What to keep of an evaluation and how much of it to run.

    Attributes:
        names: hook points to keep.
        reduce: (tensor) or (tensor, hook) -> tensor, applied to each kept activation where it is made.
        stop_at: a hook point behind which nothing is run; there is no velocity then.
        prefix: blocks that are skipped, and the stream that leaves them.
    """

    names: NamesFilter = ()
    reduce: Reduce | None = None
    stop_at: str | None = None
    prefix: Prefix | None = None


PLAIN = Request()


def reduction(reduce: Reduce | None) -> Callable[[Tensor, Hook], Tensor]:
    """What keeps an activation: the reduction, told of the hook where it needs a second argument, or nothing."""
    if reduce is None:
        return lambda x, hook: x
    if _arguments(reduce) > 1:
        return cast(Callable[[Tensor, Hook], Tensor], reduce)
    alone = cast(Callable[[Tensor], Tensor], reduce)
    return lambda x, hook: alone(x)


def keeping(
    reduce: Reduce | None, tokens: Tokens | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Reduce | None:
    """One reduction of what is asked of kept activations; None where nothing is.

    Args:
        tokens: (frame, row, column), integers or slices; only these video tokens are kept, and reduced.
        device, dtype: of what is kept.
    """
    if (reduce, tokens, device, dtype) == (None,) * 4:
        return None
    inner = reduction(reduce)

    def keep(x: Tensor, hook: Hook) -> Tensor:
        axes = hook.axes.split()
        if tokens is not None and "n" in axes:
            x = x.index_select(axes.index("n"), hook.grid.mask(*tokens).nonzero().flatten().to(x.device))
        return inner(x, hook).to(device=device, dtype=dtype)

    return keep


def _arguments(function: Callable[..., Any]) -> int:
    """How many arguments a function must be given by position; those of a compiled one nobody knows: one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 1
    by_position = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return sum(p.kind in by_position and p.default is p.empty for p in parameters)


def repeat(evaluation: Evaluation, copies: int) -> Evaluation:
    """The evaluation of that many copies of its clips; what serves all clips at once stays as it is."""
    tensors = {
        name: value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, Tensor) and name not in SHARED
        else value
        for name, value in evaluation.inputs.items()
    }
    return replace(evaluation, inputs=tensors)


def some(evaluation: Evaluation, rows: slice | Sequence[int]) -> Evaluation:
    """The evaluation of some of its clips; what serves all clips at once stays as it is."""
    clips = count(evaluation)
    tensors = {
        name: value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == clips else value
        for name, value in evaluation.inputs.items()
    }
    return replace(evaluation, inputs=tensors)


def count(evaluation: Evaluation) -> int:
    """The number of clips in an evaluation."""
    return len(evaluation.inputs["hidden_states"])
