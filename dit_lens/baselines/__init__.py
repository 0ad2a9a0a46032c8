"""Baselines and controls: other features that may decode plausibility, each a row to add to a table.

A baseline maps frames (b, F, H, W, 3) to features (b, layer, feature); see `Baseline`. All get the same clips, and are
pooled and probed in the same way.

baseline: the interface. catalogue: baselines by name. grids: pixels and latents. optical_flow, texture: motion without
appearance, appearance without motion. videomae, vjepa2: video encoders and their surprise; windows: its protocol.
moments: over time, of any other baseline. noise: matched in mean and covariance. changes: frames stilled, shuffled,
tinted. constant: the prompt's embedding. round_trips: fidelity of the inversion. preparing, weights: inputs and
weights of the encoders.
"""

from __future__ import annotations

from dit_lens.baselines.baseline import Baseline, Change, NotRunError, Pooling, widen
from dit_lens.baselines.catalogue import load, load_surprise, not_run
from dit_lens.baselines.changes import in_scene, shuffled, still, tint_change, tint_pair, tinted
from dit_lens.baselines.constant import constant
from dit_lens.baselines.grids import on_grids, pixels
from dit_lens.baselines.moments import moments
from dit_lens.baselines.noise import MatchedNoise
from dit_lens.baselines.optical_flow import optical_flow
from dit_lens.baselines.round_trips import round_trips
from dit_lens.baselines.texture import resnet
from dit_lens.baselines.videomae import videomae, videomae_surprise
from dit_lens.baselines.vjepa2 import vjepa2, vjepa2_surprise

__all__ = [
    "Baseline",
    "Change",
    "MatchedNoise",
    "NotRunError",
    "Pooling",
    "constant",
    "in_scene",
    "load",
    "load_surprise",
    "moments",
    "not_run",
    "on_grids",
    "optical_flow",
    "pixels",
    "resnet",
    "round_trips",
    "shuffled",
    "still",
    "tint_change",
    "tint_pair",
    "tinted",
    "videomae",
    "videomae_surprise",
    "vjepa2",
    "vjepa2_surprise",
    "widen",
]
