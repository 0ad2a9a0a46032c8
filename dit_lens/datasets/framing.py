"""Frame selection and resizing: which frames of a video become a clip, and at what size, recorded with every clip.

Video autoencoders take 4k+1 frames (Wan, CogVideoX, Hunyuan) or 8k+1 (LTX); videos have any number. So that no frames
are dropped or repeated silently, a number of frames requires a policy: resample, drop-tail or pad-last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dit_lens.choices import check_choice
from dit_lens.reading import FITS, even_indices, fit

POLICIES = ("resample", "drop-tail", "pad-last")


@dataclass(frozen=True)
class Framing:
    """Which frames are used and how they are resized; by default all frames, unchanged.

    Attributes:
        count: number of frames in the clip.
        multiple: 4 for 4k+1 frames, 8 for 8k+1; without `count` the nearest number that the policy allows.
        policy: "resample" takes evenly spaced frames, including the first and the last; "drop-tail" takes the first
            ones; "pad-last" takes all and repeats the last. Required with `count` or `multiple`.
        step: use only every step-th frame; applied before all else.
        size: height and width in pixels.
        fit: "crop" or "letterbox" (see `dit_lens.reading.fit`). Required with `size`.

    Raises:
        ValueError: an unknown or missing policy or fit, or numbers that contradict each other.
    """

    count: int | None = None
    multiple: int | None = None
    policy: str | None = None
    step: int = 1
    size: tuple[int, int] | None = None
    fit: str | None = None

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.step, self.count, self.multiple)):
            raise ValueError(f"got {self} · expected step, count and multiple to be at least 1")
        _due(self.policy, self.count or self.multiple, POLICIES, "frame policy")
        _due(self.fit, self.size, FITS, "way to fit")
        if self.count and self.multiple and (self.count - 1) % self.multiple:
            raise ValueError(f"got count={self.count} · expected {self.multiple}k+1 frames · change count or multiple")

    def indices(self, total: int, name: str = "a video") -> tuple[int, ...]:
        """The indices of the frames that are used, out of `total`.

        Args:
            total: frames of the video.
            name: of the video, for error messages.

        Raises:
            ValueError: the policy cannot produce that number of frames from these.
        """
        selected = list(range(0, total, self.step))
        count = self._target_count(len(selected))
        missing = count - len(selected)
        if not selected or (missing > 0 and self.policy != "pad-last"):
            raise ValueError(
                f"got {name} with {len(selected)} frames · expected at least {count} · ask for fewer frames, or pad"
            )
        if missing < 0 and self.policy == "pad-last":
            remedy = "use resample or drop-tail"
            raise ValueError(f"got {name} with {len(selected)} frames · expected at most {count} to pad · {remedy}")
        if self.policy == "resample":
            return tuple(selected[i] for i in even_indices(len(selected), count))
        return tuple(selected[:count] + selected[-1:] * missing)

    def _target_count(self, total: int) -> int:
        if self.count:
            return self.count
        if not self.multiple:
            return total
        groups, remainder = divmod(total - 1, self.multiple)
        return (groups + (self.policy == "pad-last" and remainder > 0)) * self.multiple + 1

    def shape(self, frames: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F height width 3"]:
        """The frames at the requested size."""
        return fit(frames, *self.size, self.fit or "") if self.size else frames

    def rate(self, fps: float, indices: tuple[int, ...]) -> float:
        """Frames per second of the frames that are used."""
        if self.policy == "resample" and len(indices) > 1:
            return fps * (len(indices) - 1) / (indices[-1] - indices[0])
        return fps / self.step

    def record(self, total: int, indices: tuple[int, ...], size: tuple[int, int], fps: float) -> dict[str, Any]:
        """A record for a clip's factors: frames, policy, step, fit, and length, size and rate of the source video."""
        used = {"frame_indices": indices, "frame_policy": self.policy or "all", "frame_step": self.step}
        return used | {"fit": self.fit or "none", "source_frames": total, "source_size": size, "source_fps": fps}


def _due(name: str | None, requested: Any, options: tuple[str, ...], kind: str) -> None:
    if name is not None:
        check_choice(name, options, kind)
    if bool(requested) != (name is not None):
        raise ValueError(
            f"got {kind} None for {requested} · expected one of {', '.join(options)} · set it explicitly"
            if requested
            else f"got {kind} {name}, which nothing needs · expected None · leave it out, or set count or size"
        )
