"""What a cache will take, before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds of a cache; it prints as a sentence.

    Attributes:
        sizes: bytes of each point for one clip at one step: whole, and as it is kept.
        seconds_each: of one clip at one step, measured. More clips to a batch take less each.
        clips, steps: how many.
        reduced: whether points are kept reduced.
    """

    sizes: Mapping[str, tuple[int, int]]
    seconds_each: float
    clips: int
    steps: int
    reduced: bool

    @property
    def whole_bytes(self) -> int:
        """Of all points, clips and steps, without a reduction."""
        return self.clips * self.steps * sum(whole for whole, _ in self.sizes.values())

    @property
    def kept_bytes(self) -> int:
        """The same as it is kept."""
        return self.clips * self.steps * sum(kept for _, kept in self.sizes.values())

    @property
    def seconds(self) -> float:
        """Of all clips and steps, one by one."""
        return self.clips * self.steps * self.seconds_each

    def __str__(self) -> str:
        size = f"{readable(self.kept_bytes)} reduced, of " if self.reduced else ""
        largest = max(self.sizes, key=lambda name: self.sizes[name][1])
        share = self.clips * self.steps * self.sizes[largest][1]
        return (
            f"{len(self.sizes)} points x {self.clips} clips x {self.steps} steps: {size}{readable(self.whole_bytes)}"
            f" (largest {largest}, {readable(share)}), about {self.seconds:.3g} s"
        )


def readable(count: int) -> str:
    """Bytes as people say them: "1.5 GB"."""
    value, unit = float(count), 0
    while value >= 1000 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def clock(device: torch.device) -> float:
    """Seconds on a clock, everything that was asked of the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
