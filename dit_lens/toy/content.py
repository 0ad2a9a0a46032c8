"""Visible content of a clip as a label other than physics: final position and colour of its object, and background.

A probe that separates possible from impossible may have learned visible content. These labels measure how much of it
can be decoded from the same features, and show whether a model that fails at physics represents content at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from dit_lens.choices import check_choice
from dit_lens.clips import Clip
from dit_lens.toy.miniphys.scenes import PALETTE


def _position(clip: Clip) -> float:
    """Horizontal position of the first object in the last frame."""
    track = clip.tracks[0] if clip.tracks else None
    return float(track.position[-1, 0]) if track is not None and track.present[-1] else np.nan


def _colour(clip: Clip) -> float:
    """Redness of the first object in the last frame."""
    track = clip.tracks[0] if clip.tracks else None
    named = str(track.colour[-1]) if track is not None else ""
    return PALETTE[named][0] if named in PALETTE else np.nan


def _background(clip: Clip) -> float:
    """Brightness of the background."""
    colour = clip.factors.get("scene", {}).get("background")
    return float(np.mean(colour)) if colour is not None else np.nan


CONTENTS: dict[str, Callable[[Clip], float]] = {
    "position": _position,
    "colour": _colour,
    "background": _background,
}


def content(clips: Sequence[Clip], what: str) -> Float[np.ndarray, " b"]:
    """Position (to the right), colour (redness) or background (brightness) of clips; NaN where unknown.

    They are known for clips of miniphys: they require a ground-truth track, or a record of the scene.

    Raises:
        ValueError: an unknown content.
    """
    read = CONTENTS[check_choice(what, CONTENTS, "content")]
    return np.array([read(clip) for clip in clips])


def content_labels(clips: Sequence[Clip], like: Sequence[Clip], what: str) -> Float[np.ndarray, " b"]:
    """1 where the content is above its median over the clips `like`, 0 where it is not, or NaN.

    Args:
        like: training clips; the median is over their distinct values, so that both labels occur.
    """
    values, reference = content(clips, what), content(like, what)
    if not np.isfinite(reference).any():
        return np.full(len(clips), np.nan)
    return np.where(np.isfinite(values), values > np.median(np.unique(reference[np.isfinite(reference)])), np.nan)
