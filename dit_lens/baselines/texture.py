"""Texture of single frames from a frozen image classifier: features without time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce

from dit_lens.baselines.baseline import Baseline, Frames, Pooling, widen
from dit_lens.baselines.preparing import Preparation
from dit_lens.baselines.weights import RANDOM, load, titled


def resnet(weights: str = RANDOM, pooling: Pooling = "frames", seed: int = 0, device: str = "cpu") -> Baseline:
    """Stages of ResNet by frame, means over space (He et al. 2016); after Geirhos et al. 2019, mostly texture.

    Args:
        weights: a folder, a hub id such as "microsoft/resnet-50" (frames at 224 pixels), or "random": four small
            stages, frames at 64 pixels.
        pooling: see `Baseline`.
        seed: of the random weights.
        device: of the model.

    Raises:
        NotRunError: there are no such weights.
    """
    from transformers import ResNetModel

    model, source = load(ResNetModel, weights, small_config(), seed, device)
    prepare = Preparation(None, 64 if weights == RANDOM else 224, device)

    @torch.no_grad()
    def read(frames: Frames) -> np.ndarray:
        video = prepare(frames)
        stages = model(rearrange(video, "b f c h w -> (b f) c h w"), output_hidden_states=True).hidden_states
        means = [reduce(stage.float().cpu(), "(b f) c h w -> b f c", "mean", b=len(frames)) for stage in stages]
        return widen([mean.numpy() for mean in means])

    layers = ("stem", *(f"stage {i}" for i in range(1, 1 + len(model.config.depths))))
    return Baseline(titled("ResNet", weights), layers, read, source, prepare.sees, pooling, batch_size=8)


def small_config() -> Any:
    """The configuration of random weights: four stages of one block each."""
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1], layer_type="basic")
