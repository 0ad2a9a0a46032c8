"""Baselines and controls: what else decodes plausibility, each one line to add to a table.

A baseline takes frames (b, F, H, W, 3) to features (b, layer, feature); see `Baseline`. All get the same clips, and are
pooled and probed alike.

baseline: the contract. catalogue: baselines by name. grids: pixels and latents. optical_flow, texture: motion without
things, things without motion. videomae, vjepa2: encoders of video and their surprise; windows: its protocol. moments:
over time, of any other. noise: matched in mean and covariance. changes: frames stilled, shuffled, tinted. content:
what a clip shows, as a label beside physics. constant: the prompt's embedding. round_trips: fidelity of the inversion.
preparing, weights: what the encoders stand on.
"""

from __future__ import annotations

from dit_lens.baselines.baseline import Baseline, Change, NotRunError, Pooling, widen
from dit_lens.baselines.catalogue import load, load_surprise, not_run
from dit_lens.baselines.changes import in_quadruplet, shuffled, still, tint_change, tint_pair, tinted
from dit_lens.baselines.constant import constant
from dit_lens.baselines.content import CONTENTS, content, content_labels
from dit_lens.baselines.grids import on_grids, pixels
from dit_lens.baselines.moments import moments
from dit_lens.baselines.noise import MatchedNoise, noise_like
from dit_lens.baselines.optical_flow import optical_flow
from dit_lens.baselines.round_trips import round_trips
from dit_lens.baselines.texture import resnet
from dit_lens.baselines.videomae import videomae, videomae_surprise
from dit_lens.baselines.vjepa2 import vjepa2, vjepa2_surprise

__all__ = [
    "CONTENTS",
    "Baseline",
    "Change",
    "MatchedNoise",
    "NotRunError",
    "Pooling",
    "constant",
    "content",
    "content_labels",
    "in_quadruplet",
    "load",
    "load_surprise",
    "moments",
    "noise_like",
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
