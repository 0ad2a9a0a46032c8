"""VideoMAE: states of a masked video autoencoder by layer, and its reconstruction error on later frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.baselines.baseline import Baseline, Frames, Pooling
from dit_lens.baselines.preparing import IMAGENET_MEAN, IMAGENET_STD, Preparation
from dit_lens.baselines.weights import RANDOM, load, titled
from dit_lens.baselines.windows import by_window, check_contexts


def small_config() -> Any:
    """The configuration of random weights: four blocks of width 96 at 64 pixels, 16 tokens for two frames."""
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        image_size=64,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        decoder_hidden_size=96,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=384,
    )


def videomae(weights: str = RANDOM, pooling: Pooling = "frames", seed: int = 0, device: str = "cpu") -> Baseline:
    """Embedding and block outputs of VideoMAE (Tong et al. 2022), means over the patches of each tubelet.

    Args:
        weights: a folder, a hub id such as "MCG-NJU/videomae-base", or "random": four blocks of width 96, 64 pixels.
        pooling: see `Baseline`.
        seed: of the random weights.
        device: of the model.

    Raises:
        NotRunError: there are no such weights.
    """
    from transformers import VideoMAEModel

    model, source = load(VideoMAEModel, weights, small_config(), seed, device)
    prepare = Preparation(model.config.num_frames, model.config.image_size, device)
    tubelets = model.config.num_frames // model.config.tubelet_size

    @torch.no_grad()
    def read(frames: Frames) -> np.ndarray:
        states = torch.stack(model(prepare(frames), output_hidden_states=True).hidden_states, dim=1)
        return reduce(states, "b layer (t n) d -> b layer t d", "mean", t=tubelets).float().cpu().numpy()

    layers = ("embedding", *(f"block {i}" for i in range(model.config.num_hidden_layers)))
    return Baseline(titled("VideoMAE", weights), layers, read, source, prepare.sees, pooling, batch_size=8)


def videomae_surprise(
    weights: str = RANDOM, contexts: Sequence[int] = (4, 8), stride: int = 2, seed: int = 0, device: str = "cpu"
) -> Baseline:
    """The error of VideoMAE's reconstruction of all later frames of a window from its first few, as one feature.

    Mean over windows; a layer is a number of context frames. Targets are pixels, normalised by patch if the model was
    trained so. Such masks differ from the tubes that VideoMAE was trained with.

    Args:
        weights, seed, device: see `videomae`; the decoder is needed here.
        contexts: numbers of context frames, multiples of the tubelet.
        stride: frames from one window to the next.

    Raises:
        NotRunError: there are no such weights, or none for the decoder.
        ValueError: a context that does not fit the model (see `windows.check_contexts`).
    """
    from transformers import VideoMAEForPreTraining

    model, source = load(VideoMAEForPreTraining, weights, small_config(), seed, device)
    length = check_contexts(contexts, model.config.num_frames, model.config.tubelet_size)
    prepare = Preparation(None, model.config.image_size, device)
    read = by_window(prepare, lambda video, shown: reconstruction_error(model, video, shown), contexts, length, stride)
    sees = f"windows of {prepare.sees.replace('all', str(length))}"
    layers = tuple(f"{shown} frames given" for shown in contexts)
    return Baseline(titled("VideoMAE", weights), layers, read, source, sees, "tokens", batch_size=8)


@torch.no_grad()
def reconstruction_error(model: Any, video: Float[Tensor, "b f 3 h w"], shown: int) -> Float[Tensor, " b"]:
    """Mean squared error of each clip's frames after the first `shown`, reconstructed from those."""
    target = targets(model.config, video)
    hidden = torch.zeros(target.shape[:2], dtype=torch.bool, device=video.device)
    hidden[:, target.shape[1] * shown // video.shape[1] :] = True
    predicted = model(video, bool_masked_pos=hidden).logits
    return (predicted - target[:, -predicted.shape[1] :]).square().mean((1, 2))


def targets(config: Any, video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b n d"]:
    """Pixels in [0, 1] by patch, in the model's order; normalised by patch and colour if the model was trained so."""
    mean, deviation = (torch.tensor(v).to(video)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    patches = rearrange(
        video * deviation + mean,
        "b (f t) c (h p) (w q) -> b (f h w) (t p q) c",
        t=config.tubelet_size,
        p=config.patch_size,
        q=config.patch_size,
    )
    if config.norm_pix_loss:
        patches = (patches - patches.mean(2, keepdim=True)) / (patches.std(2, keepdim=True) + 1e-6)
    return patches.flatten(2)
