"""Attention mass on groups of keys: frames, rows, columns and text, and places near the query's own in every frame.

All are exact and need no pattern; see `heads` for how.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from dit_lens.attention.heads import Heads
from dit_lens.axes import TokenGrid


def indicators(groups: Tensor, count: int) -> Float[Tensor, "m g"]:
    """Columns of 0 and 1, one for each group, from the group (from 0) of every key; -1 is in none."""
    return one_hot(groups + 1, count + 1)[:, 1:].float()


def axis_places(grid: TokenGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of every video token, (n,) each."""
    sizes = (grid.frames, grid.rows, grid.columns)
    frame, row, column = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return frame.flatten(), row.flatten(), column.flatten()


def axis_columns(heads: Heads) -> Float[Tensor, "m c"]:
    """Indicators of the frame, row and column of video keys, and of text keys: F + H + W + 1 columns."""
    grid = heads.grid
    sizes = (grid.frames, grid.rows, grid.columns)
    parts = [indicators(places, size) for places, size in zip(axis_places(grid), sizes, strict=True)]
    video = pad(torch.cat(parts, 1)[: heads.video_keys], (0, 1, 0, heads.text_keys))
    video[heads.video_keys :, -1] = 1
    return video.to(heads.k)


@dataclass(frozen=True, eq=False)
class AxisMasses:
    """Mean mass from video queries at one index of an axis to video keys at another, and to text.

    Attributes:
        frame, row, column: (h, index of the query, index of the key); sums over keys are 1 less the mass on text.
        text: (h,).
    """

    frame: Float[Tensor, "h f f2"]
    row: Float[Tensor, "h y y2"]
    column: Float[Tensor, "h x x2"]
    text: Float[Tensor, " h"]

    @classmethod
    def of(cls, by_query: Float[Tensor, "h n c"], heads: Heads) -> AxisMasses:
        """From the masses of each video query, in the order of `axis_columns`."""
        grid, valid = heads.grid, heads.valid.to(by_query)
        sizes, parts = (grid.frames, grid.rows, grid.columns), []
        for places, masses in zip(axis_places(grid), by_query.split([*sizes, 1], -1)[:3], strict=True):
            queries = indicators(places, masses.shape[-1]).to(by_query)
            weights = queries * valid[..., None]  # (h or 1, n, index)
            parts.append(weights.mT @ masses / weights.sum(1)[..., None])
        frame, row, column = parts
        return cls(frame, row, column, mean(by_query[..., -1], heads))

    def distance(self, axis: str) -> Float[Tensor, " h"]:
        """Mean |Δ| in tokens along an axis, of the mass on video keys: Σ A |Δ| / Σ A."""
        masses: Tensor = getattr(self, axis)
        index = torch.arange(masses.shape[-1], device=masses.device)
        apart = (index[:, None] - index).abs().to(masses)
        return (masses * apart).sum((1, 2)) / masses.sum((1, 2))

    def by_frames_apart(self) -> dict[int, Float[Tensor, " h"]]:
        """Mass on keys |Δt| frames away, in groups from 0, 1, 2, 4, 8, ... to before the next: their sum is all video.

        With five frames the groups are 0, 1, 2 to 3, and 4.
        """
        frames = self.frame.shape[-1]
        index = torch.arange(frames, device=self.frame.device)
        apart, edges = (index[:, None] - index).abs(), [0, *(2**i for i in range(frames.bit_length()))]
        return {
            low: (self.frame * ((apart >= low) & (apart < high))).sum(-1).mean(1)
            for low, high in pairwise(edges)
            if low < frames
        }

    def first_frame(self) -> tuple[Float[Tensor, " h"], Float[Tensor, " h"]]:
        """Mass on the first frame, of queries in later ones, and its excess over their mean other frame (the sink).

        The other frames are neither the first nor the query's own; NaN with fewer than three frames.
        """
        later = self.frame[:, 1:]
        frames = later.shape[1]
        within = later[:, :, 1:].diagonal(dim1=1, dim2=2).mean(1)
        first, all_later = later[:, :, 0].mean(1), later[:, :, 1:].sum(-1).mean(1)
        others = (all_later - within) / (frames - 1) if frames > 1 else torch.full_like(first, torch.nan)
        return first, first - others


def mean(by_query: Float[Tensor, "h n"], heads: Heads) -> Float[Tensor, " h"]:
    """Mean over queries that attend to anything."""
    valid = heads.valid.to(by_query)
    return (by_query * valid).sum(-1) / valid.sum(-1)


Near = tuple[Float[Tensor, "h n f"], Float[Tensor, "h n f"]]


def near_masses(heads: Heads, *factors: Float[Tensor, "h m"]) -> list[Near]:
    """Mass of each video query on the query's place in every frame, and on it with its 8 neighbours.

    Only these n · F · 9 logits are computed; A_ij = exp(s_ij - L_i) with the row's logsumexp L_i.

    Args:
        factors: of each key's mass, for more such pairs: one for each factor, after that of the plain mass.
    """
    grid, total, device = heads.grid, heads.logsumexp, heads.q.device
    _, row, column = (x.to(device) for x in axis_places(grid))
    tokens, size = torch.arange(grid.tokens, device=device), grid.rows * grid.columns
    shape = (1 + len(factors), len(heads.q), grid.tokens, grid.frames)
    same, near = heads.q.new_zeros(2, *shape)
    for down, right in product((-1, 0, 1), repeat=2):
        y, x = row + down, column + right
        inside = (y >= 0) & (y < grid.rows) & (x >= 0) & (x < grid.columns)
        place = y.clamp(0, grid.rows - 1) * grid.columns + x.clamp(0, grid.columns - 1)
        for frame in range(grid.frames):
            keys = frame * size + place
            mass = (heads.logits(tokens, keys) - total).exp() * inside
            for i, part in enumerate((mass, *(mass * factor[:, keys] for factor in factors))):
                near[i, ..., frame] += part
                if down == right == 0:
                    same[i, ..., frame] = part
    return list(zip(same, near, strict=True))


def other_frames(by_query: Float[Tensor, "h n f"], heads: Heads) -> Float[Tensor, " h"]:
    """Mean mass on frames that are not the query's own."""
    return mean(by_query.sum(-1), heads) - own_frame(by_query, heads)


def own_frame(by_query: Float[Tensor, "h n f"], heads: Heads) -> Float[Tensor, " h"]:
    """Mean mass on the query's own frame."""
    frame = axis_places(heads.grid)[0].to(by_query.device)
    within = by_query.gather(-1, frame.expand(len(by_query), -1)[..., None])
    return mean(within[..., 0], heads)
