"""The HDF5 file format of activation caches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dit_lens import tensor_file
from dit_lens.axes import TokenGrid

KIND, INSIDE, NAMES = "dit_lens activations", "activations/", "names"
Parts = tuple[dict[str, Tensor], TokenGrid, int, tuple[int, ...] | None, dict[str, str]]


def write(
    path: Path,
    activations: Mapping[str, Tensor],
    axes: Mapping[str, str],
    grid: TokenGrid,
    blocks: int,
    steps: tuple[int, ...] | None,
) -> Path:
    """Writes a cache's parts atomically, with the exact bits of activations (bfloat16 too)."""
    tensors = {f"{INSIDE}{name}": tensor for name, tensor in activations.items()}
    # Names and axes of a large model exceed the size limit of an HDF5 attribute.
    names = json.dumps({"names": list(activations), "axes": dict(axes)}).encode()
    tensors[NAMES] = torch.frombuffer(bytearray(names), dtype=torch.uint8)
    facts = {"grid": (grid.frames, grid.rows, grid.columns), "blocks": blocks, "steps": steps}
    return tensor_file.write(path, KIND, tensors, facts)


def read(path: Path) -> Parts:
    """Activations, grid, number of blocks, steps and axes of a cache that `write` wrote, on the CPU.

    Raises:
        FileNotFoundError: no such file. ValueError: the file is truncated, damaged or no cache.
    """
    tensors, facts = tensor_file.read(path, KIND)
    names = json.loads(bytes(tensors[NAMES].tolist()))
    activations = {name: tensors[f"{INSIDE}{name}"] for name in names["names"]}
    steps = None if facts["steps"] is None else tuple(facts["steps"])
    return activations, TokenGrid(*facts["grid"]), facts["blocks"], steps, names["axes"]
