"""Pixels and latents on grids, from coarse to fine, without an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dit_lens.baselines.baseline import Baseline, Frames, Pooling, widen
from dit_lens.video import to_tensor

CELLS = (1, 2, 4, 8)


def pixels(pooling: Pooling = "frames", cells: Sequence[int] = CELLS) -> Baseline:
    """Mean colours of the frames on grids of 1 × 1 to 8 × 8 cells; a layer is a grid."""
    return on_grids("pixels", to_tensor, pooling, cells)


def on_grids(
    name: str,
    encode: Callable[[Frames], Float[Tensor, "b c f h w"]],
    pooling: Pooling = "frames",
    cells: Sequence[int] = CELLS,
) -> Baseline:
    """Means of any encoding with rows and columns, such as `lens.encode`, over grid cells; a layer is a grid."""

    @torch.no_grad()
    def read(frames: Frames) -> np.ndarray:
        video = encode(frames).float().cpu()
        images = rearrange(video, "b c f h w -> (b f) c h w")
        means = [torch.nn.functional.adaptive_avg_pool2d(images, n) for n in cells]
        return widen([rearrange(m, "(b f) c h w -> b f (c h w)", b=len(frames)).numpy() for m in means])

    return Baseline(name, tuple(f"{n} × {n} cells" for n in cells), read, pooling=pooling)
