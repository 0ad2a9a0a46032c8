"""What one evaluation of a transformer is, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dit_lens.hook_points import NamesFilter
from dit_lens.tracing import Prefix

Reduce = Callable[[Tensor], Tensor]
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
        reduce: applied to each kept activation where it is made.
        stop_at: a hook point behind which nothing is run; there is no velocity then.
        prefix: blocks that are skipped, and the stream that leaves them.
    """

    names: NamesFilter = ()
    reduce: Reduce | None = None
    stop_at: str | None = None
    prefix: Prefix | None = None


PLAIN = Request()


def repeat(evaluation: Evaluation, copies: int) -> Evaluation:
    """The evaluation of that many copies of its clips; what serves all clips at once stays as it is."""
    tensors = {
        name: value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, Tensor) and name not in SHARED
        else value
        for name, value in evaluation.inputs.items()
    }
    return replace(evaluation, inputs=tensors)
