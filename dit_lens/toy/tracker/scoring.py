"""Scores of detections against the ground truth of their clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from dit_lens.clips import Clip
from dit_lens.toy.miniphys.rendering import distance
from dit_lens.toy.miniphys.scenes import WORLD, Layout
from dit_lens.toy.tracker.detection import Detection

NEAR = 4.0  # world pixels from an object within which a detection may be its own
WHOLE = 0.99  # visible share from which on an object counts as whole
GRID = np.arange(-7, WORLD + 7, 0.25) + 0.125  # extends beyond the frame by more than a visible object does


@dataclass(frozen=True)
class Match:
    """An object of a clip in one frame, with its detection.

    Attributes:
        frame: index of the frame.
        track: index of the clip's track, or -1 for a detection without an object.
        visible: visible share of the object.
        radius: true radius.
        found: the detection, or None if the object was missed.
        error: distance from the true position, in world pixels.
        colour, shape: whether the detection has the right colour and shape.
    """

    frame: int
    track: int
    visible: float
    radius: float
    found: Detection | None
    error: float = float("nan")
    colour: bool = False
    shape: bool = False


def compare(by_frame: Sequence[Sequence[Detection]], clip: Clip) -> list[Match]:
    """Every visible object of the clip in every frame with its detection, and every false detection.

    Objects and detections are paired with the smallest sum of distances, within 4 world pixels.

    Raises:
        ValueError: not one list of detections per frame, or not a miniphys clip.
    """
    if len(by_frame) != len(clip.frames):
        raise ValueError(
            f"got detections in {len(by_frame)} frames of {len(clip.frames)} of {clip.id} · expected one list per frame"
            " · track(clip.frames) makes them"
        )
    shares, matches = visible_shares(clip), []
    for frame, detections in enumerate(by_frame):
        visible = np.flatnonzero(shares[:, frame] > 0)
        positions = np.array([clip.tracks[k].position[frame] for k in visible]).reshape(-1, 1, 2)
        distances = np.linalg.norm(
            positions - np.array([detection.position for detection in detections]).reshape(1, -1, 2), axis=-1
        )
        pairs = zip(*linear_sum_assignment(distances.clip(max=NEAR)), strict=True)
        paired = {int(i): int(j) for i, j in pairs if distances[i, j] < NEAR}
        for i, k in enumerate(visible):
            truth = clip.tracks[k]
            match = Match(frame, int(k), float(shares[k, frame]), float(truth.radius[frame]), None)
            if i in paired:
                detection, error = detections[paired[i]], float(distances[i, paired[i]])
                colour, shape = (
                    bool(detection.colour == truth.colour[frame]),
                    bool(detection.shape == truth.shape[frame]),
                )
                match = replace(match, found=detection, error=error, colour=colour, shape=shape)
            matches.append(match)
        lost = set(range(len(detections))) - set(paired.values())
        matches += [Match(frame, -1, 0.0, float("nan"), detections[j]) for j in sorted(lost)]
    return matches


def visible_shares(clip: Clip) -> Float[np.ndarray, "k F"]:
    """Visible share of each object of a miniphys clip, inside the frame and not occluded; 0 where there is no object.

    Raises:
        ValueError: the clip has no record of its scene.
    """
    if "scene" not in clip.factors:
        raise ValueError(f"got {clip.id}, which tells no scene · expected a clip of miniphys")
    scene = Layout(**clip.factors["scene"])
    x, y = GRID[None, None, :], GRID[None, :, None]
    centre, width = scene.occluder
    top = np.asarray(scene.top)[:, None, None]
    occluder = (np.abs(x - centre) < width / 2) & (y < WORLD - top if scene.hanging else y > top)
    free = (x > 0) & (x < WORLD) & (y > 0) & (y < WORLD) & np.ones_like(occluder)
    shares = np.zeros((len(clip.tracks), len(top)))
    main = len(clip.tracks) - len(scene.distractors)
    # From the front to the back: the last distractor, the first, the occluder, the object and its follower.
    for k in (*range(len(clip.tracks) - 1, main - 1, -1), None, *range(main)):
        if k is None:
            free &= ~occluder
            continue
        track = clip.tracks[k]
        for frame in np.flatnonzero(track.present):
            dx, dy = GRID[None, :] - track.position[frame, 0], GRID[:, None] - track.position[frame, 1]
            covers = distance(str(track.shape[frame]), track.radius[frame], dx, dy) < 0
            shares[k, frame] = (covers & free[frame]).sum() / max(covers.sum(), 1)
            free[frame] &= ~covers
    return shares


def summarise(matches: Iterable[Match]) -> dict[str, float]:
    """Summary statistics of the matches of `compare`.

    Returns:
        for fully visible objects, `objects` (their number) and `recall`; for those detected, the median `error`, the
        shares `within_0.3` world pixels, with the right `colour`, the right `shape`, and judged `whole`; for partly
        visible objects, the share judged whole (`part_whole`); for detections, `precision`, the share that match an
        object. NaN where there are none.
    """
    matches = list(matches)
    whole = [match for match in matches if match.visible > WHOLE]
    hits = [match for match in whole if match.found]
    part = [match for match in matches if match.found and 0 < match.visible < 0.9]

    def mean(values: Iterable[float]) -> float:
        values = list(values)
        return float(np.mean(values)) if values else float("nan")

    return {
        "objects": float(len(whole)),
        "recall": mean(match.found is not None for match in whole),
        "error": float(np.median([match.error for match in hits])) if hits else float("nan"),
        "within_0.3": mean(match.error < 0.3 for match in hits),
        "colour": mean(match.colour for match in hits),
        "shape": mean(match.shape for match in hits),
        "whole": mean(match.found.whole for match in hits if match.found),
        "part_whole": mean(match.found.whole for match in part if match.found),
        "precision": mean(match.track >= 0 for match in matches if match.found),
    }
