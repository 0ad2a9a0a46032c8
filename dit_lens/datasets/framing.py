"""Which frames of a film become a clip, and at what size: an explicit choice that every clip keeps on record.

Video autoencoders take 4k+1 frames (Wan, CogVideoX, Hunyuan) or 8k+1 (LTX); films have as many as they have. So that
nothing is cut off or repeated unseen, a number of frames comes with a policy: resample, drop-tail or pad-last.
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
    """Which frames are used and how they are fitted; by default all of them, as they are.

    Attributes:
        count: number of frames to hand out.
        multiple: 4 for 4k+1 frames, 8 for 8k+1; without `count` the nearest number that the policy allows.
        policy: "resample" takes frames at even distances, first and last among them; "drop-tail" takes the first
            ones; "pad-last" takes all and repeats the last. Due where `count` or `multiple` is given.
        step: first of all, every step-th frame only.
        size: height and width in pixels.
        fit: "crop" or "letterbox" (see `dit_lens.reading.fit`). Due where `size` is given.

    Raises:
        ValueError: an unknown or missing policy or fit, or numbers that do not go together.
    """

    count: int | None = None
    multiple: int | None = None
    policy: str | None = None
    step: int = 1
    size: tuple[int, int] | None = None
    fit: str | None = None

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.step, self.count, self.multiple)):
            raise ValueError(f"got {self} · expected step, count and multiple of at least 1")
        _due(self.policy, self.count or self.multiple, POLICIES, "frame policy")
        _due(self.fit, self.size, FITS, "way to fit")
        if self.count and self.multiple and (self.count - 1) % self.multiple:
            raise ValueError(f"got count={self.count} · expected {self.multiple}k+1 frames · change count or multiple")

    def indices(self, total: int, name: str = "a film") -> tuple[int, ...]:
        """The places of the frames that are used, out of `total`.

        Args:
            total: frames of the film.
            name: what to call the film in a message.

        Raises:
            ValueError: the policy cannot make that number of frames out of these.
        """
        kept = list(range(0, total, self.step))
        wanted = self._wanted(len(kept))
        padding = wanted - len(kept)
        if not kept or (padding > 0 and self.policy != "pad-last"):
            raise ValueError(f"got {name} with {len(kept)} frames · expected at least {wanted} · ask for fewer, or pad")
        if padding < 0 and self.policy == "pad-last":
            remedy = "use resample or drop-tail"
            raise ValueError(f"got {name} with {len(kept)} frames · expected at most {wanted} to pad · {remedy}")
        if self.policy == "resample":
            return tuple(kept[i] for i in even_indices(len(kept), wanted))
        return tuple(kept[:wanted] + kept[-1:] * padding)

    def _wanted(self, total: int) -> int:
        if self.count:
            return self.count
        if not self.multiple:
            return total
        parts, rest = divmod(total - 1, self.multiple)
        return (parts + (self.policy == "pad-last" and rest > 0)) * self.multiple + 1

    def shape(self, frames: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F height width 3"]:
        """The frames at the size asked for."""
        return fit(frames, *self.size, self.fit or "") if self.size else frames

    def rate(self, fps: float, indices: tuple[int, ...]) -> float:
        """Frames per second of the frames that are used."""
        if self.policy == "resample" and len(indices) > 1:
            return fps * (len(indices) - 1) / (indices[-1] - indices[0])
        return fps / self.step

    def record(self, total: int, indices: tuple[int, ...], size: tuple[int, int], fps: float) -> dict[str, Any]:
        """What a clip keeps of this in its factors, beside what the film had to begin with."""
        used = {"frame_indices": indices, "frame_policy": self.policy or "all", "frame_step": self.step}
        return used | {"fit": self.fit or "none", "source_frames": total, "source_size": size, "source_fps": fps}


def _due(name: str | None, asked: Any, options: tuple[str, ...], what: str) -> None:
    if name is not None:
        check_choice(name, options, what)
    if bool(asked) != (name is not None):
        expected = f"one of {', '.join(options)} with it" if asked else "none where nothing is asked of it"
        raise ValueError(f"got {what} {name} for {asked} · expected {expected} · it is never chosen for you")
