"""Detections linked over time by distance and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from dit_lens.toy.tracker.detection import Detection

FASTEST, SLACK = 2.5, 1.0  # world pixels that an object may move per frame, and that a detection may be off
REPAINT = 3.0  # world pixels that another colour counts for
NEVER = 1e3


@dataclass(frozen=True, eq=False)
class Tracked:
    """One object over time; in frames without a detection, numbers are NaN, names empty and `whole` is False."""

    position: Float[np.ndarray, "F 2"]
    radius: Float[np.ndarray, " F"]
    whole: Bool[np.ndarray, " F"]
    colour: np.ndarray
    shape: np.ndarray


def follow(by_frame: Sequence[Sequence[Detection]]) -> list[Tracked]:
    """Detections of each frame linked to objects, the largest object first.

    A detection is linked to the object whose last detection is nearest, if the object can have moved that far in that
    time; another colour or a long absence adds to the cost but does not exclude the link. So an object that comes out
    from behind an occluder is linked to the one that went in, even if it has changed or breaks a law of motion.
    """
    objects: list[dict[int, Detection]] = []
    for frame, detections in enumerate(by_frame):
        costs = np.array([[_cost(history, frame, detection) for detection in detections] for history in objects])
        rows, columns = linear_sum_assignment(costs) if costs.size else ((), ())
        linked = {int(j): int(i) for i, j in zip(rows, columns, strict=True) if costs[i, j] < NEVER}
        for j, detection in enumerate(detections):
            if j in linked:
                objects[linked[j]][frame] = detection
            else:
                objects.append({frame: detection})
    return [_over_time(history, len(by_frame)) for history in sorted(objects, key=_size, reverse=True)]


def _cost(history: dict[int, Detection], frame: int, detection: Detection) -> float:
    last = max(history)
    distance = float(np.hypot(*np.subtract(detection.position, history[last].position)))
    if distance > FASTEST * (frame - last) + SLACK:
        return NEVER
    return distance + 0.5 * (frame - last) + REPAINT * (detection.colour != history[last].colour)


def _size(history: dict[int, Detection]) -> float:
    """Size, summed over the three frames that show most of it: a ghost in one frame or a small part counts little."""
    return sum(sorted(min(detection.radius, detection.area**0.5) for detection in history.values())[-3:])


def _over_time(history: dict[int, Detection], frames: int) -> Tracked:
    def values(name: str, default):
        return np.array([getattr(history[f], name) if f in history else default for f in range(frames)])

    nan = float("nan")
    return Tracked(
        position=values("position", (nan, nan)),
        radius=values("radius", nan),
        whole=values("whole", False),
        colour=values("colour", ""),
        shape=values("shape", ""),
    )
