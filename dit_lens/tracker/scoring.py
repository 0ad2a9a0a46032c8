"""Detections held against the ground truth of the clip that they were made in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from dit_lens.clips import Clip
from dit_lens.datasets.miniphys.rendering import distance
from dit_lens.datasets.miniphys.scenes import WORLD, Scene
from dit_lens.tracker.detection import Detection

NEAR = 4.0  # world pixels from an object within which a detection may be its own
WHOLE = 0.99  # visible share from which on an object counts as whole
GRID = np.arange(-7, WORLD + 7, 0.25) + 0.125  # reaches so far beyond the frame that no visible object is cut


@dataclass(frozen=True)
class Match:
    """An object of a clip in one frame, and what was found of it.

    Attributes:
        frame: which.
        track: which of the clip's tracks, or -1 where something was found and nothing is there.
        visible: share of the object that is to be seen.
        radius: the true one.
        found: the detection, or None where it was missed.
        error: distance from the true position, in world pixels.
        colour, shape: the detection has the right one.
    """

    frame: int
    track: int
    visible: float
    radius: float
    found: Detection | None
    error: float = float("nan")
    colour: bool = False
    shape: bool = False


def compare(found: Sequence[Sequence[Detection]], clip: Clip) -> list[Match]:
    """Every visible object of the clip in every frame with its detection, and every detection of nothing.

    Objects and detections are paired so that the distances add up to least, within 4 world pixels.

    Raises:
        ValueError: not one list of detections per frame, or no miniphys clip.
    """
    if len(found) != len(clip.frames):
        raise ValueError(
            f"got detections in {len(found)} frames of {len(clip.frames)} of {clip.id} · expected one list per frame"
            " · track(clip.frames) makes them"
        )
    shares, matches = visible_shares(clip), []
    for frame, detections in enumerate(found):
        seen = np.flatnonzero(shares[:, frame] > 0)
        there = np.array([clip.tracks[k].position[frame] for k in seen]).reshape(-1, 1, 2)
        far = np.linalg.norm(there - np.array([one.position for one in detections]).reshape(1, -1, 2), axis=-1)
        pairs = zip(*linear_sum_assignment(far.clip(max=NEAR)), strict=True)
        own = {int(i): int(j) for i, j in pairs if far[i, j] < NEAR}
        for i, k in enumerate(seen):
            truth = clip.tracks[k]
            match = Match(frame, int(k), float(shares[k, frame]), float(truth.radius[frame]), None)
            if i in own:
                one, error = detections[own[i]], float(far[i, own[i]])
                colour, shape = bool(one.colour == truth.colour[frame]), bool(one.shape == truth.shape[frame])
                match = replace(match, found=one, error=error, colour=colour, shape=shape)
            matches.append(match)
        lost = set(range(len(detections))) - set(own.values())
        matches += [Match(frame, -1, 0.0, float("nan"), detections[j]) for j in sorted(lost)]
    return matches


def visible_shares(clip: Clip) -> Float[np.ndarray, "k F"]:
    """Share of each object of a miniphys clip that is in the frame and that nothing covers; 0 where there is none.

    Raises:
        ValueError: the clip does not tell its scene.
    """
    if "scene" not in clip.factors:
        raise ValueError(f"got {clip.id}, which tells no scene · expected a clip of miniphys")
    scene = Scene(**clip.factors["scene"])
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
    """What `compare` found, in numbers.

    Returns:
        of objects that are seen whole, `objects` (how many), `recall`; of those found, median `error`, the share
        `within_0.3` world pixels, with the right `colour` and `shape`, and taken to be `whole`; of objects seen in
        part, the share taken to be whole (`part_whole`); of detections, `precision`, the share of an object. NaN
        where there is none.
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
