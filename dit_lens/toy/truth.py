"""Videos compared with the truth: the tracker's detections of the object in question, and the drift of long rollouts.

Both need a clip's true tracks, or the true clip; they do not depend on how a video was generated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens.clips import Clip, Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.forcing import STATISTICS
from dit_lens.toy import tracker
from dit_lens.toy.miniphys.scenes import COLOURS, SHAPES
from dit_lens.toy.tracker import Detection
from dit_lens.toy.training.quality import moving_pixels
from dit_lens.video import to_frames, to_tensor

POSSIBLE = ("A", "B")
IN_SIGHT, IN_PLACE = 0.5, 2.0  # share of the object that is seen; world pixels
FULL_SIZE = 2.35  # radius from which on an object is no distractor
COUNTS = ("sight", "found", "place", "colour", "error", "drawn", "frames")
COUNTS += ("squared", "pixels", "squared moving", "pixels moving")


def possible_clips(scenes: Sequence[Scene]) -> list[Clip]:
    """Clips A A A ... B B B ..."""
    return [scene[role] for role in POSSIBLE for scene in scenes]


@torch.no_grad()
def ceiling(lens: DiTLens, scenes: Sequence[Scene]) -> Float[xr.DataArray, "scene role count"]:
    """The sums of `against_truth` of the true clips A and B through the autoencoder."""
    video = lens.family.decode(lens.vae, lens.encode(possible_clips(scenes)))
    return against_truth(video, scenes)


def against_truth(
    video: Float[Tensor, "b 3 F H W"], scenes: Sequence[Scene]
) -> Float[xr.DataArray, "scene role count"]:
    """Sums of the tracker's scores over the frames from the break on, of generated clips A and B.

    Args:
        video: in [-1, 1], in the order of `possible_clips`.

    Returns:
        The sums `COUNTS`. In frames of the true clip that show at least half of its first object ("sight"): it is found
        within 4 world pixels, in place within 2, in its colour, and its error in world pixels. In all: objects of full
        size that are drawn, frames, squared errors of pixels and of those that move, and their numbers. `hidden` is the
        number of frames in which the object is behind the occluder.
    """
    clips = possible_clips(scenes)
    splices = [scene.splices[scene.roles.index(role)] for role in POSSIBLE for scene in scenes]
    rows = [_sums(*arguments) for arguments in zip(video.cpu(), clips, splices, strict=True)]
    hidden = np.array([clip.tracks[0].hidden.sum() for clip in clips])
    return xr.DataArray(
        np.array(rows).reshape(len(POSSIBLE), len(scenes), len(COUNTS)).swapaxes(0, 1),
        {
            "scene": [scene.id for scene in scenes],
            "role": list(POSSIBLE),
            "hidden": (("scene", "role"), hidden.reshape(len(POSSIBLE), -1).T),
            "count": list(COUNTS),
        },
        ("scene", "role", "count"),
    )


def _sums(video: Float[Tensor, "3 F H W"], clip: Clip, splice: int) -> list[float]:
    truth = to_tensor(clip.frames)
    detections = _objects(to_frames(video[:, splice:]))
    by_frame = [[] for _ in range(splice)] + detections
    matches = [
        match
        for match in tracker.compare(by_frame, clip)
        if match.track == 0 and match.frame >= splice and match.visible >= IN_SIGHT
    ]
    located = [match for match in matches if match.found]
    squared = (video - truth).square()[:, splice:]
    moving = moving_pixels(truth[None])[0].expand_as(truth)[:, splice:]
    return [
        len(matches),
        len(located),
        sum(match.error < IN_PLACE for match in located),
        sum(match.colour for match in located),
        sum(match.error for match in located),
        sum(len(_full_size(frame)) for frame in detections),
        len(detections),
        float(squared.sum()),
        squared.numel(),
        float(squared[moving].sum()),
        int(moving.sum()),
    ]


def drift(
    latent: Float[Tensor, "b c f h w"], video: Float[Tensor, "b 3 F H W"], truth: Float[Tensor, "b 3 F H W"]
) -> Float[np.ndarray, "b statistic"]:
    """Deviation of video segments from the scenery, sharpness, latents and objects of true clips.

    Returns:
        `STATISTICS` of each clip: the median difference of pixels that never moved, and the mean gradient, both in grey
        levels of 255; the root mean square of latents; objects of full size per frame.
    """
    video, truth = video.cpu(), truth.cpu()
    static = ~moving_pixels(truth)[:, 0, 0]
    away = (video - truth.median(2, keepdim=True).values).abs()
    rows: list[list[float]] = []
    for z, rollout, distance, where in zip(latent.cpu(), video, away, static, strict=True):
        counts = [len(_full_size(frame)) for frame in _objects(to_frames(rollout))]
        slopes = (rollout.diff(dim=2).abs().mean() + rollout.diff(dim=3).abs().mean()) / 2
        numbers = [distance[:, :, where].median() * 127.5, slopes * 127.5, z.square().mean().sqrt()]
        rows.append([*(float(n) for n in numbers), float(np.mean(counts))])
    assert all(len(row) == len(STATISTICS) for row in rows)
    return np.array(rows)


def _objects(frames: np.ndarray) -> list[list[Detection]]:
    return tracker.track(frames, colours=tuple(COLOURS), shapes=SHAPES)


def _full_size(detections: list[Detection]) -> list[Detection]:
    return [detection for detection in detections if detection.radius >= FULL_SIZE]
