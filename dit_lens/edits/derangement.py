"""The choice of donors for resampling: clips of another quadruplet and the same physical property."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def donors(groups: Sequence[Hashable], properties: Sequence[Hashable], seed: int) -> Int[Tensor, " b"]:
    """The index of a donor for each clip, from another group with the same property.

    The groups of a property form a random cycle in which each takes from the next, so none from itself; which clip of
    the donor group goes to which clip is random too, whatever their labels. If groups have equal sizes, each clip is a
    donor once: the index is then a permutation without fixed points.

    Example: for the groups q, q, r, r, s, s of one property and the cycle in which q takes from s, s from r and r from
    q, the index may be [5, 4, 0, 1, 3, 2].

    Args:
        groups: a value for each clip that differs from its donor's, such as the quadruplet's id.
        properties: a value for each clip that equals its donor's; any hashable values, such as (property, event).
        seed: the seed of the random choice.

    Raises:
        ValueError: a property with a single group, or different numbers of properties and groups.
    """
    if len(groups) != len(properties):
        raise ValueError(f"got {len(groups)} groups and {len(properties)} properties · expected one of each per clip")
    random = np.random.default_rng(seed)
    index = torch.empty(len(groups), dtype=torch.long)
    for shared in dict.fromkeys(properties):
        members: dict[Hashable, list[int]] = {}
        for clip, group in enumerate(groups):
            if properties[clip] == shared:
                members.setdefault(group, []).append(clip)
        _cycle(members, shared, random, index)
    return index


def _cycle(members: dict[Hashable, list[int]], shared: Hashable, random: np.random.Generator, index: Tensor) -> None:
    """Writes the donors of one property's clips into `index`: each group takes from the next in a random cycle."""
    if len(members) == 1:
        raise ValueError(
            f"got the single group {next(iter(members))!r} of {shared!r} · expected two or more of each property: none"
            " may take from itself · take more quadruplets, or leave this property out"
        )
    order = random.permutation(len(members))
    clips = [list(members.values())[i] for i in order]
    for takers, givers in zip(clips, [*clips[1:], clips[0]], strict=True):
        shuffled = random.permutation(givers)
        index[takers] = torch.as_tensor(np.resize(shuffled, len(takers)))
