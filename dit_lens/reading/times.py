"""Whether the frames of a video are shown at even distances: a model counts frames, and knows no other clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def even_rate(times: Sequence[float], tick: float, stated: float | None, name: str) -> float | None:
    """Frames per second of frames that are shown at these times; what is stated where it agrees, or for one frame.

    Times are rounded to ticks, and to milliseconds before where a video came through Matroska. So the distances may
    differ by a tick, or a millisecond and two finer ticks, or a twentieth of their mean; never by half of it.

    Args:
        times: in seconds, rising.
        tick: the unit that they are counted in, in seconds.
        stated: frames per second as the file states them.
        name: what to call the video in a message.

    Raises:
        ValueError: distances differ by more than that; says from when to when.
    """
    if len(times) < 2:
        return stated
    shown, count = np.asarray(times, dtype=float), len(times)
    steps = np.diff(shown)
    mean = (shown[-1] - shown[0]) / (count - 1)
    slack = 1.001 * tick if tick >= 1e-3 else 1e-3 + 2 * tick
    slack = min(max(slack, mean / 20), mean / 2)
    away = np.abs(shown - shown[0] - mean * np.arange(count)).max()
    if steps.min() <= 0:
        raise ValueError(f"got {name}, two frames of which have the same time · expected increasing times")
    if steps.max() - steps.min() > slack or away > slack:
        raise ValueError(
            f"got {name}, whose frames are shown for {1000 * steps.min():.0f} to {1000 * steps.max():.0f} ms · expected"
            " a constant frame rate, because a model only counts frames ·"
            f" {reencode(f'-vf fps={max(1, round(1 / steps.min()))}')}"
        )
    agrees = stated is not None and abs((count - 1) / stated - (shown[-1] - shown[0])) <= 2 * slack
    return stated if agrees else 1 / mean


def reencode(options: str) -> str:
    """The remedy for what is refused: a command that writes the video as it is shown."""
    return f"re-encode it: ffmpeg -i IN {options}{' ' if options else ''}-c:v libx264 -qp 0 OUT.mp4"
