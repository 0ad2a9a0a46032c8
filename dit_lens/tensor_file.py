"""Named tensors and their facts in one HDF5 file: bit for bit, a checksum on every chunk, whole or not at all.

On disk a tensor has the bits it has in memory and, in the attribute "dtype", its type. bfloat16, which neither HDF5 nor
numpy has, is kept as the unsigned integers of its bits; stores of activations (`dit_lens.store`) hold to the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from dit_lens.results import replace_atomically


def to_bits(tensor: Tensor) -> np.ndarray:
    """An array of exactly the tensor's bits: the tensor's own memory where it is on the CPU and without gaps."""
    plain = tensor.detach().cpu().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def to_tensor(bits: np.ndarray, dtype: str) -> Tensor:
    """The tensor that `to_bits` was given, of a dtype such as "bfloat16"; the array's own memory."""
    return torch.from_numpy(bits).view(getattr(torch, dtype))


def to_floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values as numpy floats; bfloat16 as float32, without loss."""
    return (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else bits


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes aside and renames when whole.

    Args:
        kind: what the file is, which `read` asks for.
        tensors: by name; a slash makes a group.
        facts: anything JSON can say.
    """
    with replace_atomically(path) as aside, h5py.File(aside, "w") as file:
        file.attrs["kind"], file.attrs["facts"] = kind, json.dumps(facts)
        for name, tensor in tensors.items():
            array = to_bits(tensor)
            dataset = file.create_dataset(name, data=array, fletcher32=array.size > 0 and array.ndim > 0)
            dataset.attrs["dtype"] = str(tensor.dtype).removeprefix("torch.")
    return path


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, damaged or of another kind; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"got {path} · expected a {kind} file · it was not saved there")
    tensors: dict[str, Tensor] = {}

    def take(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            tensors[name] = to_tensor(np.asarray(entry[()]), str(entry.attrs["dtype"]))

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("kind") != kind:
                raise ValueError(f"its kind is {file.attrs.get('kind')!r}")
            file.visititems(take)
            return tensors, json.loads(str(file.attrs["facts"]))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {path}, which cannot be read ({error}) · expected a {kind} saved whole · make it again"
        ) from error
