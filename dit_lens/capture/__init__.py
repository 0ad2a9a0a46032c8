"""Capture: activations of many clips along their paths to noise, reduced inside the hook.

feeding: inputs of the transformer, scene by scene, on each path. engine: the one loop, into memory or into a store;
`features` for probes. recipe: hook points and reductions. collecting: reductions in the hook. storing: batches on
disk; filling: a whole store, distributing: by the workers of an engine; surveying: its size and time beforehand.
stores: reuse of earlier captures.
"""

from __future__ import annotations

from dit_lens.capture.engine import Pooling, StoreFolder, capture, features, pooled
from dit_lens.capture.feeding import (
    CAPTION,
    PATHS,
    Encoder,
    Latents,
    NoisePath,
    alike,
    batches,
    begins_alike,
    by_scene,
    check_levels_by_frame,
    clean_frames,
    clips_of,
    conditioning_of,
    crossed,
    differing,
    encode,
    evaluations,
    generator_of,
    given_frames,
    latent_frame,
    latent_splice,
    of_role,
    partly_noised,
    schedule_of,
    spliced_noise,
    takes_levels_by_frame,
    trajectory_of,
)
from dit_lens.capture.filling import ON_ERROR, Share, fill
from dit_lens.capture.recipe import Recipe, Take
from dit_lens.capture.surveying import CaptureCost, survey

__all__ = [
    "CAPTION",
    "ON_ERROR",
    "PATHS",
    "CaptureCost",
    "Encoder",
    "Latents",
    "NoisePath",
    "Pooling",
    "Recipe",
    "Share",
    "StoreFolder",
    "Take",
    "alike",
    "batches",
    "begins_alike",
    "by_scene",
    "capture",
    "check_levels_by_frame",
    "clean_frames",
    "clips_of",
    "conditioning_of",
    "crossed",
    "differing",
    "encode",
    "evaluations",
    "features",
    "fill",
    "generator_of",
    "given_frames",
    "latent_frame",
    "latent_splice",
    "of_role",
    "partly_noised",
    "pooled",
    "schedule_of",
    "spliced_noise",
    "survey",
    "takes_levels_by_frame",
    "trajectory_of",
]
