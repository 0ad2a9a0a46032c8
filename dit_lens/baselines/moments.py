"""Moments over time: how features are spread over a clip, whatever their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dit_lens.baselines.baseline import Baseline, Frames


def moments(of: Baseline) -> Baseline:
    """Mean, standard deviation and third central moment (its cube root) over time of another baseline's features.

    In the manner of SemanticMoments (Huberman et al. 2026), which takes them of each patch; here they are of what the
    other baseline has, which is means over space for an encoder, and cells for pixels. Blind to the order of frames
    where the features of a frame are of that frame alone.
    """

    def read(frames: Frames) -> np.ndarray:
        features = of.read(frames).astype(np.float64)
        mean = features.mean(2, keepdims=True)
        third = np.cbrt(((features - mean) ** 3).mean(2, keepdims=True))
        return np.concatenate([mean, features.std(2, keepdims=True), third], axis=-1)

    return replace(of, name=f"{of.name}, moments over time", read=read)
