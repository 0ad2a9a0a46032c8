"""Baselines and controls: what else decodes plausibility, each one line to add to a table.

A baseline takes frames (b, F, H, W, 3) to features (b, layer, feature); see `Baseline`. All get the same clips, and are
pooled and probed alike.

baseline: the contract. catalogue: baselines by name. grids: pixels and latents. optical_flow, texture: motion without
things, things without motion. videomae, vjepa2: encoders of video and their surprise; windows: its protocol. moments:
over time, of any other. noise: matched in mean and covariance. changes: frames stilled, shuffled, tinted. constant:
the prompt's embedding. preparing, weights: what the encoders stand on.
"""

from __future__ import annotations

from dit_lens.baselines.baseline import Baseline, NotRunError, widen
from dit_lens.baselines.catalogue import load, load_surprise, not_run
from dit_lens.baselines.changes import shuffled, still, tint_change, tint_pair, tinted
from dit_lens.baselines.constant import constant
from dit_lens.baselines.grids import on_grids, pixels
from dit_lens.baselines.moments import moments
from dit_lens.baselines.noise import MatchedNoise, noise_like
from dit_lens.baselines.optical_flow import optical_flow
from dit_lens.baselines.texture import resnet
from dit_lens.baselines.videomae import videomae, videomae_surprise
from dit_lens.baselines.vjepa2 import vjepa2, vjepa2_surprise

__all__ = [
    "Baseline",
    "MatchedNoise",
    "NotRunError",
    "constant",
    "load",
    "load_surprise",
    "moments",
    "noise_like",
    "not_run",
    "on_grids",
    "optical_flow",
    "pixels",
    "resnet",
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
