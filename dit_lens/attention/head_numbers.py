"""The numbers of a head: how spread its attention is, how far it reaches, and what it prefers.

===================== ================================================================================================
number                mean over queries (of video tokens, unless the queries are others)
===================== ================================================================================================
`entropy`             entropy of a row over log n, n the keys that it may attend to: 1 is even, 0 a single key
`stripe`              ½ Σ_j |c_j - 1/n| with c_j the mean over queries of A_ij: 0 if all keys get as much, 1 if one all
`dt_0`, `dt_1`, ...   mass on keys |Δt| frames away; each group goes up to the next (0, 1, 2 to 3, 4 to 7, ...)
`distance_t, _y, _x`  mean |Δ| in tokens along an axis, of the mass on video keys
`same_place_0, _1`    mass on the query's own place in other frames; with its 8 neighbours
`first_frame`         mass on the first frame, of queries in later ones
`sink`                that less the mean mass on a frame that is neither the first nor the query's own
`text`                mass on text keys, in joint attention; of text queries, the rest to 1 is on video
`diagonal`            mass within radius 1 in the query's own frame, beyond that of even attention: (m - s) / (1 - s)
`multi_diagonal`      mass within radius 1 in other frames, beyond even attention likewise
`band_spatial`        share of the output's energy that is lost if only neighbouring frames are seen (see `bands`)
`band_temporal`       that is lost if only the place and few places beside it are seen, in all frames
`band_ratio`          `band_spatial` / `band_temporal`: above 1 the temporal band serves better
===================== ================================================================================================

Value-weighted numbers are those of the pattern A'_ij = A_ij |v_j W_O| / Σ_j A_ij |v_j W_O|, the share of a key in the
lengths of what is added to the stream: mass on keys whose values are near zero, such as a sink's, does not count there.
The gate of a write multiplies all keys of a row alike and cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.attention.bands import SPATIAL, TEMPORAL, band_errors
from dit_lens.attention.heads import MASKED, VIDEO, Heads
from dit_lens.attention.masses import (
    AxisMasses,
    Near,
    axis_columns,
    axis_places,
    mean,
    near_masses,
    other_frames,
    own_frame,
)

ByNumber = dict[str, Float[Tensor, " h"]]


@dataclass(frozen=True)
class Numbers:
    """Which numbers are computed, and how.

    Attributes:
        weighted: whether value-weighted numbers are too; they cost half as much again.
        band: half the width of the two bands, in frames (Sparse VideoGen: 1.5; 2 for Wan).
        samples: queries that band errors are measured on; 0 leaves them out.
        seed: of these queries.
    """

    weighted: bool = True
    band: float = 1.5
    samples: int = 64
    seed: int = 0


def numbers(heads: Heads, asked: Numbers) -> tuple[ByNumber, ByNumber]:
    """The numbers of some heads, and the value-weighted ones; without video on both sides, only what needs none."""
    video = heads.queries == VIDEO and heads.keys.startswith(VIDEO)
    axes = axis_columns(heads)[None, :, slice(None) if video else slice(-1, None)]
    columns, weighted = [heads.k, axes], video and asked.weighted and heads.projection is not None
    if weighted:
        norms = heads.value_norms[..., None]
        columns += [axes * norms, norms]
    sizes = [part.shape[-1] for part in columns]
    mixed, total = heads.mixed(torch.cat([part.expand(len(heads.k), -1, -1) for part in columns], -1))
    heads.__dict__["logsumexp"] = total  # what the cached property would compute again
    keys, masses, *lengths = mixed.split(sizes, -1)
    plain = {"entropy": _entropy(heads, keys), "stripe": stripe(heads)}
    if not video:
        return plain | ({"text": mean(masses[..., 0], heads)} if heads.video_keys and heads.text_keys else {}), {}
    near, *near_weighted = near_masses(heads, *([heads.value_norms] if weighted else []))
    plain |= _of_video(heads, masses, near)
    if asked.samples:
        plain |= _bands(heads, asked)
    if not weighted:
        return plain, {}
    whole = lengths[1].clamp_min(torch.finfo(masses.dtype).tiny)
    same, around = near_weighted[0]
    return plain, _of_video(heads, lengths[0] / whole, (same / whole, around / whole))


def _of_video(heads: Heads, masses: Float[Tensor, "h n c"], near: Near) -> ByNumber:
    """The numbers that are masses, or distances of them."""
    by_axis, (same, around) = AxisMasses.of(masses, heads), near
    first, sink = by_axis.first_frame()
    text = by_axis.text if heads.text_keys else torch.full_like(by_axis.text, torch.nan)
    within, others = _even_shares(heads)
    return {
        **{f"dt_{low}": mass for low, mass in by_axis.by_frames_apart().items()},
        "distance_t": by_axis.distance("frame"),
        "distance_y": by_axis.distance("row"),
        "distance_x": by_axis.distance("column"),
        "same_place_0": other_frames(same, heads),
        "same_place_1": other_frames(around, heads),
        "first_frame": first,
        "sink": sink,
        "text": text,
        "diagonal": _beyond(own_frame(around, heads), within),
        "multi_diagonal": _beyond(other_frames(around, heads), others),
    }


def _beyond(mass: Float[Tensor, " h"], share: float) -> Float[Tensor, " h"]:
    """A mass beyond its share of even attention: 0 is even, 1 all; NaN where the share is all."""
    return (mass - share) / (1 - share if share < 1 else torch.nan)


def _even_shares(heads: Heads) -> tuple[float, float]:
    """The mean mass within radius 1 in the own frame, and in all others, if all keys got as much."""
    grid = heads.grid
    _, row, column = axis_places(grid)

    def across(place: Tensor, size: int) -> Tensor:
        return 1 + (place > 0).double() + (place < size - 1).double()

    near = float((across(row, grid.rows) * across(column, grid.columns)).mean()) / heads.k.shape[1]
    return near, near * (grid.frames - 1)


def _entropy(heads: Heads, mean_key: Float[Tensor, "h n e"]) -> Float[Tensor, " h"]:
    """Mean entropy over log n: L_i - q_i·E_i[k]/√e - E_i[mask], see `heads`; a row with one key has entropy 0."""
    expected = torch.linalg.vecdot(heads.q, mean_key) * heads.scale
    entropy = heads.logsumexp - expected - _expected_bias(heads)
    return mean(entropy / _log_keys(heads), heads)


def _log_keys(heads: Heads) -> Tensor:
    """Logarithm of the number of keys that each query may attend to, at least two."""
    bias = heads.bias
    if bias is None or bias.shape[-1] == 1:
        return heads.q.new_tensor(max(2.0, heads.k.shape[1])).log()
    return (bias > MASKED).sum(-1).clamp_min(2).to(heads.q).log()


def _expected_bias(heads: Heads) -> Tensor:
    """E_i of the additive mask where it is finite."""
    bias = heads.bias
    if bias is None or not (finite := bias.masked_fill(bias.isneginf(), 0)).any():
        return heads.q.new_zeros(())
    if bias.shape[1] == 1:
        return heads.mixed(finite.expand(-1, -1, heads.k.shape[1]).mT)[0][..., 0]
    tokens = torch.arange(heads.q.shape[1], device=heads.q.device)
    return torch.cat([(pattern * finite[:, rows]).sum(-1) for rows, pattern in heads.rows(tokens)], -1)


def stripe(heads: Heads) -> Float[Tensor, " h"]:
    """½ Σ_j |c_j - 1/n|, the part of a head's attention that all queries share in uneven amounts."""
    return 0.5 * (key_masses(heads) - 1 / heads.k.shape[1]).abs().sum(-1)


def key_masses(heads: Heads) -> Float[Tensor, "h m"]:
    """c_j = mean over queries of A_ij.

    As A_ij = exp(s_ij - L_i), the sum over i is the exponential of a logsumexp again: that of attention from keys to
    queries with -L_i as additive mask (and -inf for queries that attend to nothing).
    """
    bias, total = heads.bias, heads.logsumexp.masked_fill(~heads.valid, torch.inf)
    queries = heads.valid.sum(-1)
    if bias is not None and bias.shape[1] > 1:  # a mask of pairs: summed in blocks of rows
        tokens = torch.arange(heads.q.shape[1], device=heads.q.device)
        return sum(pattern.sum(1) for _, pattern in heads.rows(tokens)) / queries[:, None]
    turned = Heads(heads.k, heads.q, heads.q, -total[:, None], heads.grid)
    logs = turned.logsumexp if bias is None else turned.logsumexp + bias[:, 0]
    return logs.exp() / queries[:, None]


def _bands(heads: Heads, asked: Numbers) -> ByNumber:
    errors = band_errors(heads, asked.band, asked.samples, asked.seed)
    named: ByNumber = {f"band_{name}": error for name, error in errors.items()}
    return named | {"band_ratio": errors[SPATIAL] / errors[TEMPORAL]}
