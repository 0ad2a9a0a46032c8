"""Detections linked over time by distance and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from dit_lens.tracker.detection import Detection

FASTEST, SLACK = 2.5, 1.0  # world pixels that an object may move per frame, and that a detection may be off
REPAINT = 3.0  # world pixels that another colour counts for
NEVER = 1e3


@dataclass(frozen=True, eq=False)
class Tracked:
    """One object over time; where it is not seen, numbers are NaN, names empty and `whole` is False."""

    position: Float[np.ndarray, "F 2"]
    radius: Float[np.ndarray, " F"]
    whole: Bool[np.ndarray, " F"]
    colour: np.ndarray
    shape: np.ndarray


def follow(found: Sequence[Sequence[Detection]]) -> list[Tracked]:
    """Detections of each frame linked to objects, the largest object first.

    A detection goes to the object that was last seen nearest, if it can have come from there in that time; another
    colour or a long absence counts against it but does not rule it out, so that what comes out from behind an
    occluder is linked to what went in even where it has changed. It may also come out elsewhere than a law has it.
    """
    objects: list[dict[int, Detection]] = []
    for frame, detections in enumerate(found):
        costs = np.array([[_cost(seen, frame, one) for one in detections] for seen in objects])
        rows, columns = linear_sum_assignment(costs) if costs.size else ((), ())
        linked = {int(j): int(i) for i, j in zip(rows, columns, strict=True) if costs[i, j] < NEVER}
        for j, one in enumerate(detections):
            if j in linked:
                objects[linked[j]][frame] = one
            else:
                objects.append({frame: one})
    return [_over_time(seen, len(found)) for seen in sorted(objects, key=_size, reverse=True)]


def _cost(seen: dict[int, Detection], frame: int, one: Detection) -> float:
    last = max(seen)
    far = float(np.hypot(*np.subtract(one.position, seen[last].position)))
    if far > FASTEST * (frame - last) + SLACK:
        return NEVER
    return far + 0.5 * (frame - last) + REPAINT * (one.colour != seen[last].colour)


def _size(seen: dict[int, Detection]) -> float:
    """Of the three frames that show most of it, so that neither one frame's ghost nor a sliver's guess counts much."""
    return sum(sorted(min(one.radius, one.area**0.5) for one in seen.values())[-3:])


def _over_time(seen: dict[int, Detection], frames: int) -> Tracked:
    def values(name: str, nowhere):
        return np.array([getattr(seen[f], name) if f in seen else nowhere for f in range(frames)])

    nan = float("nan")
    return Tracked(
        position=values("position", (nan, nan)),
        radius=values("radius", nan),
        whole=values("whole", False),
        colour=values("colour", ""),
        shape=values("shape", ""),
    )
