"""How well a clip is inverted, and nothing else: statistics of its path to noise and back."""

from __future__ import annotations

import numpy as np

from dit_lens import fidelity
from dit_lens.baselines.baseline import Baseline, Frames, widen
from dit_lens.inversion import Inversion

LAYERS = ("path and round trip", "recovered noise by channel")


def round_trips(lens: Inversion, levels: int, name: str) -> Baseline:
    """Fidelity statistics of the Euler inversion; above chance with them, states may be read for how they were made.

    A layer is the four numbers of `fidelity.predictors`; another is mean, deviation, kurtosis and correlations of the
    recovered noise by channel (`fidelity.noise_statistics`).

    Args:
        levels: steps between data and noise.
        name: its row in a table.
    """

    def read(frames: Frames) -> np.ndarray:
        path = lens.invert(frames, steps=levels, solver="euler")
        there_and_back, _ = fidelity.round_trip(lens, path)
        numbers = np.stack(list(fidelity.predictors(path, there_and_back).values()), axis=1)
        noise = fidelity.noise_statistics(path.latents[-1]).value.transpose("clip", "statistic", "channel").values
        return widen([numbers[:, None], noise.reshape(len(frames), 1, -1)])

    return Baseline(name, LAYERS, read, weights=name, sees=f"{levels} steps there and back")
