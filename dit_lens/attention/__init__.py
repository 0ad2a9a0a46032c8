"""Attention: what heads look at, at the size of real models, without the matrix of weights.

At Wan 1.3B, 81 frames and 480p, one head's pattern is 2.15 GB in bfloat16, and one evaluation has 360 of them. Here
masses, distances and entropies come from the fused attention function itself, with the values replaced by columns that
mark groups of keys (see `heads` for the derivations); rows of the pattern are computed for few queries only.

    table = dl.attention.atlas(lens, traj, at=dl.At(20))             # numbers of every head, in one forward
    table.plain.sel(number="same_place_1").mean(("step", "clip"))    # (block, head)
    dl.attention.maps(lens, traj, dl.attention.frames(), at=20)      # (step, clip, block, head, frame, key_frame)
    ball = dl.attention.from_tokens((0, slice(3, 5), slice(2, 4)))   # where these tokens look
    dl.attention.maps(lens, traj, ball, at=20, blocks=[12], heads=[3])
    words = dl.attention.words(dl.attention.words_of(lens, "a red ball"))
    dl.attention.maps(lens, traj, words, at=20, layer="cross_attn")  # (..., word, frame, row, column)

`temperature`, `even`, `cut` and `rotary` edit attention without the matrix, as hooks or interventions.

It works on self-, cross- and joint attention of every family, with its masks and padded rows as they are. Attention
over other keys with a softmax of its own (image tokens in Wan) is a layer of its own: layer="cross_attn.img". Hooks
that are active act, except on the pattern itself, which is not computed.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr

from dit_lens.attention.changes import cut, even, temperature
from dit_lens.attention.head_numbers import ByNumber, Numbers, numbers
from dit_lens.attention.heads import Heads
from dit_lens.attention.looking import Where, dataset
from dit_lens.attention.map_kinds import Map, frames, from_tokens, regions, to_tokens, top_keys, words
from dit_lens.attention.objects import Objects, object_numbers
from dit_lens.attention.positions import rotary
from dit_lens.attention.vocabulary import words_of
from dit_lens.lens import At, DiTLens
from dit_lens.lens.requests import place_of
from dit_lens.reductions import Named
from dit_lens.running import Evaluation
from dit_lens.trajectory import Trajectory

__all__ = ["Map", "Numbers", "Objects", "Where", "atlas", "cut", "even", "frames", "from_tokens", "maps", "regions",
           "rotary", "temperature", "to_tokens", "top_keys", "words", "words_of"]  # fmt: skip
BY_TIME = "object", "object_even"


def maps(
    lens: DiTLens,
    path: Trajectory | Evaluation | None,
    look: Map,
    *,
    at: At | int | None = None,
    where: Where | None = None,
    **options: Any,
) -> xr.Dataset:
    """Maps of attention, from one evaluation for each step; the rest of the model after the last block is not run.

    Args:
        path: as for `lens.run_with_cache`: a trajectory, an evaluation, or None with `latent=` and `timestep=`.
        look: a map, such as `frames()`.
        at: the place on the trajectory, likewise.
        where: the layer, blocks and heads. Or these as keywords: `layer=` ("attn"), `blocks=`, `heads=`.
        **options: the keywords above, and places and inputs as for `run_with_cache`.

    Returns:
        The map's variables with dimensions (step, clip, block, head, ...), and coordinates.

    Raises:
        KeyError: the model has no such attention. ValueError: the map needs other tokens than the layer has; or
            attention that is not softmax(q k) v, or whose pattern is hooked.
    """
    chosen, place = _where(where, options), place_of(at, None, options)
    return dataset(lens, path, place, options, chosen, look)


def atlas(
    lens: DiTLens,
    path: Trajectory | Evaluation | None = None,
    *,
    at: At | int | None = None,
    where: Where | None = None,
    numbers: Numbers | None = None,
    objects: Objects | None = None,
    **options: Any,
) -> xr.Dataset:
    """The numbers of every head, from one evaluation for each step (see `attention.head_numbers` for their meaning).

    Args:
        path, at, where, **options: as for `maps`.
        numbers: which, and how.
        objects: where an object is in each clip, for what its tokens look at.

    Returns:
        `plain` and `value_weighted` (step, clip, block, head, number), NaN for numbers that have no weighted one;
        with objects also `object` and `object_even` (..., head, later), `later` being signed Δt in latent frames, and
        with tracks `motion_error` and `motion_error_still` (..., head), in tokens.

    Raises:
        As `maps`.
    """
    asked = numbers or Numbers()
    chosen, place = _where(where, options), place_of(at, None, options)
    return dataset(lens, path, place, options, chosen, lambda heads: _row(heads, asked, objects))


def _where(where: Where | None, options: dict[str, Any]) -> Where:
    single = {name: options.pop(name) for name in ("layer", "blocks", "heads") if name in options}
    if where is not None and single:
        raise TypeError(f"got where= beside {', '.join(single)}= · expected one or the other")
    return where or Where(**single)


def _row(heads: Heads, asked: Numbers, objects: Objects | None) -> dict[str, Named]:
    """All that an atlas holds of some heads of one clip."""
    plain, weighted = numbers(heads, asked)
    nothing = torch.full_like(plain["entropy"], torch.nan)
    aligned: ByNumber = {name: weighted.get(name, nothing) for name in plain}
    labels = {"number": tuple(plain)}
    axes = ("head", "number")
    row = {
        "plain": Named(torch.stack([*plain.values()], -1), axes, labels),
        "value_weighted": Named(torch.stack([*aligned.values()], -1), axes, labels),
    }
    if objects is None:
        return row
    reach = heads.grid.frames - 1
    later = {"later": tuple(range(-reach, reach + 1))}
    for name, value in object_numbers(heads, *objects.of(heads.clip, heads)).items():
        by_time = name in BY_TIME
        row[name] = Named(value, ("head", "later") if by_time else ("head",), later if by_time else {})
    return row
