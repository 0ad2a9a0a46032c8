"""By torch alone: a full forward for each head, and the least that an exact sweep must run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.head_patching.task import Runner, Task


def by_plain_hooks(task: Task) -> Runner:
    """A full forward for each head."""
    outs = _outs(task)

    def patched(sources: Sequence[Tensor], block: int, head: int) -> Tensor:
        columns = task.columns(head)

        def edit(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            z[..., columns] = sources[block][..., columns]
            return (z,)

        handle = outs[block].register_forward_pre_hook(edit)
        try:
            return _stream(task, task.corrupted)
        finally:
            handle.remove()

    def run() -> Tensor:
        sources: list[Tensor] = []
        with _watching(outs, lambda module, args: sources.append(args[0])):
            _stream(task, task.clean)
        return task.effects(partial(patched, sources), _stream(task, task.corrupted))

    return run


def _outs(task: Task) -> list[nn.Module]:
    return [task.transformer.blocks[block].attn1.to_out[0] for block in task.blocks]


def _stream(task: Task, inputs: Mapping[str, Any]) -> Tensor:
    """What a full forward puts out at the readout."""
    outputs: list[Tensor] = []
    handle = task.transformer.blocks[task.readout].register_forward_hook(
        lambda *arguments: outputs.append(arguments[-1])
    )
    try:
        task.transformer(**inputs)
    finally:
        handle.remove()
    return outputs[0]


@contextmanager
def _watching(modules: Sequence[nn.Module], see: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(see) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_floor(task: Task) -> Runner:
    """The forwards that no exact sweep of whole blocks does without; nothing is patched."""
    blocks = [task.transformer.blocks[block] for block in task.blocks]

    def run() -> None:
        _entering(task, task.clean)
        entering = _entering(task, task.corrupted)
        shared = [_copies(value, task.heads) for value in entering[0][1:]]
        for start in task.blocks:
            stream = _copies(entering[start][0], task.heads)
            for block in blocks[start:]:
                stream = block(stream, *shared)
            task.logit(stream).cpu()

    return run


def _copies(value: Any, count: int) -> Any:
    return value.repeat(count, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value


class _ReachedReadoutError(Exception):
    """The readout was reached."""


def _entering(task: Task, inputs: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What each block up to the readout is called with; nothing behind is run."""
    called: list[tuple[Any, ...]] = []

    def stop(*arguments: Any) -> None:
        raise _ReachedReadoutError

    handle = task.transformer.blocks[task.readout].register_forward_hook(stop)
    modules = [task.transformer.blocks[block] for block in task.blocks]
    try:
        with _watching(modules, lambda module, args: called.append(args)):
            task.transformer(**inputs)
    except _ReachedReadoutError:
        return called
    finally:
        handle.remove()
    raise RuntimeError("got a forward that did not reach its readout · expected a block of the transformer")
