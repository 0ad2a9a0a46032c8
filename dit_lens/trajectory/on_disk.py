"""Trajectories larger than memory: steps are written to a file as they are computed, and read lazily.

The latents of such a file are contiguous, so that they are an ordinary tensor over the file's bytes (a memory map):
the operating system reads what is accessed and frees it again. HDF5 has no checksum for contiguous data; the file has
one checksum for each step instead, which `Trajectory.open` compares when it reads the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens import tensor_file
from dit_lens.atomic_files import remedy, replace_atomically
from dit_lens.trajectory.path import CHECKSUMS, KIND, LATENTS, Trajectory, checksums, described, of_parts


class Writing:
    """A file that a trajectory is written to step by step.

    Attributes:
        latents: (s, b, c, f, h, w), mapped onto the file: values that are assigned here are written to disk.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self._file = file
        self._map = _map(file, _make_room(file, shape, dtype), "r+")
        self.latents: Float[Tensor, "s b c f h w"] = torch.from_numpy(self._map)

    def finish(self, trajectory: Trajectory) -> None:
        """Writes schedule, conditioning, record and checksums beside the latents."""
        self._map.flush()
        tensors, facts = described(trajectory)
        with h5py.File(self._file, "r+") as file:
            file.attrs["kind"], file.attrs["facts"] = KIND, json.dumps(facts)
            for name, tensor in {**tensors, CHECKSUMS: checksums(self.latents)}.items():
                dataset = file.create_dataset(name, data=tensor_file.to_bits(tensor))
                dataset.attrs["dtype"] = str(tensor.dtype).removeprefix("torch.")


@contextmanager
def writing(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Writing]:
    """A context for writing a trajectory's file, which gets its name only if the block ends without an error."""
    with replace_atomically(path) as aside:
        yield Writing(aside, shape, dtype)


def opened_lazily(path: str | Path) -> Trajectory:
    """A trajectory written by `writing`, whose latents are read from the file lazily, step by step.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, not a trajectory, or was written by `Trajectory.save`; names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"got {path} · expected a {KIND} file · it was not saved there")
    tensors: dict[str, Tensor] = {}

    def take(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset) and name != LATENTS:
            tensors[name] = tensor_file.to_tensor(np.asarray(entry[()]), str(entry.attrs["dtype"]))

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("kind") != KIND:
                raise ValueError(f"its kind is {file.attrs.get('kind')!r}")
            if CHECKSUMS not in file:
                raise ValueError("its latents were written whole: Trajectory.open reads them")
            file.visititems(take)
            place, facts = _place(file[LATENTS]), json.loads(str(file.attrs["facts"]))
        tensors.pop(CHECKSUMS)
        return of_parts(torch.from_numpy(_map(Path(path), place, "c")), tensors, facts)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {path}, which cannot be read lazily ({error}) · expected a {KIND} that was written step by step"
            f" (invert and sample with to=) · {remedy(error, 'make it again')}"
        ) from error


def _make_room(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Allocates the latents in a new file; returns their offset, shape and dtype."""
    bits = torch.empty(0, dtype=dtype).numpy().dtype
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # not at the first write, which bypasses HDF5
    with h5py.File(file, "w") as h5:
        room = h5.create_dataset(LATENTS, shape, bits, dcpl=early)
        room.attrs["dtype"] = str(dtype).removeprefix("torch.")
        return _place(room)


def _place(room: Any) -> dict[str, Any]:
    return {"offset": room.id.get_offset(), "shape": room.shape, "dtype": room.dtype}


def _map(file: Path, place: dict[str, Any], mode: Any) -> np.memmap:
    """The latents as a memory map of the file; in mode "c" (copy on write) changes stay in memory."""
    return np.memmap(file, mode=mode, **place)
