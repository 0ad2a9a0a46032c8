"""What a clip shows, as a label beside physics: where its object ends, of what colour it is, on what background.

A probe that tells possible from impossible may have learned what is shown. These labels say how much of that is there
to be had from the same features, and that a model which fails at physics is not merely blind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from dit_lens.choices import check_choice
from dit_lens.clips import Clip
from dit_lens.datasets.miniphys.scenes import PALETTE


def _position(clip: Clip) -> float:
    """How far to the right the first object is in the last frame."""
    track = clip.tracks[0] if clip.tracks else None
    return float(track.position[-1, 0]) if track is not None and track.present[-1] else np.nan


def _colour(clip: Clip) -> float:
    """How red the first object is in the last frame."""
    track = clip.tracks[0] if clip.tracks else None
    named = str(track.colour[-1]) if track is not None else ""
    return PALETTE[named][0] if named in PALETTE else np.nan


def _background(clip: Clip) -> float:
    """How bright the background is."""
    known = clip.factors.get("scene", {}).get("background")
    return float(np.mean(known)) if known is not None else np.nan


CONTENTS: dict[str, Callable[[Clip], float]] = {
    "position": _position,
    "colour": _colour,
    "background": _background,
}


def content(clips: Sequence[Clip], what: str) -> Float[np.ndarray, " b"]:
    """Position (to the right), colour (redness) or background (brightness) of clips; NaN where it is not known.

    Known are clips of miniphys: there has to be a true track, or a record of the scene.

    Raises:
        ValueError: any other content.
    """
    read = CONTENTS[check_choice(what, CONTENTS, "content")]
    return np.array([read(clip) for clip in clips])


def content_labels(clips: Sequence[Clip], like: Sequence[Clip], what: str) -> Float[np.ndarray, " b"]:
    """1 where the content is above the median of what occurs in the clips `like`, 0 where it is not, or NaN.

    Args:
        like: training clips; the median is of their different values, so that both labels occur.
    """
    values, known = content(clips, what), content(like, what)
    if not np.isfinite(known).any():
        return np.full(len(clips), np.nan)
    return np.where(np.isfinite(values), values > np.median(np.unique(known[np.isfinite(known)])), np.nan)
