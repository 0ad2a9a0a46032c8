"""What one evaluation of a transformer is, and what is asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from accelerate.utils import recursively_apply
from torch import Tensor

from dit_lens.arguments import triple
from dit_lens.axes import Region
from dit_lens.hook_points import QKV, Hook, NamesFilter
from dit_lens.models.loading import floating
from dit_lens.models.placing import check_device
from dit_lens.tracing import Prefix

Reduce = Callable[[Tensor], Tensor] | Callable[[Tensor, Hook], Tensor]
Look = Callable[[QKV, Hook], None]
SHARED = ("padding_mask", "image_rotary_emb")  # no axis of clips, or one of size 1 for any number of them


@dataclass(frozen=True)
class Evaluation:
    """One call of a transformer: its keyword arguments and its place in a generation.

    Attributes:
        step: counted from data; None where it lies on no trajectory.
        sigma: the noise level, that of the noisiest clip and token.
        expert: which transformer is called, where a model has several.
        branches: guidance branches that a pipeline calls it for, in the order of the batch; none where it is unknown.
    """

    inputs: Mapping[str, Any]
    step: int | None
    sigma: float
    expert: str | None = None
    branches: tuple[str, ...] = ()

    @property
    def branch(self) -> str | None:
        """The guidance branch of the whole batch, if it is known and there is one."""
        return self.branches[0] if len(self.branches) == 1 else None


@dataclass(frozen=True)
class Request:
    """What to keep of an evaluation and how much of it to run.

    Attributes:
        names: hook points to keep.
        reduce: (tensor) or (tensor, hook) -> tensor, applied to each kept activation where it is made.
        stop_at: a hook point behind which nothing is run; there is no velocity then.
        prefix: blocks that are skipped, and the stream that leaves them.
        attention: by the name of a pattern, a function that is called with what the pattern is made of; the pattern
            itself is not computed.
    """

    names: NamesFilter = ()
    reduce: Reduce | None = None
    stop_at: str | None = None
    prefix: Prefix | None = None
    attention: Mapping[str, Look] = field(default_factory=dict)

    def __post_init__(self):
        if self.stop_at is not None and not isinstance(self.stop_at, str):
            raise TypeError(f"got stop_at={self.stop_at!r} · expected the name of a hook point")


PLAIN = Request()


def reduction(reduce: Reduce | None) -> Callable[[Tensor, Hook], Tensor]:
    """What keeps an activation, reduced or as it is, in memory of its own.

    An activation may share memory with the latent, the output or another activation, and a part of one keeps the whole
    alive. What is part of a graph stays part of it: gradients with respect to it can be asked for.
    """
    inner = _plain(reduce)

    def keep(x: Tensor, hook: Hook) -> Tensor:
        kept = inner(x, hook)
        if not isinstance(kept, Tensor):
            raise TypeError(
                f"got {type(kept).__name__} from the reduction at {hook.name} · expected a tensor"
                " · lambda x, hook: reduction(x, hook).values takes it out of a named one"
            )
        return kept if kept.requires_grad else kept.clone()

    return keep


def _plain(reduce: Reduce | None) -> Callable[[Tensor, Hook], Tensor]:
    """The reduction as a function of (tensor, hook), whether or not it takes the hook."""
    if reduce is None:
        return lambda x, hook: x
    if not callable(reduce):
        raise TypeError(
            f"got a {type(reduce).__name__} as reduce · expected a function (tensor) or (tensor, hook) -> tensor, such"
            " as lambda x: x.mean(1)"
        )
    if _arguments(reduce) > 1:
        return cast(Callable[[Tensor, Hook], Tensor], reduce)
    alone = cast(Callable[[Tensor], Tensor], reduce)
    return lambda x, hook: alone(x)


def keeping(
    reduce: Reduce | None, tokens: Region | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Reduce | None:
    """One reduction of what is asked of kept activations; None where nothing is.

    Args:
        tokens: (frame, row, column), integers or slices; only these video tokens are kept, and reduced.
        device, dtype: of what is kept.

    Raises:
        TypeError: a reduction or tokens of another kind. ValueError: a device or dtype that is not there.
    """
    if reduce is tokens is device is dtype is None:
        return None
    inner, place, kind = _plain(reduce), check_device(device), floating(dtype)
    region = None if tokens is None else triple(tokens, "tokens")

    def keep(x: Tensor, hook: Hook) -> Tensor:
        axes = hook.axes.split()
        if region is not None and "n" in axes:
            x = x.index_select(axes.index("n"), hook.grid.mask(*region).nonzero().flatten().to(x.device))
        return inner(x, hook).to(device=place, dtype=kind)

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
    """The evaluation of that many copies of its clips, batch after batch; what serves all clips stays as it is.

    Raises:
        ValueError: an input that is not there for each clip.
    """
    return _changed(evaluation, lambda x: x.repeat(copies, *[1] * (x.ndim - 1)))


def some(evaluation: Evaluation, rows: slice | Sequence[int]) -> Evaluation:
    """The evaluation of some of its clips; what serves all clips at once stays as it is.

    Raises:
        ValueError: an input that is not there for each clip.
    """
    return _changed(evaluation, lambda x: x[rows])


def _changed(evaluation: Evaluation, change: Callable[[Tensor], Tensor]) -> Evaluation:
    """The evaluation with every tensor changed that has an axis of clips, in containers of any nesting."""
    clips = count(evaluation)

    def changed(x: Tensor, name: str) -> Tensor:
        if len(x) != clips:
            raise ValueError(
                f"got {name} of shape {tuple(x.shape)} in an evaluation of {clips} clips · expected one value for each"
                f" clip (only {', '.join(SHARED)} and plain numbers serve all clips at once)"
            )
        return change(x)

    inputs = {
        name: value if name in SHARED else recursively_apply(changed, value, name, test_type=_has_clips)
        for name, value in evaluation.inputs.items()
    }
    return replace(evaluation, inputs=inputs)


def _has_clips(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def count(evaluation: Evaluation) -> int:
    """The number of clips in an evaluation."""
    return len(evaluation.inputs["hidden_states"])
