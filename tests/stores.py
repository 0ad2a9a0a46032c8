"""Stores of made-up values, which a batch's number decides: what tests write, kill, damage and read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.store import Place, Plan, Store, StoreWriter, Variable

CLIPS = 3  # to a batch
MEAN = Variable("resid_post.mean", ("block", "feature"), (2, 5), "float32", {"block": (1, 4)}, ("p", "q"), "mean")
VELOCITY = Variable("velocity.none", ("row", "column"), (2, 3), "bfloat16")
BITS = {"bfloat16": torch.int16, "float16": torch.int16, "float32": torch.int32, "float64": torch.int64}


def plan(variables: Sequence[Variable] = (MEAN, VELOCITY), batches: int = 3, **options: Any) -> Plan:
    """Two steps and so many batches of three clips."""
    fields = {"asked": {"model": "made up"}, **options}
    return Plan(tuple(variables), (2, 5), (0.25, 0.75), (250.0, 750.0), batches, CLIPS * batches, **fields)


def columns(batch: int) -> dict[str, list[Any]]:
    """Three clips of two groups, one of unknown label."""
    ids = [f"made/{batch}/{i}" for i in range(CLIPS)]
    groups = [f"made/{batch}", f"made/{batch}", f"lone/{batch}"]
    return {
        "id": ids,
        "scene": groups,
        "group": groups,
        "role": ["A", "B", ""],
        "property": ["é"] * 3,
        "possible": [True, False, None],
    }


def cell(variable: Variable, batch: int, step: int, block: int | None) -> Tensor:
    """Any bits whatever, not-a-numbers among them: (clip, ...)."""
    rng = np.random.default_rng([batch, step, 99 if block is None else block, len(variable.name)])
    shape = (CLIPS, *variable.cell)
    bits = torch.from_numpy(rng.integers(-(2**62), 2**62, shape)).to(BITS[variable.dtype])
    return bits.view(getattr(torch, variable.dtype)).reshape(shape)


def cells(variable: Variable, batch: int, step: int) -> dict[Place, Tensor]:
    """Of one evaluation."""
    blocks = range(variable.shape[0]) if variable.blocked else [None]
    return {(variable.name, block): cell(variable, batch, step, block) for block in blocks}


def write_batch(writer: StoreWriter, batch: int) -> None:
    """Claims a batch and writes its shard."""
    with writer.claim(batch), writer.shard(batch, columns(batch)) as shard:
        for step in range(len(writer.plan.steps)):
            values = [cells(variable, batch, step) for variable in writer.plan.variables]
            shard.put(step, {place: tensor for tensors in values for place, tensor in tensors.items()})


def write_store(folder: Path, wanted: Plan | None = None) -> StoreWriter:
    """Begins a store, or goes on with it, and writes what is missing."""
    writer = StoreWriter(folder, wanted or plan(), '{"made": "up"}')
    writer.begin()
    for batch in writer.todo():
        write_batch(writer, batch)
    return writer


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the bit, not-a-numbers too."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)))


def expected(variable: Variable, batch: int) -> Tensor:
    """(clip, step, ...) of one batch, as it must be read."""
    steps = [list(cells(variable, batch, step).values()) for step in range(2)]
    return torch.stack([torch.stack(s, 1) if variable.blocked else s[0] for s in steps], 1)


def is_whole(store: Store) -> bool:
    """Whether every variable of every shard has the bits that were written."""
    return all(
        same_bits(
            store.tensor(variable.name, clip=slice(CLIPS * i, CLIPS * i + CLIPS)), expected(variable, entry.batch)
        )
        for variable in store.plan.variables
        for i, entry in enumerate(store.shards)
    )


def shards(folder: Path) -> dict[str, bytes]:
    """Every shard, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def names(folder: Path) -> list[str]:
    """Of all files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def fork(work: Callable[[], None]) -> int:
    """Begins work in a child process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def in_child(work: Callable[[], None]) -> int:
    """Works in a child process; the signal that ended it, or 0."""
    _, status = os.waitpid(fork(work), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill() -> None:
    """Ends this process as nothing else can."""
    os.kill(os.getpid(), signal.SIGKILL)
