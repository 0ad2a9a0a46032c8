"""Surprise in sliding windows: the protocol that is the same whatever model predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dit_lens.baselines.baseline import Frames, Read
from dit_lens.baselines.preparing import Preparation

Errors = Callable[[Float[Tensor, "b f 3 h w"], int], Float[Tensor, " b"]]


def by_window(prepare: Preparation, errors: Errors, contexts: Sequence[int], length: int, stride: int) -> Read:
    """Frames -> errors (b, context, window, 1) in windows of `length` frames, each `stride` after the last.

    Args:
        prepare: frames to the model's input.
        errors: (a window's frames, number of them given) -> error of each clip on the rest.
        contexts: numbers of frames given.
        length: frames in a window.
        stride: frames from one window to the next.
    """

    def read(frames: Frames) -> np.ndarray:
        if frames.shape[1] < length:
            raise ValueError(
                f"got clips of {frames.shape[1]} frames · expected at least {length}, a window of the model"
                " · load longer clips, or a model of fewer frames"
            )
        video = prepare(frames)
        starts = range(0, frames.shape[1] - length + 1, stride)
        found = [[errors(video[:, s : s + length], given).float().cpu().numpy() for s in starts] for given in contexts]
        return np.moveaxis(np.array(found), 2, 0)[..., None]

    return read


def check_contexts(contexts: Sequence[int], length: int, tubelet: int) -> int:
    """The length of a window.

    Raises:
        ValueError: a number of given frames that is no multiple of the tubelet, or leaves nothing to predict.
    """
    wrong = [given for given in contexts if given % tubelet or not 0 < given < length]
    if wrong or not contexts:
        raise ValueError(
            f"got {wrong or 'no number of'} frames given · expected multiples of {tubelet} between {tubelet}"
            f" and {length - tubelet}"
        )
    return length
