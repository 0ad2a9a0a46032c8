"""Weights of encoders in transformers: a folder, a hub id, or a small random initialisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dit_lens.baselines.baseline import NotRunError

RANDOM = "random"


def load(model_class: Any, weights: str, small: Any, seed: int = 0, device: str = "cpu") -> tuple[Any, str]:
    """The model in evaluation mode, and a description of its weights for a table.

    Args:
        model_class: a model class of transformers.
        weights: a folder, a hub id, or "random".
        small: the configuration for random weights.
        seed: of their initialisation.
        device: of the model.

    Raises:
        NotRunError: there are no such weights, or they leave part of the model random.
    """
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model_class(small).eval().to(device), f"random initialisation, seed {seed}"
    if not Path(weights).is_dir() and (weights.count("/") != 1 or weights.startswith((".", "/"))):
        raise NotRunError(f"no weights at {weights} (no such folder, and no hub id owner/name)")
    try:
        model, info = model_class.from_pretrained(weights, use_safetensors=True, output_loading_info=True)
    except OSError as error:
        raise NotRunError(f"no weights at {weights} ({str(error).splitlines()[0]})") from error
    if info["missing_keys"]:
        raise NotRunError(
            f"{weights} has no weights for {len(info['missing_keys'])} parameters of {model_class.__name__},"
            f" such as {min(info['missing_keys'])}"
        )
    return model.eval().to(device), weights


def titled(name: str, weights: str) -> str:
    """The name of an encoder's row: with "random", or the name of its checkpoint."""
    return f"{name}, {weights if weights == RANDOM else Path(weights).name}"
