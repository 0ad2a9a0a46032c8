"""Changes to a clip's frames (no motion, no order, another colour), and scenes whose label is their colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dit_lens.baselines.baseline import Change, Frames
from dit_lens.clips import ROLES, Scene

WARM = (1.0, 0.85, 0.7)  # factors of red, green and blue


def still(frame: int = -1) -> Change:
    """One frame in place of all: measures what a single image reveals."""
    return lambda frames: np.repeat(frames[:, [frame]], frames.shape[1], axis=1)


def shuffled(seed: int = 0) -> Change:
    """Frames in another order, the same for all clips: removes the order in time."""

    def change(frames: Frames) -> Frames:
        return frames[:, np.random.default_rng(seed).permutation(frames.shape[1])]

    return change


def tinted(frames: np.ndarray, span: slice = slice(None)) -> np.ndarray:
    """Frames (..., F, H, W, 3), with those of `span` in warmer light."""
    warm = frames.copy()
    warm[..., span, :, :, :] = (frames[..., span, :, :, :] * np.array(WARM)).round().astype(np.uint8)
    return warm


def in_scene(change: Change, scene: Scene) -> Scene:
    """The scene with the frames of its clips changed; labels, ids and breaks stay.

    Sums over frames still cancel in a crossed scene, because every time step has frames of A and of B.
    """
    clips = tuple(replace(clip, frames=change(clip.frames[None])[0]) for clip in scene.clips)
    return replace(scene, clips=clips)


def tint_pair(scene: Scene) -> Scene:
    """Possible clips as they are, and in warmer light ("impossible"): a label without any physics."""
    filmed = [clip.frames for clip in scene.clips[: len(scene.matches)]]
    return _with_frames(scene, [*filmed, *(tinted(frames) for frames in filmed)], "tint", crossed=False)


def tint_change(scene: Scene) -> Scene:
    """Clip A as it is (and in warmer light), and with a change of light at the break ("impossible").

    The scene is crossed like those of a physical property, with a salient difference. If clips share no first frames,
    the light changes in the middle.
    """
    a = scene["A"].frames
    cut = min(frames[0] for frames in scene.breaks) if scene.breaks and all(scene.breaks) else 0
    cut = cut or len(a) // 2
    later, earlier = tinted(a, slice(cut, None)), tinted(a, slice(None, cut))
    videos = [a, later] if len(scene.matches) == 1 else [a, tinted(a), later, earlier]
    changed = _with_frames(scene, videos, "tint change", crossed=len(videos) == len(ROLES))
    return replace(changed, breaks=((cut,),) * len(scene.matches))


def _with_frames(scene: Scene, videos: Sequence[np.ndarray], label: str, crossed: bool) -> Scene:
    """A scene with the same roles, possible ones first, and other frames."""
    name, template = f"{scene.id}, {label}", scene["A"]
    clips = tuple(
        replace(template, frames=frames, id=f"{name}/{role}", group=name, role=role, possible=role in "AB")
        for role, frames in zip(scene.roles, videos, strict=True)
    )
    return replace(scene, id=name, clips=clips, crossed=crossed, event=label)
