"""Changes of a clip's frames: no motion, no order, another colour; and quadruplets whose label is their colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dit_lens.baselines.baseline import Change, Frames
from dit_lens.clips import ROLES, Clip, Quadruplet

WARM = (1.0, 0.85, 0.7)  # what red, green and blue are multiplied by


def still(frame: int = -1) -> Change:
    """One frame in place of all: what a single image gives away."""
    return lambda frames: np.repeat(frames[:, [frame]], frames.shape[1], axis=1)


def shuffled(seed: int = 0) -> Change:
    """Frames in another order, the same for all clips: what is left without time."""

    def change(frames: Frames) -> Frames:
        return frames[:, np.random.default_rng(seed).permutation(frames.shape[1])]

    return change


def tinted(frames: np.ndarray, span: slice = slice(None)) -> np.ndarray:
    """Frames (..., F, H, W, 3), those of `span` in warmer light."""
    warm = frames.copy()
    warm[..., span, :, :, :] = (frames[..., span, :, :, :] * np.array(WARM)).round().astype(np.uint8)
    return warm


def in_quadruplet(change: Change, quadruplet: Quadruplet) -> Quadruplet:
    """The four clips with their frames changed; labels, ids and the splice stay.

    What adds up over frames still cancels in a crossed quadruplet, for every place in time has frames of A and of B.
    """
    a, b, c, d = (replace(clip, frames=change(clip.frames[None])[0]) for clip in quadruplet.clips)
    return replace(quadruplet, a=a, b=b, c=c, d=d)


def tint_pair(quadruplet: Quadruplet) -> Quadruplet:
    """A and B as filmed ("possible"), and both in warmer light ("impossible"): a label that no law of physics knows."""
    a, b = quadruplet.clips[:2]
    films = (a.frames, b.frames, tinted(a.frames), tinted(b.frames))
    return _made_of(quadruplet, films, "tint", crossed=False)


def tint_change(quadruplet: Quadruplet) -> Quadruplet:
    """A as filmed and in warmer light ("possible"), and their crossings ("impossible"), whose light changes.

    Crossed as the law of a property is, with a difference that nobody can overlook.
    """
    a, cut = quadruplet.a.frames, quadruplet.splice
    films = (a, tinted(a), tinted(a, slice(cut, None)), tinted(a, slice(None, cut)))
    return _made_of(quadruplet, films, "tint change", crossed=True)


def _made_of(quadruplet: Quadruplet, films: tuple[np.ndarray, ...], what: str, crossed: bool) -> Quadruplet:
    group = f"{quadruplet.id}, {what}"

    def clip(role: str, frames: np.ndarray) -> Clip:
        known = {"id": f"{group}/{role}", "group": group, "role": role, "possible": role in "AB"}
        return replace(quadruplet.a, frames=frames, **known)

    a, b, c, d = (clip(role, frames) for role, frames in zip(ROLES, films, strict=True))
    return Quadruplet(a, b, c, d, quadruplet.splice, quadruplet.property, what, crossed)
