"""Who takes from whom in resampling: never from one's own quadruplet, always from a clip of the same property."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def donors(groups: Sequence[Hashable], properties: Sequence[Hashable], seed: int) -> Int[Tensor, " b"]:
    """For each clip the clip that gives to it: of another group, of the same property.

    Among the groups of a property each gives to one and takes from another (a random cycle, so none from itself); which
    of the giver's clips goes to which of the taker's is random too, whatever their labels. Groups of equal size give
    each clip once: the index is then a permutation without fixed points.

    Args:
        groups: what no clip may share with its donor, such as the quadruplet's id, one for each clip.
        properties: what every clip shares with its donor; any values that compare, such as (property, event).
        seed: of the random choice.

    Raises:
        ValueError: a property with a single group, or not as many properties as groups.
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
    """Writes the donors of one property's clips: each group takes from the next in a random cycle."""
    if len(members) == 1:
        raise ValueError(
            f"got the single group {next(iter(members))!r} of {shared!r} · expected two or more of each property: none"
            " may take from itself · take more quadruplets, or leave this property out"
        )
    order = random.permutation(len(members))
    clips = [list(members.values())[i] for i in order]
    for takers, givers in zip(clips, [*clips[1:], clips[0]], strict=True):
        given = random.permutation(givers)
        index[takers] = torch.as_tensor(np.resize(given, len(takers)))
