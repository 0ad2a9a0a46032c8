"""Trajectories that never lie in memory whole: steps go to a file as they are made, and are read as they are touched.

The latents of such a file lie in one piece, so that they are an ordinary tensor over the file's own bytes (a memory
map): the operating system reads what is touched and lets go of it again. A file in one piece has no checksum of
HDF5's; it has one for each step instead, which `Trajectory.open` compares when it reads the whole.
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
from dit_lens.results import replace_atomically
from dit_lens.trajectory.path import CHECKSUMS, KIND, LATENTS, Trajectory, checksums, described, of_parts


class Writing:
    """A file that a trajectory is written to step by step.

    Attributes:
        latents: (s, b, c, f, h, w) over the file's bytes; what is put there is on its way to disk.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self._file = file
        self._map = _map(file, _make_room(file, shape, dtype), "r+")
        self.latents: Float[Tensor, "s b c f h w"] = torch.from_numpy(self._map)

    def finish(self, trajectory: Trajectory) -> None:
        """Writes all that there is to say of the latents beside them."""
        self._map.flush()
        tensors, told = described(trajectory)
        with h5py.File(self._file, "r+") as file:
            file.attrs["kind"], file.attrs["facts"] = KIND, json.dumps(told)
            for name, tensor in {**tensors, CHECKSUMS: checksums(self.latents)}.items():
                dataset = file.create_dataset(name, data=tensor_file.to_bits(tensor))
                dataset.attrs["dtype"] = str(tensor.dtype).removeprefix("torch.")


@contextmanager
def writing(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Writing]:
    """A trajectory's file, written aside and in its place when the block ends well."""
    with replace_atomically(path) as aside:
        yield Writing(aside, shape, dtype)


def opened_lazily(path: str | Path) -> Trajectory:
    """A trajectory of `writing` whose latents are read from the file step by step, when they are touched.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, no trajectory, or was written whole by `Trajectory.save`; names it.
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
            place, told = _place(file[LATENTS]), json.loads(str(file.attrs["facts"]))
        tensors.pop(CHECKSUMS)
        return of_parts(torch.from_numpy(_map(Path(path), place, "c")), tensors, told)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {path}, which cannot be read lazily ({error}) · expected a {KIND} that was written step by step"
            " (invert and sample with to=)"
        ) from error


def _make_room(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Room for the latents in a new file, and where it lies."""
    bits = torch.empty(0, dtype=dtype).numpy().dtype
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # not at the first write, which HDF5 never sees
    with h5py.File(file, "w") as made:
        room = made.create_dataset(LATENTS, shape, bits, dcpl=early)
        room.attrs["dtype"] = str(dtype).removeprefix("torch.")
        return _place(room)


def _place(room: Any) -> dict[str, Any]:
    return {"offset": room.id.get_offset(), "shape": room.shape, "dtype": room.dtype}


def _map(file: Path, place: dict[str, Any], mode: Any) -> np.memmap:
    """The latents over the file's bytes; in mode "c" what is written to them stays in memory."""
    return np.memmap(file, mode=mode, **place)
