"""Tensors kept for later: in memory up to a limit, beyond it in memory-mapped files that are gone at the end."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from torch import Tensor

SHARE = 0.25  # of free memory, unless a limit is given


class Shelf:
    """Keeps tensors bit for bit; a context, whose files are removed when it is left, also by an exception.

    Args:
        limit: bytes that stay where they were made, on the model's device; what comes beyond lies in files, in the
            folder for temporary files (TMPDIR), and the system holds as much of them in memory as it can spare.
    """

    def __init__(self, limit: int):
        self._left, self._files = limit, 0
        self._folder: TemporaryDirectory | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, x: Tensor) -> Tensor:
        """The same tensor, or its copy in a file, on the CPU and laid out alike."""
        if x.nbytes <= self._left:
            self._left -= x.nbytes
            return x
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="dit_lens-")
        path = Path(self._folder.name) / str(self._files)
        self._files += 1
        flat = torch.from_file(str(path), shared=True, size=x.numel(), dtype=x.dtype)
        # Without gaps but in the order of the original's axes: layout chooses kernels, which differ by rounding.
        strides = torch.empty_like(x, device="meta").stride()
        return flat.as_strided(x.shape, strides).copy_(x)


def free_memory(device: torch.device) -> int:
    """Bytes that are free where a model lies."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def limit_for(device: torch.device) -> int:
    """Bytes of activations to keep in memory."""
    return int(SHARE * free_memory(device))
