"""Scenes that break elsewhere: crossed at any frames, twice, or with pairs that break apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dit_lens.clips import Scene, quadruplet


def crossed_at(scene: Scene, first: Sequence[int], second: Sequence[int] | None = None) -> Scene:
    """A and B of a scene with C made of A and B, and D of B and A, where they break at these frames."""
    both, videos = (tuple(first), tuple(first if second is None else second)), []
    a, b = scene["A"].frames, scene["B"].frames
    for shown_first, shown_next, breaks in ((a, b, both[0]), (b, a, both[1])):
        mask = np.zeros(len(a), dtype=bool)
        for start, end in zip(breaks[::2], (*breaks[1::2], len(a)), strict=False):
            mask[start:end] = True
        videos.append(np.where(mask[:, None, None, None], shown_next, shown_first))
    name = f"{scene.id}/{both}"
    clips = [
        replace(clip, id=f"{name}/{clip.role}", group=name, frames=frames, tracks=())
        for clip, frames in zip(scene.clips, (a, b, *videos), strict=True)
    ]
    return quadruplet(clips, both, scene.event, crossed=both[0] == both[1])


def pair_of(scene: Scene, splice: int) -> Scene:
    """A single pair, A and C, that parts at a frame."""
    crossed = crossed_at(scene, (splice,))
    return Scene(f"{crossed.id}#pair", (crossed["A"], crossed["C"]), ((0, 1),), ((splice,),), False, scene.event)
