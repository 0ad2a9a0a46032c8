"""One shard: an HDF5 file of a batch of clips, written by a separate thread and renamed when complete."""

from __future__ import annotations

import json
import os
import queue
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from dit_lens.atomic_files import replace_atomically
from dit_lens.store.plan import KIND, STORED, VERSION, Place, Plan, Variable, sha256_file
from dit_lens.tensor_file import to_bits

CHUNK = 2**24  # bytes; above this, each clip has a separate chunk
PAYS = 0.9  # a chunk is stored compressed if it shrinks to less than this share
UNFILTERED = 0b11  # HDF5's mask of a chunk that skips both filters, shuffle and deflate
AHEAD = 2  # evaluations that may wait for the disk
TEXTS = ("id", "scene", "group", "role", "property")

Columns = Mapping[str, Sequence[Any]]


class _AbandonedError(Exception):
    """The caller that filled the shard ended with an error."""


@dataclass(frozen=True)
class _Cells:
    """The values of one evaluation: the index of its step, and arrays (clip, ...)."""

    step: int
    arrays: dict[Place, np.ndarray]


class ShardWriter:
    """A context for writing a shard: at its end the complete file is on disk under its name, or there is no file.

    Args:
        path: file name of the finished shard.
        clips: columns id, scene, group, role, property and possible.

    Attributes:
        sha256: digest of the finished file.
    """

    def __init__(self, path: Path, plan: Plan, batch: int, clips: Columns):
        self.path, self.plan, self.batch, self.clips = path, plan, batch, clips
        self.sha256 = ""
        self._due = {(v.name, s, b) for v in plan.variables for s in range(len(plan.steps)) for b in _blocks(v)}
        self._queue: queue.Queue[_Cells | bool] = queue.Queue(AHEAD)
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)

    def put(self, step: int, values: Mapping[Place, Tensor]) -> None:
        """Queues the values of the evaluation at a step (its index in the plan); waits while the queue is full.

        Nothing is copied on the way to the file: do not change the tensors until the shard is written.

        Raises:
            ValueError: an array of another shape or dtype than planned, or one that is put twice.
            OSError: the disk is full.
        """
        self.plan.check(values, len(self.clips["id"]))
        for name, block in values:
            self._strike(name, step, block)
        arrays = {place: to_bits(tensor) for place, tensor in values.items()}
        if self._error is not None:
            raise self._error
        self._queue.put(_Cells(step, arrays))

    def _strike(self, name: str, step: int, block: int | None) -> None:
        if (name, step, block) not in self._due:
            raise ValueError(f"got {name} at step {step}, block {block} · expected only planned activations, each once")
        self._due.remove((name, step, block))

    def __enter__(self) -> ShardWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        complete = error is None and not self._due
        self._queue.put(complete)
        self._thread.join()
        if error is not None:
            return
        if self._error is not None and not isinstance(self._error, _AbandonedError):
            raise self._error
        if not complete:
            name, step, block = min(self._due, key=str)
            raise ValueError(f"got no {name} at step {step}, block {block} · expected all planned activations")

    def _cells(self) -> Iterator[_Cells]:
        while isinstance(message := self._queue.get(), _Cells):
            yield message
        self._ended = True
        if not message:
            raise _AbandonedError

    def _run(self) -> None:
        """Runs on the thread. After an error the queue is emptied, so that the caller does not wait for ever."""
        try:
            with replace_atomically(self.path) as aside:
                self._write(aside)
                self.sha256 = flush(aside)
            sync_folder(self.path.parent)
        except BaseException as error:  # raised again on the caller's thread
            self._error = error
            while not self._ended:
                self._ended = not isinstance(self._queue.get(), _Cells)

    def _write(self, aside: Path) -> None:
        with h5py.File(aside, "w", libver="v110") as file:
            self._describe(file)
            datasets = {v.name: (self._dataset(file, v), Packing(self.plan.compression)) for v in self.plan.variables}
            for cells in self._cells():
                for (name, block), array in cells.arrays.items():
                    place = (cells.step,) if block is None else (cells.step, block)
                    _write_cell(*datasets[name], place, array)

    def _describe(self, file: h5py.File) -> None:
        file.attrs.update({"kind": KIND, "version": VERSION, "batch": self.batch, "plan": self.plan.digest})
        file["plan"] = json.dumps(asdict(self.plan), default=str)
        for name in TEXTS:
            file.create_dataset(name, data=self.clips[name], dtype=h5py.string_dtype())
        file["possible"] = np.array([-1 if label is None else label for label in self.clips["possible"]], np.int8)
        for name, values in (("step", self.plan.steps), ("sigma", self.plan.sigmas), ("timestep", self.plan.timesteps)):
            file[name] = values

    def _dataset(self, file: h5py.File, variable: Variable) -> h5py.Dataset:
        clips = len(self.clips["id"])
        per_chunk = clips if variable.cell_bytes * clips <= CHUNK else 1
        shape = (clips, len(self.plan.steps), *variable.shape)
        chunks = (per_chunk, 1, *[1] * variable.blocked, *variable.cell)
        filters = {} if self.plan.compression == "none" else {"compression": 1, "shuffle": True}
        dataset = file.create_dataset(
            f"activations/{variable.name}", shape, STORED[variable.dtype], chunks=chunks, **filters
        )
        dataset.attrs["dtype"], dataset.attrs["reduction"] = variable.dtype, variable.reduction
        for axis, word in enumerate(("clip", "step", *variable.dims)):
            dataset.dims[axis].label = word
        return dataset


class Packing:
    """Compresses chunks like HDF5's shuffle and deflate filters, as long as that saves space."""

    def __init__(self, compression: str):
        self.tries = compression == "auto"

    def __call__(self, array: np.ndarray) -> tuple[bytes | np.ndarray, int]:
        """The bytes of a chunk and its filter mask; after a chunk that hardly shrank, no further one is compressed."""
        if not self.tries:
            return array, UNFILTERED
        shuffled = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
        packed = zlib.compress(shuffled, 1)
        self.tries = len(packed) < PAYS * array.nbytes
        return (packed, 0) if self.tries else (array, UNFILTERED)


def _write_cell(dataset: Any, packing: Packing, place: tuple[int, ...], array: np.ndarray) -> None:
    """Writes all clips at one step (and block): whole chunks, past HDF5's conversions and its cache."""
    per_chunk = dataset.chunks[0]
    origin = (0,) * (dataset.ndim - 1 - len(place))
    for clip in range(0, len(array), per_chunk):
        packed, mask = packing(array[clip : clip + per_chunk])
        dataset.id.write_direct_chunk((clip, *place, *origin), packed, mask if dataset.compression else 0)


def _blocks(variable: Variable) -> Sequence[int | None]:
    return range(variable.shape[0]) if variable.blocked else [None]


def flush(path: Path) -> str:
    """The sha256 of a file, computed while it is flushed to disk, so that both take no longer than the slower one."""
    with path.open("rb") as file, ThreadPoolExecutor(1) as aside:
        flushed = aside.submit(os.fsync, file.fileno())
        digest = sha256_file(path)
        flushed.result()  # raises the error of flushing, if any
    return digest


def sync_folder(folder: Path) -> None:
    """Flushes a folder to disk, so that a file's new name survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
