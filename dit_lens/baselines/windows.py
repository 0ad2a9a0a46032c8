"""Surprise in sliding windows: a protocol that is the same for every predictive model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dit_lens.baselines.baseline import Frames, Read
from dit_lens.baselines.preparing import Preparation

Errors = Callable[[Float[Tensor, "b f 3 h w"], int], Float[Tensor, " b"]]


def by_window(prepare: Preparation, errors: Errors, contexts: Sequence[int], length: int, stride: int) -> Read:
    """A reader: frames -> errors (b, context, window, 1) in windows of `length` frames, `stride` frames apart.

    Args:
        prepare: frames to the model's input.
        errors: (frames of a window, number of context frames) -> error of each clip on the other frames.
        contexts: numbers of context frames.
        length: frames in a window.
        stride: frames from one window to the next.
    """

    def read(frames: Frames) -> np.ndarray:
        if frames.shape[1] < length:
            raise ValueError(
                f"got clips of {frames.shape[1]} frames · expected at least {length}, one window of the model · load"
                " longer clips, or a model with fewer frames"
            )
        video = prepare(frames)
        starts = range(0, frames.shape[1] - length + 1, stride)
        values = [[errors(video[:, s : s + length], shown).float().cpu().numpy() for s in starts] for shown in contexts]
        return np.moveaxis(np.array(values), 2, 0)[..., None]

    return read


def check_contexts(contexts: Sequence[int], length: int, tubelet: int) -> int:
    """The length of a window, after a check of the contexts.

    Raises:
        ValueError: a number of context frames that is not a multiple of the tubelet, or leaves nothing to predict.
    """
    wrong = [shown for shown in contexts if shown % tubelet or not 0 < shown < length]
    if wrong or not contexts:
        raise ValueError(
            f"got {wrong or 'no number of'} context frames · expected multiples of {tubelet} between {tubelet} and"
            f" {length - tubelet}"
        )
    return length
