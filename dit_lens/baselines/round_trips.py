"""Fidelity of a clip's inversion as features: statistics of its path to noise and back."""

from __future__ import annotations

import numpy as np

from dit_lens import fidelity
from dit_lens.baselines.baseline import Baseline, Frames, widen
from dit_lens.inversion import Lens, invert

LAYERS = ("path and round trip", "recovered noise by channel")


def round_trips(lens: Lens, levels: int, name: str) -> Baseline:
    """Fidelity statistics of the Euler inversion; if they decode above chance, states may show how they were computed.

    The first layer is the four numbers of `fidelity.predictors`; the second is mean, deviation, kurtosis and
    correlations of the recovered noise by channel (`fidelity.noise_statistics`).

    Args:
        levels: steps between data and noise.
        name: its row in a table.
    """

    def read(frames: Frames) -> np.ndarray:
        path = invert(lens, frames, steps=levels, solver="euler")
        returned, _ = fidelity.round_trip(lens, path)
        numbers = np.stack(list(fidelity.predictors(path, returned).values()), axis=1)
        noise = fidelity.noise_statistics(path.latents[-1]).value.transpose("clip", "statistic", "channel").values
        return widen([numbers[:, None], noise.reshape(len(frames), 1, -1)])

    return Baseline(name, LAYERS, read, weights=name, sees=f"{levels} steps there and back")
