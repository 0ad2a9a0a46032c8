"""What an object's tokens look at: the object itself in other frames, and where that would put it.

These rows are few, so they are computed as rows.

- `object` by signed Δt: of the mass that the object's tokens place on the frame Δt later, the share that lies on the
  object's tokens there; `object_even` is the share of these tokens in the frame, what even attention gives.
- `motion_error`: the mean distance, in tokens, between the expected displacement to the next frame,
  Σ_j A_ij (p_j - p_i) / Σ_j A_ij over keys j of that frame (the attention motion flow of DiTFlow, arXiv 2412.07776, at
  temperature 1 and by head), and the tracker's; `motion_error_still` is that of no displacement at all.

Example: an object at column 2 that the tracker has at column 3 in the next frame. A query there with mass 0.1 on column
2 and 0.3 on column 3 of that frame expects (0.1·0 + 0.3·1) / 0.4 = 0.75: an error of 0.25, against 1 for no motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dit_lens.attention.heads import VIDEO, Heads
from dit_lens.attention.masses import axis_places


@dataclass(frozen=True, eq=False)
class Objects:
    """Where an object is in each clip.

    Attributes:
        tokens: (b, n) or (n,), True on the object's tokens, of any source: a tracker, a mask, `grid.mask(...)`.
        tracks: (b, f, 2) or (f, 2), row and column of its centre in tokens, by latent frame; NaN where it is not known.

    Raises:
        TypeError: tokens that are no truth values. ValueError: other axes.
    """

    tokens: Bool[Tensor, "*b n"]
    tracks: Float[Tensor, "*b f 2"] | None = None

    def __post_init__(self) -> None:
        tokens: Any = torch.as_tensor(self.tokens)
        tracks = None if self.tracks is None else torch.as_tensor(self.tracks)
        if tokens.dtype != torch.bool or tokens.ndim not in (1, 2):
            raise TypeError(f"got an object of {tokens.dtype} {tuple(tokens.shape)} · expected truth values (b, n)")
        if tracks is not None and (tracks.shape[-1] != 2 or tracks.ndim != tokens.ndim + 1):
            raise ValueError(
                f"got tracks of shape {tuple(tracks.shape)} · expected (b, f, 2), or (f, 2) beside tokens (n,)"
            )
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "tracks", tracks)

    def of(self, clip: int, heads: Heads) -> tuple[Tensor, Tensor | None]:
        """Tokens (n,) and track (f, 2) of one clip.

        Raises:
            ValueError: other numbers of tokens, frames or clips than in the model; or attention that is not of video.
        """
        if heads.queries != VIDEO or not heads.keys.startswith(VIDEO):
            raise ValueError(
                f"got objects for attention from {heads.queries} to {heads.keys} · expected queries and keys of video"
            )
        single = self.tokens.ndim == 1
        if not single and clip >= len(self.tokens):
            raise ValueError(f"got objects of {len(self.tokens)} clips for clip {clip} · expected those of each")
        tokens = self.tokens if single else self.tokens[clip]
        tracks = self.tracks if self.tracks is None or single else self.tracks[clip]
        frames = heads.grid.frames
        if len(tokens) != heads.grid.tokens or (tracks is not None and len(tracks) != frames):
            raise ValueError(
                f"got an object over {len(tokens)} tokens and {frames if tracks is None else len(tracks)} frames"
                f" · expected {heads.grid.tokens} tokens and {frames} frames"
            )
        return tokens.to(heads.q.device), None if tracks is None else tracks.to(heads.q)


def object_numbers(heads: Heads, tokens: Bool[Tensor, " n"], track: Tensor | None) -> dict[str, Tensor]:
    """`object` and `object_even` (h, 2F - 1) by signed Δt from -(F - 1) on, and motion errors (h,)."""
    grid = heads.grid
    frame, row, column = (x.to(tokens.device) for x in axis_places(grid))
    share, attending, even = heads.q.new_zeros(3, len(heads.q), 2 * grid.frames - 1)
    fraction = tokens.view(grid.frames, -1).to(heads.q).mean(1)
    errors, still = [heads.q.new_zeros(len(heads.q), 0)], [heads.q.new_zeros(0)]
    for rows, pattern in heads.rows(tokens.nonzero().flatten()):
        video = pattern[..., : grid.tokens].unflatten(-1, (grid.frames, -1))
        on_frame, on_object = video.sum(-1), (video * tokens.view(grid.frames, -1)).sum(-1)
        index = torch.arange(grid.frames, device=rows.device) - frame[rows][:, None] + grid.frames - 1
        attended = on_frame > 0  # a causal mask hides whole frames
        shares = torch.where(attended, on_object / on_frame, 0), attended.to(share), attended * fraction
        share, attending, even = (
            total.index_add(1, index.flatten(), part.flatten(1))
            for total, part in zip((share, attending, even), shares, strict=True)
        )
        if track is not None:
            places = torch.stack([row, column], -1).view(grid.frames, -1, 2).to(video)
            error, unmoved = _motion_errors(video, on_frame, frame[rows], places, track, rows)
            errors.append(error)
            still.append(unmoved)
    numbers = {"object": share / attending, "object_even": even / attending}
    if track is None:
        return numbers
    return numbers | {
        "motion_error": torch.cat(errors, -1).mean(-1),
        "motion_error_still": torch.cat(still).mean().expand(len(heads.q)),
    }


def _motion_errors(
    video: Float[Tensor, "h r f p"],
    on_frame: Float[Tensor, "h r f"],
    frame: Tensor,
    places: Float[Tensor, "f p 2"],
    track: Float[Tensor, "f 2"],
    rows: Tensor,
) -> tuple[Float[Tensor, "h s"], Float[Tensor, " s"]]:
    """Errors of the expected displacement to the next frame, and of none, for queries whose object is tracked there."""
    following = (frame + 1).clamp(max=len(track) - 1)
    moved = track[following] - track[frame]
    known = (
        (frame + 1 < len(track))
        & moved.isfinite().all(-1)
        & (on_frame.gather(2, _at(following, video)) > 0).all(0).squeeze(-1)
    )
    pick = _at(following, video)[..., None].expand(-1, -1, -1, video.shape[-1])
    mass = video.gather(2, pick).squeeze(2)
    expected = (mass @ places[0]) / mass.sum(-1, keepdim=True) - places.flatten(0, 1)[rows]
    return (expected - moved).norm(dim=-1)[:, known], moved.norm(dim=-1)[known]


def _at(frame: Tensor, video: Tensor) -> Tensor:
    """An index (h, r, 1) of a frame for each query."""
    return frame.view(1, -1, 1).expand(len(video), -1, -1)
