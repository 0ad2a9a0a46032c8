"""A store of tensors in memory up to a limit, and beyond it in memory-mapped temporary files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from torch import Tensor

SHARE = 0.25  # the default limit, as a share of the free memory


class SpillStore:
    """Stores exact bits of tensors; a context manager that removes its files at exit, also after an exception.

    Args:
        limit: bytes that stay on the model's device; further tensors go to files in the folder for temporary files
            (TMPDIR), which the operating system caches in free memory.
    """

    def __init__(self, limit: int):
        self._left, self._files = limit, 0
        self._folder: TemporaryDirectory | None = None

    def __enter__(self) -> SpillStore:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, x: Tensor) -> Tensor:
        """The same tensor, or a copy of it in a file, on the CPU with the same memory layout."""
        if x.nbytes <= self._left:
            self._left -= x.nbytes
            return x
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="dit_lens-")
        path = Path(self._folder.name) / str(self._files)
        self._files += 1
        flat = torch.from_file(str(path), shared=True, size=x.numel(), dtype=x.dtype)
        # Contiguous in the axis order of the original, because kernels for other layouts round differently.
        strides = torch.empty_like(x, device="meta").stride()
        return flat.as_strided(x.shape, strides).copy_(x)


def free_memory(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def limit_for(device: torch.device) -> int:
    """The default limit of a store, in bytes."""
    return int(SHARE * free_memory(device))
