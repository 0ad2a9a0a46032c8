"""Moments over time: the distribution of features over a clip, regardless of their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dit_lens.baselines.baseline import Baseline, Frames


def moments(of: Baseline) -> Baseline:
    """Mean, standard deviation and third central moment (its cube root) over time of another baseline's features.

    After SemanticMoments (Huberman et al. 2026), which computes them for each patch; here they are of the other
    baseline's features: means over space for an encoder, grid cells for pixels. They do not depend on the order of
    frames if the features of a frame are from that frame alone.
    """

    def read(frames: Frames) -> np.ndarray:
        features = of.read(frames).astype(np.float64)
        mean = features.mean(2, keepdims=True)
        third = np.cbrt(((features - mean) ** 3).mean(2, keepdims=True))
        return np.concatenate([mean, features.std(2, keepdims=True), third], axis=-1)

    return replace(of, name=f"{of.name}, moments over time", read=read)
