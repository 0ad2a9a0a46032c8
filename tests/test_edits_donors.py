"""Nobody takes from his own quadruplet, everybody from a clip of his property, and every clip gives."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.edits import donors
from dit_lens.toy.miniphys import MiniPhys

SETTINGS = settings(max_examples=60, derandomize=True, deadline=None, database=None)


@st.composite
def clips(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Groups and properties of clips in any order: two or more groups of each property, of any size."""
    labels = []
    for prop in range(draw(st.integers(1, 3))):
        for group in range(draw(st.integers(2, 4))):
            labels += [(f"{prop}/{group}", f"law {prop}")] * draw(st.integers(1, 4))
    order = draw(st.permutations(labels))
    return [group for group, _ in order], [prop for _, prop in order]


@SETTINGS
@given(clips(), st.integers(0, 2**32))
def test_donors_are_of_another_group_and_of_the_same_property(labels: tuple[list[str], list[str]], seed: int) -> None:
    groups, properties = labels
    index = donors(groups, properties, seed).tolist()
    assert len(index) == len(groups)
    assert all(groups[taker] != groups[giver] for taker, giver in enumerate(index))
    assert all(properties[taker] == properties[giver] for taker, giver in enumerate(index))


@SETTINGS
@given(clips(), st.integers(0, 2**32))
def test_groups_take_from_one_group_each_and_give_to_one(labels: tuple[list[str], list[str]], seed: int) -> None:
    groups, properties = labels
    index = donors(groups, properties, seed).tolist()
    pairs = {(groups[taker], groups[giver]) for taker, giver in enumerate(index)}
    assert Counter(taker for taker, _ in pairs) == Counter(giver for _, giver in pairs) == Counter(set(groups))


def test_quadruplets_give_every_clip_once_and_a_role_meets_every_role() -> None:
    quadruplets = MiniPhys("test", quadruplets=22)[:]
    labels = [(clip.group, clip.property) for quadruplet in quadruplets for clip in quadruplet.clips]
    groups, properties = zip(*labels, strict=True)
    met = set()
    for seed in range(20):
        index = donors(groups, properties, seed)
        assert sorted(index.tolist()) == list(range(len(groups)))
        met |= {(taker % 4, int(giver) % 4) for taker, giver in enumerate(index)}
    assert met == {(taker, giver) for taker in range(4) for giver in range(4)}


def test_the_choice_repeats_for_a_seed_and_differs_for_another() -> None:
    groups = [str(i // 4) for i in range(40)]
    assert torch.equal(donors(groups, ["x"] * 40, 1), donors(groups, ["x"] * 40, 1))
    assert not torch.equal(donors(groups, ["x"] * 40, 1), donors(groups, ["x"] * 40, 2))


def test_every_other_group_can_be_the_one_that_gives() -> None:
    given_by = {int(donors("abcd", "xxxx", seed)[0]) for seed in range(40)}
    assert given_by == {1, 2, 3}


def test_a_property_with_one_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got the single group 'b' of 'y' · expected two or more"):
        donors(["a", "a2", "b", "b"], ["x", "x", "y", "y"], 0)


def test_properties_for_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 groups and 1 properties"):
        donors(["a", "b"], ["x"], 0)
