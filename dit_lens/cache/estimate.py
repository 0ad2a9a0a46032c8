"""An estimate of the bytes and seconds of a cache before it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch


@dataclass(frozen=True)
class CacheCost:
    """Bytes and seconds of a cache; `str` of it is a sentence.

    Attributes:
        sizes: bytes of each point for one clip at one step: (without reduction, as stored).
        seconds_each: measured seconds of one clip at one step; larger batches take less per clip.
        clips, steps: the numbers of clips and steps.
        reduced: whether points are stored with a reduction.
    """

    sizes: Mapping[str, tuple[int, int]]
    seconds_each: float
    clips: int
    steps: int
    reduced: bool

    @property
    def whole_bytes(self) -> int:
        """Bytes of all points, clips and steps without a reduction."""
        return self.clips * self.steps * sum(whole for whole, _ in self.sizes.values())

    @property
    def kept_bytes(self) -> int:
        """Bytes of all points, clips and steps as stored."""
        return self.clips * self.steps * sum(stored for _, stored in self.sizes.values())

    @property
    def seconds(self) -> float:
        """Seconds for all clips and steps, run one by one."""
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
    """Bytes in readable units, such as "1.5 GB"."""
    value, unit = float(count), 0
    while value >= 1000 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def readable_time(seconds: float) -> str:
    """A duration in readable units: "3 s", "12 min" or "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def clock(device: torch.device) -> float:
    """Seconds on a clock, after all queued work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
