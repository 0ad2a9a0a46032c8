"""Features that are the same for every clip, such as the prompt's embedding: a probe on them must be at chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dit_lens.baselines.baseline import Baseline, Frames, Pooling


def constant(name: str, vector: Float[np.ndarray, " d"], pooling: Pooling = "frames") -> Baseline:
    """The same features for every clip; a protocol that is above chance with them leaks."""

    def read(frames: Frames) -> np.ndarray:
        return np.broadcast_to(vector, (len(frames), 1, 1, len(vector)))

    return Baseline(name, ("same for all clips",), read, sees="nothing", pooling=pooling)
