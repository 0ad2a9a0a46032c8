"""A reader whose frozen probe is given instead of fitted."""

from __future__ import annotations

from typing import Any

import torch

from dit_lens.capture import NoisePath
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.studies.readers import Reader


def random_probe(lens: DiTLens, block: int, step: int, steps: int, frames: int | None = None) -> Probe:
    """A probe of a block's output with a random direction, or one for each of so many latent frames."""
    width = int(lens.heads * lens.transformer.config.attention_head_dim)
    shape = (width,) if frames is None else (frames, width)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    sigma = lens.schedule(steps, torch.zeros(1, 16, 5, 4, 4)).sigmas[step]
    return Probe(weight, 0.5, 1.0, Reads(f"blocks.{block}.hook_resid_post", step, sigma, "random"))


def reader_with(lens: DiTLens, probe: Probe, path: NoisePath) -> Reader:
    """A reader that has seen no training scenes."""
    unread: Any = None
    reader = Reader(lens, path, unread, unread, {probe.reads.step: int(probe.reads.point.split(".")[1])})
    vars(reader)["probes"] = {probe.reads.step: probe}
    return reader
