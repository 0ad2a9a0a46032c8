"""dit_lens: TransformerLens-style hooking for video diffusion transformers.

One picture: clip -> latent -> trajectory -> activations -> question -> table -> figure. Each arrow is a module; a
module imports only from floors below its own (tests/test_layout.py holds it).

====== ===================================================================================================
floor  what is there
====== ===================================================================================================
9      patching, ablation: named questions over sweeps; paths: from part to part, and circuits; attribution:
       integrated gradients; behaviour: what continuations show; filling: many clips into a store
8      sweeps: (address, edit) -> effect, exact and without running anything twice; screening by gradients;
       capture: pooled activations of many clips; baselines: what else a probe may read; steering:
       pushes along a direction
7      lens: DiTLens (load, invert, sample, run_with_cache, hooks, generate, trace);
       training: the recipes of mini-wan and its kin
6      fidelity: is the inverted path the sampler's own? continuation: given frames, sampled frames, rollouts
5      laws: what must hold for hook points to mean what they say; inversion: between pixels, latents and noise
4      running: evaluations with hooks, cache, skipped prefix or early stop, by expert and guidance branch;
       probing: probes, grids, protocols, controls; tracker: objects in frames
3      families: one file per diffusers architecture; tracing: the only file that imports nnsight; cache:
       activations and their exact attribution; trajectory; reductions: what is kept of an activation; store:
       activations on disk; datasets: one file each; models: bundled weights, codec, loading
2      clips: the clip contract; conditioning; hook_points: the vocabulary; edits: pure tensor edits; flow:
       velocity contract and solvers; metrics: what an effect is measured on; video: frames and tensors;
       reading: video files and folders; tensor_file: tensors in HDF5; plots: axes-level matplotlib
1      axes: axis letters and the token grid; choices: "did you mean"; results: xarray with provenance; stats:
       intervals over scenes, permutation nulls
====== ===================================================================================================

Importing the package is light; nnsight, diffusers and torch are imported when something of theirs is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_lens import (
        ablation,
        attribution,
        baselines,
        behaviour,
        datasets,
        edits,
        fidelity,
        filling,
        flow,
        metrics,
        patching,
        paths,
        plots,
        probing,
        reading,
        reductions,
        results,
        stats,
        steering,
        store,
        sweeps,
        video,
    )
    from dit_lens.conditioning import Conditioning
    from dit_lens.lens import DiTLens

__version__ = "0.1.0"
__all__ = [
    "Conditioning",
    "DiTLens",
    "ablation",
    "attribution",
    "baselines",
    "behaviour",
    "datasets",
    "edits",
    "fidelity",
    "filling",
    "flow",
    "metrics",
    "patching",
    "paths",
    "plots",
    "probing",
    "reading",
    "reductions",
    "results",
    "stats",
    "steering",
    "store",
    "sweeps",
    "video",
]
_CLASSES = {"DiTLens": "dit_lens.lens", "Conditioning": "dit_lens.conditioning"}


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    if name in __all__:
        return importlib.import_module(f"dit_lens.{name}")
    raise AttributeError(f"module 'dit_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
