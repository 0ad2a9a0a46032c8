"""Code that HunyuanVideo and HunyuanVideo 1.5 share outside their blocks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.families.conventions import LATENT, ROOT, VELOCITY, clean_estimate, grid, patch
from dit_lens.families.dual_stream import Spelled
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.parts import Part, item, point
from dit_lens.hook_points import HookPoint, Site, Table

TEXT_ENCODERS = "text_encoder", "text_encoder_2"
EMBED = Site("x_embedder", "output")


def input_dtype(transformer: Any) -> torch.dtype:
    """The dtype of input latents."""
    return transformer.x_embedder.proj.weight.dtype


def schedule_arguments(pipeline: Any, latent: Tensor | None, steps: int) -> dict[str, Any]:
    """The scheduler arguments of the pipeline: evenly spaced sigmas. Its own default sigmas would be shifted twice."""
    return {"sigmas": np.linspace(1.0, 0.0, steps + 1)[:-1]}


def table(
    transformer: Any, blocks: Mapping[str, Spelled], time: HookPoint, absent: Mapping[str, str], latent: Part = LATENT
) -> Table:
    """Every hook point of a transformer.

    Args:
        blocks: by module path, in the order in which they are run.
        time: `hook_time_embed`.
        absent: why a name is absent.
        latent: the part of the transformer's inputs that is the latent.
    """
    points = [
        point("hook_latent", "b c f h w", ROOT, latent),
        time,
        point("hook_embed", "b n d", EMBED),
        *(point for block in blocks.values() for point in block.points),
        point("hook_velocity", "b c f h w", VELOCITY, item(0)),
        clean_estimate(partial(grid, transformer), latent),
    ]
    whole = Table(
        (ROOT, *time.sites, EMBED, *(site for block in blocks.values() for site in block.sites), VELOCITY),
        {point.name: point for point in points},
        tuple(blocks),
        absent,
        ("hook_resid_pre", "text.hook_resid_pre"),
        tuple(law for block in blocks.values() for law in block.laws),
    )
    last = final("c p q r", patch(transformer))
    return with_final(whole, last, (Site("norm_out.linear", "output"),), lambda raw: raw.chunk(2, -1)[::-1])
