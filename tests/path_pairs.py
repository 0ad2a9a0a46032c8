"""Pairs of runs whose paths are looked at, and a model in which one circuit is planted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation
from dit_lens.toy.mini_wan import assemble, empty_prompt, new_transformer

STEP = 3
END = "blocks.3.hook_resid_post"


def pair(lens: DiTLens, clips: int = 2) -> tuple[dict[int, Evaluation], dict[int, Evaluation]]:
    """A clean and a corrupted run of random latents on the mini-wan architecture."""
    latents = torch.randn(2, clips, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    clean, corrupted = (lens.model.evaluation(latent, 600.0, lens.conditioning) for latent in latents)
    return {STEP: clean}, {STEP: corrupted}


def along(direction: Tensor, point: str = END) -> Readout:
    return Readout(lambda velocity, cache: (cache[point] @ direction).mean(1), (point,))


def micro_pair(lens: DiTLens) -> tuple[dict[int, Evaluation], dict[int, Evaluation]]:
    latents = torch.randn(2, 3, 3, 2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latents[:, :, 2] = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]  # the marker
    clean, corrupted = (lens.model.evaluation(latent, 0.5, Conditioning({})) for latent in latents)
    return {0: clean}, {0: corrupted}


def planted(codec: Any) -> tuple[DiTLens, Readout]:
    """Head 2 of block 1 writes along u; head 0 of block 3 takes u in as values and writes along w, which is read."""
    transformer: Any = new_transformer(1)
    generator = torch.Generator().manual_seed(0)
    u, w = torch.randn(2, 128, generator=generator) / 8
    u[64:], w[:64] = 0, 0  # orthogonal still when the gate has scaled each feature
    with torch.no_grad():
        for block in transformer.blocks:
            for silent in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                silent.weight.zero_()
        listening = transformer.blocks[3].attn1
        for deaf in (listening.to_q, listening.to_k):
            deaf.weight.zero_()
        listening.to_v.weight.copy_(torch.outer(torch.randn(128, generator=generator), u))
        transformer.blocks[1].attn1.to_out[0].weight[:, 64:96] = (
            torch.outer(u, torch.randn(32, generator=generator)) * 10
        )
        listening.to_out[0].weight[:, :32] = torch.outer(w, torch.randn(32, generator=generator))
    conditioning = Conditioning({"encoder_hidden_states": empty_prompt()})
    return DiTLens(assemble(transformer, codec), "planted", conditioning), along(w)
