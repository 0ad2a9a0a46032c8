"""Named tensors and metadata in one HDF5 file: exact bits, a checksum on every chunk, written atomically.

On disk a tensor has the bits it has in memory and, in the attribute "dtype", its type. bfloat16, which HDF5 and
numpy lack, is stored as unsigned integers of the same bits, also in stores of activations (`dit_lens.store`).
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

from dit_lens.atomic_files import remedy, replace_atomically


def to_bits(tensor: Tensor) -> np.ndarray:
    """An array with exactly the tensor's bits; it shares memory with a contiguous tensor on the CPU."""
    plain = tensor.detach().cpu().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def to_tensor(bits: np.ndarray, dtype: str) -> Tensor:
    """The tensor of a dtype such as "bfloat16" from an array of `to_bits`, with which it shares memory."""
    return torch.from_numpy(bits).view(getattr(torch, dtype))


def to_floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values as numpy floats; bfloat16 as float32, without loss.

    bfloat16 is the upper half of float32: 1.5 has the bits 0x3FC0, and 0x3FC00000 is 1.5 in float32.
    """
    return (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else bits


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes a temporary file and renames it when complete.

    Args:
        kind: the kind of file, which `read` checks.
        tensors: tensors by name; a slash in a name makes a group.
        facts: metadata, as JSON values.
    """
    with replace_atomically(path) as aside, h5py.File(aside, "w") as file:
        file.attrs["kind"], file.attrs["facts"] = kind, json.dumps(facts)
        for name, tensor in tensors.items():
            array = to_bits(tensor)
            dataset = file.create_dataset(name, data=array, fletcher32=array.size > 0 and array.ndim > 0)
            dataset.attrs["dtype"] = str(tensor.dtype).removeprefix("torch.")
    return path


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the metadata of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, damaged or of another kind.
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
            f"got {path}, which cannot be read ({error}) · expected a {kind} saved whole"
            f" · {remedy(error, 'make it again')}"
        ) from error
