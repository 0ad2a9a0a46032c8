"""How much a head loses when it sees only a band of keys: Sparse VideoGen's question, as two numbers.

Sparse VideoGen (svg-project, 5ce7b01) keeps either a band in the order (frame, row, column), which covers neighbouring
frames ("spatial"), or the same band in the order (row, column, frame), which covers a place in all frames ("temporal"),
and calls a head by the smaller error. Here both errors are relative to the energy of the head's output,
Σ |masked - whole|² / Σ |whole|², over queries drawn from the whole video, both bands keep as many pairs, and text keys
are kept in both: the masks of their CogVideoX, which take text rows out, give NaN.

Example: one query whose output is 1·v_0 + 0 elsewhere loses nothing (0) under a band that holds key 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dit_lens.attention.heads import Heads

SPATIAL, TEMPORAL = "spatial", "temporal"


def band_errors(heads: Heads, width: float, samples: int, seed: int) -> dict[str, Float[Tensor, " h"]]:
    """The relative errors of the spatial and the temporal band.

    Args:
        width: half of a band, in frames: keys fewer than width · (tokens of a frame) away in the band's order.
        samples: how many queries are drawn (all, if there are no more).
        seed: of the draw.
    """
    tokens = heads.grid.tokens
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    chosen = order[:samples].sort().values.to(heads.q.device)
    reach = width * heads.grid.rows * heads.grid.columns
    energy = heads.q.new_zeros(len(heads.q))
    lost = dict.fromkeys(PLACES, energy)
    for rows, pattern in heads.rows(chosen):
        whole = pattern @ heads.v
        energy = energy + whole.square().sum((1, 2))
        for name, place in PLACES.items():
            kept = pattern * _band(heads, rows, place(heads), reach)
            part = kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny) @ heads.v
            lost[name] = lost[name] + (part - whole).square().sum((1, 2))
    return {name: error / energy for name, error in lost.items()}


def _band(heads: Heads, rows: Int[Tensor, " r"], place: Int[Tensor, " n"], reach: float) -> Bool[Tensor, "r m"]:
    """True on the keys of a band, and on text."""
    video = (place[rows][:, None] - place).abs() < reach
    return torch.nn.functional.pad(video, (0, heads.text_keys), value=True)


def _by_frames(heads: Heads) -> Int[Tensor, " n"]:
    return torch.arange(heads.grid.tokens, device=heads.q.device)


def _by_places(heads: Heads) -> Int[Tensor, " n"]:
    """The position of each token in the order row, column, frame."""
    tokens, size = _by_frames(heads), heads.grid.rows * heads.grid.columns
    return tokens % size * heads.grid.frames + tokens // size


PLACES: dict[str, Callable[[Heads], Tensor]] = {SPATIAL: _by_frames, TEMPORAL: _by_places}
