"""Running a model from a block on, with the streams that enter it; earlier blocks are skipped.

Blocks 0 to 3, and a head of block 2 is edited: what enters block 2 is as in the unedited run, which was cached.
plain run:   embed -> 0 -> 1 -> 2 -> 3 -> velocity
edited run:               cached -> 2* -> 3 -> velocity      half of the blocks, and the same numbers to the bit
In nnsight's terms blocks 0 and 1 are `skip`ped, the last of them with the cached stream as its output. Block 0
has no block before it to skip: its streams are written at its own input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from dit_lens.arguments import integer
from dit_lens.cache import ActivationCache
from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import HookFunction
from dit_lens.running.evaluation import Evaluation, Request
from dit_lens.tracing import Prefix

if TYPE_CHECKING:
    from dit_lens.running.model import Model


def restart(
    model: Model, evaluation: Evaluation, start: int | None, entering: Mapping[str, Tensor] | None, request: Request
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Velocity and kept activations of an evaluation that starts at a block, under the hooks that are active.

    Args:
        start: block number, counted from the end if negative.
        entering: a cache, or the streams that enter the block, by hook point.

    Raises:
        TypeError: one of the two alone, or streams that are no mapping. IndexError: no such block.
        ValueError: only points of skipped blocks are requested. See also `run_from`.
    """
    if start is None or entering is None:
        raise TypeError(
            f"got {'streams' if start is None else 'start_at'} alone · expected both start_at= and entering="
        )
    if not isinstance(entering, Mapping):
        raise TypeError(
            f"got a {type(entering).__name__} as entering · expected a cache, or a dict of streams by hook point"
        )
    start, blocks = integer(start, "start_at"), model.blocks
    if not -blocks <= start < blocks:
        raise IndexError(f"got start_at={start} · expected {-blocks} to {blocks - 1}")
    start %= blocks
    requested = [point.name for point in model.table.select(request.names, model.name)]
    names = [name for name in requested if not _lies_before(start, name)]
    if requested and not names:
        raise ValueError(f"got only points of blocks before {start} to keep · expected some from there on")
    functions = model.of(evaluation).active.at(evaluation)
    return run_from(model, evaluation, start, entering, functions, replace(request, names=names))


def run_from(
    model: Model,
    evaluation: Evaluation,
    start: int,
    entering: Mapping[str, Tensor],
    functions: Mapping[str, Sequence[HookFunction]],
    request: Request,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Velocity and kept activations of the blocks from `start` on, with these hook functions and no others.

    Args:
        evaluation: as for the whole model, at the batch size of the streams.
        entering: values of `table.entering(start)`.
        request: its prefix may name a module that is run partly.

    Raises:
        KeyError: a stream is missing. ValueError: a cache of another expert than the one that the evaluation calls, or
            a point in a skipped block.
    """
    needed = model.table.entering(start)
    if missing := [name for name in needed if name not in entering]:
        raise KeyError(f"got no {missing[0]} to enter block {start} with · expected {', '.join(needed)} in a cache")
    if isinstance(entering, ActivationCache):
        _check_expert(model, evaluation, entering)
    if skipped := [name for name in (*functions, request.stop_at or "") if _lies_before(start, name)]:
        raise ValueError(f"got {skipped[0]} to visit · expected points from block {start} on, where it is entered")
    streams = {name: entering[name].to(model.of(evaluation).device) for name in needed}
    if start == 0:
        functions = {**functions, **{n: [_replace_by(x), *functions.get(n, ())] for n, x in streams.items()}}
    stream = tuple(streams.values()) if len(streams) > 1 else streams[needed[0]]
    prefix = replace(request.prefix or Prefix(), paths=model.table.blocks[:start], stream=stream)
    return model.run_with(evaluation, functions, replace(request, prefix=prefix))


def _check_expert(model: Model, evaluation: Evaluation, entering: ActivationCache) -> None:
    called, cached = model.anatomy(evaluation.expert), entering.anatomy
    if called is None or cached is None:
        return
    weights = [next(iter(anatomy.heads.values())).weight for anatomy in (called, cached)]
    if weights[0].data_ptr() != weights[1].data_ptr():
        raise ValueError(
            f"got streams that another transformer made than the {evaluation.expert or 'one'} of sigma"
            f" {evaluation.sigma:g} · expected skipped and recomputed blocks of one · cache them at the same step"
        )


def _lies_before(start: int, name: str) -> bool:
    """Whether a point lies in a block before `start`."""
    return name.startswith("blocks.") and block_of(name) < start


def _replace_by(stream: Tensor) -> HookFunction:
    return lambda x, hook: stream
