"""What is the same for every clip, such as the embedding of the prompt: it must be at chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dit_lens.baselines.baseline import Baseline, Frames, Pooling


def constant(name: str, vector: Float[np.ndarray, " d"], pooling: Pooling = "frames") -> Baseline:
    """The same features for every clip; above chance with them, a protocol leaks."""

    def read(frames: Frames) -> np.ndarray:
        return np.broadcast_to(vector, (len(frames), 1, 1, len(vector)))

    return Baseline(name, ("same for all clips",), read, sees="nothing", pooling=pooling)
