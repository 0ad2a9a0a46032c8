"""Device placement of a model's parts: the device that they run on, and which of them are on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

OFFLOADS = (None, "model")
CPU = torch.device("cpu")


class Residency:
    """Keeps one part at a time on the device, the others in the CPU's memory: offload of whole parts.

    There are no hooks: whoever runs a part brings it first. A part that is already on the device costs nothing, so a
    path of fifty evaluations moves the transformer once:

        encode a clip       -> transformer to the CPU, autoencoder to the device
        evaluate 50 times   -> autoencoder to the CPU, transformer to the device; then 49 times no transfer
        decode              -> transformer to the CPU, autoencoder to the device

    Args:
        device: where parts run; None leaves every part where it is (no offload), and so does the CPU.
    """

    def __init__(self, device: torch.device | None = None):
        self.device = None if device is None or device.type == "cpu" else device
        self.parts: list[nn.Module] = []
        self._together = False

    def add(self, part: Any) -> None:
        """Adds a part that takes turns on the device with the others."""
        if self.device is not None and isinstance(part, nn.Module) and part not in self.parts:
            self.parts.append(part)

    def remove(self, part: Any) -> None:
        """Removes a part."""
        self.parts = [kept for kept in self.parts if kept is not part]

    def bring(self, *parts: Any) -> None:
        """Moves these parts to the device and all others off it; does nothing inside `all_here`."""
        if self.device is None or self._together:
            return
        requested = [part for part in self.parts if any(part is candidate for candidate in parts)]
        for part in self.parts:
            if not any(part is candidate for candidate in requested) and _device(part) != CPU:
                part.to(CPU)
        for part in requested:
            if _device(part).type != self.device.type:
                part.to(self.device)

    @contextmanager
    def all_here(self) -> Iterator[None]:
        """A context with all parts on the device, as a pipeline's own call needs; they leave it after the block."""
        self.bring(*self.parts)
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self.bring()


def _device(part: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*part.parameters(), *part.buffers())), CPU)


def check_device(device: str | torch.device | None) -> torch.device | None:
    """The device as a `torch.device`, after a check that it exists.

    Raises:
        ValueError: unknown to torch, or not available on this machine; lists the available ones.
    """
    if device is None:
        return None
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"got device {device!r} · expected one of {', '.join(_devices())}") from error
    if str(parsed) in _devices() or parsed.type == "cpu":
        return parsed
    raise ValueError(
        f"got device {str(parsed)!r} · expected one of {', '.join(_devices())}, the devices that torch sees here · use"
        " device='cpu', or install a torch build for your accelerator"
    )


def check_offload(offload: str | None, device: torch.device | None) -> torch.device | None:
    """The device that parts take turns on, the CPU without an accelerator; None without offload.

    Raises:
        ValueError: unknown kind of offload.
    """
    if offload not in OFFLOADS:
        raise ValueError(
            f"got offload={offload!r} · expected None or 'model' (whole parts take turns on the device), because hook"
            " points do not survive offload by layer · use offload='model'"
        )
    if offload is None:
        return None
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or accelerator or CPU


def _devices() -> list[str]:
    """Names of the devices that torch sees."""
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind: Any = torch.accelerator.current_accelerator()
        names += [kind.type, *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]
    return names


def free_memory() -> None:
    """Frees memory that is no longer referenced, on the CPU and the GPU."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
