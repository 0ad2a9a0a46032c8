"""dit_lens: TransformerLens-style hooking for video diffusion transformers.

One picture: scenes -> latents -> trajectory -> activations -> question -> measure -> table, figure. Each arrow is a
module; a module imports only from floors below its own (tests/test_layout.py holds it).

====== ===================================================================================================
floor  what is there
====== ===================================================================================================
10     studies: what every question shares: models, scenes, probes, results; see `analyses`
9      patching, ablation: named questions over interventions; circuits: from part to part, and what suffices;
       attribution: integrated gradients; toy.behaviour: what continuations show; toy.truth: states of objects
8      interventions: edits -> effects, exact and without running anything twice; screening by gradients;
       attention: what heads look at, without the matrix of weights;
       capture: activations of many clips, in memory or in a store; baselines: what else a probe may read;
       steering: pushes along a direction
7      lens: DiTLens (load, invert, sample, run_with_cache, hooks, generate, trace);
       toy.training: the recipes of mini-wan and its kin
6      fidelity: is the inverted path the sampler's own? continuation: given frames, sampled frames, rollouts
5      laws: what must hold for hook points to mean what they say; inversion: between pixels, latents and noise;
       measures: what follows from results, without any model
4      running: evaluations with hooks, cache, skipped prefix or early stop, by expert and guidance branch;
       probing: probes, grids, protocols, controls; toy.tracker: objects in frames
3      families: one file per diffusers architecture; tracing: the only file that imports nnsight; cache:
       activations and their exact attribution; trajectory; reductions: what is kept of an activation; store:
       activations on disk; datasets: one file each; models: names, codec, loading; engines: local processes and Ray;
       toy.miniphys: scenes; toy.mini_wan, toy.mini_vae: architectures
2      clips: the clip contract; conditioning; hook_points: the vocabulary; edits: pure tensor edits; flow:
       velocity contract and solvers; metrics: what an effect is measured on; video: frames and tensors;
       reading: video files and folders; tensor_file: tensors in HDF5; results: xarray with provenance; plots:
       axes-level matplotlib
1      arguments: numbers and places checked; axes: axis letters and the token grid; choices: "did you mean";
       atomic_files: written whole or not at all; stats: intervals over scenes, permutation nulls
====== ===================================================================================================

Importing the package is light; nnsight, diffusers and torch are imported when something of theirs is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dit_lens.choices import nearest

if TYPE_CHECKING:
    from dit_lens import (
        ablation,
        attention,
        attribution,
        baselines,
        capture,
        circuits,
        datasets,
        edits,
        fidelity,
        flow,
        interventions,
        measures,
        metrics,
        patching,
        plots,
        probing,
        reading,
        reductions,
        results,
        stats,
        steering,
        store,
        studies,
        toy,
        video,
    )
    from dit_lens.cache import ActivationCache
    from dit_lens.clips import Clip, Scene
    from dit_lens.conditioning import Conditioning
    from dit_lens.interventions import Intervention
    from dit_lens.lens import At, DiTLens, Keep
    from dit_lens.probing import Features, Probe
    from dit_lens.studies import Study
    from dit_lens.trajectory import Trajectory

__version__ = "0.1.0"
_CLASSES = {
    "ActivationCache": "cache",
    "At": "lens",
    "Clip": "clips",
    "Conditioning": "conditioning",
    "DiTLens": "lens",
    "Features": "probing",
    "Intervention": "interventions",
    "Keep": "lens",
    "Probe": "probing",
    "Scene": "clips",
    "Study": "studies",
    "Trajectory": "trajectory",
}
__all__ = [
    "ActivationCache",
    "At",
    "Clip",
    "Conditioning",
    "DiTLens",
    "Features",
    "Intervention",
    "Keep",
    "Probe",
    "Scene",
    "Study",
    "Trajectory",
    "ablation",
    "attention",
    "attribution",
    "baselines",
    "capture",
    "circuits",
    "datasets",
    "edits",
    "fidelity",
    "flow",
    "interventions",
    "measures",
    "metrics",
    "patching",
    "plots",
    "probing",
    "reading",
    "reductions",
    "results",
    "stats",
    "steering",
    "store",
    "studies",
    "toy",
    "video",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(f"dit_lens.{_CLASSES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"dit_lens.{name}")
    raise AttributeError(f"module 'dit_lens' has no attribute {name!r}{nearest(name, __all__)}")


def __dir__() -> list[str]:
    return list(__all__)
