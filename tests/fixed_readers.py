"""Readers with a probe that is set, not fitted: what a question does with a probe, without training scenes."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from dit_lens.capture import NoisePath
from dit_lens.lens import DiTLens
from dit_lens.probing import Features, Probe, Reads
from dit_lens.studies.readers import Reader


def random_probe(block: int, step: int, parts: int = 5, seed: int = 0) -> Probe:
    """A random direction after a block of mini-wan, by latent frame."""
    weight = torch.randn(parts, 128, generator=torch.Generator().manual_seed(seed))
    return Probe(weight, 0.0, 1.0, Reads(f"blocks.{block}.hook_resid_post", step, 0.5, "random direction"))


def reader_with(lens: DiTLens, probe: Probe, path: NoisePath | None = None) -> Reader:
    """A reader of one step, that of the probe."""
    block, step = int(probe.reads.point.split(".")[1]), probe.reads.step
    nothing = Features.of_arrays({(step, block): np.zeros((2, 1))}, [True, False], np.array(["x", "x"]))
    accuracy = xr.DataArray(np.ones((1, lens.blocks)), {"step": [step], "block": range(lens.blocks)}, ("step", "block"))
    reader = Reader(lens, path or NoisePath("continuation", 4), nothing, accuracy, {step: block})
    reader.__dict__["probes"] = {step: probe}
    return reader
