"""Small random transformers of the real diffusers classes, one line per family: what the conformance tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import nn


def wan() -> nn.Module:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip


SMALL: dict[str, Callable[[], nn.Module]] = {
    "wan": wan,
}


def build(name: str, seed: int = 0) -> Any:
    """The small transformer of a family; layers that a fresh model leaves at zero are filled: nothing is idle."""
    torch.manual_seed(seed)
    transformer = SMALL[name]().eval().requires_grad_(False)
    for parameter in transformer.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return transformer
