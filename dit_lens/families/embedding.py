"""The hook point of patch embeddings, as video tokens."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from dit_lens.families.conventions import LATENT, ROOT
from dit_lens.hook_points import HookPoint, Site


def embedded_by_frame(site: Site) -> HookPoint:
    """`hook_embed` of a convolution that runs frame by frame, ((b f) d h w): patch embeddings without positions."""

    def read(root: tuple, raw: Tensor) -> Tensor:
        return rearrange(raw, "(b f) d h w -> b (f h w) d", b=len(LATENT.get(root)))

    def write(new: Tensor, old: Tensor, root: tuple, raw: Tensor) -> Tensor:
        return rearrange(new, "b (f h w) d -> (b f) d h w", h=raw.shape[2], w=raw.shape[3])

    return HookPoint("hook_embed", "b n d", (ROOT, site), read, write)
