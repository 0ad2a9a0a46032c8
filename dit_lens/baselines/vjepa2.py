"""V-JEPA 2: states of its encoder by layer, and its predictor's error on later frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.baselines.baseline import Baseline, Frames, Pooling
from dit_lens.baselines.preparing import Preparation
from dit_lens.baselines.weights import RANDOM, load, titled
from dit_lens.baselines.windows import by_window, check_contexts


def _load(weights: str, seed: int, device: str) -> tuple[Any, str]:
    from transformers import VJEPA2Model

    return load(VJEPA2Model, weights, small_config(), seed, device)


def small_config() -> Any:
    """The configuration of random weights: four blocks of width 96 at 64 pixels, and a predictor of two."""
    from transformers import VJEPA2Config

    return VJEPA2Config(
        crop_size=64,
        frames_per_clip=16,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        pred_hidden_size=48,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=4,
    )


def vjepa2(
    weights: str = RANDOM, pooling: Pooling = "frames", frames: int = 16, seed: int = 0, device: str = "cpu"
) -> Baseline:
    """Embedding and block outputs of the encoder of V-JEPA 2 (Assran et al. 2025), means over a tubelet's patches.

    Args:
        weights: a folder, a hub id such as "facebook/vjepa2-vitl-fpc64-256", or "random": four blocks of width 96,
            64 pixels.
        pooling: see `Baseline`.
        frames: number of input frames (any even number, as positions are rotary).
        seed: of the random weights.
        device: of the model.

    Raises:
        NotRunError: there are no such weights.
    """
    model, source = _load(weights, seed, device)
    prepare = Preparation(frames, model.config.crop_size, device)
    tubelets = frames // model.config.tubelet_size

    @torch.no_grad()
    def read(clips: Frames) -> np.ndarray:
        outputs = model(prepare(clips), skip_predictor=True, output_hidden_states=True)
        states = torch.stack(outputs.hidden_states, dim=1)
        return reduce(states, "b layer (t n) d -> b layer t d", "mean", t=tubelets).float().cpu().numpy()

    layers = ("embedding", *(f"block {i}" for i in range(model.config.num_hidden_layers)))
    return Baseline(titled("V-JEPA 2", weights), layers, read, source, prepare.sees, pooling, batch_size=8)


def vjepa2_surprise(
    weights: str = RANDOM,
    contexts: Sequence[int] = (4, 8),
    window: int = 16,
    stride: int = 2,
    seed: int = 0,
    device: str = "cpu",
) -> Baseline:
    """The predictor's error on all later frames of a window, given its first few, as one feature (Garrido et al. 2025).

    |predicted - target| by token and dimension, the target being the encoder's normalised output for the whole window;
    mean over windows. A layer is a number of context frames: to report the best layer is to select. transformers has
    one encoder for both context and target.

    Args:
        weights, seed, device: see `vjepa2`.
        contexts: numbers of context frames, multiples of the tubelet.
        window: frames in a window.
        stride: frames from one window to the next.

    Raises:
        NotRunError: there are no such weights.
        ValueError: a context that does not fit the window (see `windows.check_contexts`).
    """
    model, source = _load(weights, seed, device)
    check_contexts(contexts, window, model.config.tubelet_size)
    prepare = Preparation(None, model.config.crop_size, device)
    read = by_window(prepare, lambda video, shown: prediction_error(model, video, shown), contexts, window, stride)
    layers = tuple(f"{shown} frames given" for shown in contexts)
    sees = f"windows of {window} frames, {prepare.size} px"
    return Baseline(titled("V-JEPA 2", weights), layers, read, source, sees, "tokens", batch_size=8)


@torch.no_grad()
def prediction_error(model: Any, video: Float[Tensor, "b f 3 h w"], shown: int) -> Float[Tensor, " b"]:
    """Mean absolute error of the predicted states of each clip's frames after the first `shown`."""
    target = model.encoder(video).last_hidden_state
    target = torch.nn.functional.layer_norm(target, target.shape[-1:])
    predicted = predict(model, video[:, :shown], target.shape[1])
    return (predicted - target[:, -predicted.shape[1] :]).abs().mean((1, 2))


def predict(model: Any, context: Float[Tensor, "b f 3 h w"], tokens: int) -> Float[Tensor, "b m d"]:
    """Predicted states of the tokens that follow `context`, up to `tokens` in all."""
    # The model's own forward encodes the whole clip and masks afterwards: the context then contains the future.
    encoded = model.encoder(context).last_hidden_state
    places = torch.arange(tokens, device=context.device).expand(len(context), -1)
    context_tokens = encoded.shape[1]
    return model.predictor(encoded, [places[:, :context_tokens]], [places[:, context_tokens:]]).last_hidden_state
