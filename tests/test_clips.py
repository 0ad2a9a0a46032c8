"""The clip contract: crossings, pairs and spliced tracks, on handmade clips."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.clips import ROLES, Clip, Group, Quadruplet, Track


def film(level: int) -> np.ndarray:
    return np.full((6, 2, 2, 3), level, dtype=np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]


def quadruplet(a: np.ndarray, b: np.ndarray, splice: int) -> Quadruplet:
    crossed = np.concatenate([a[:splice], b[splice:]]), np.concatenate([b[:splice], a[splice:]])
    clips = [
        Clip(f"handmade/0/{role}", frames, role in "AB", "handmade/0", role, "shape")
        for role, frames in zip(ROLES, (a, b, *crossed), strict=True)
    ]
    return Quadruplet(*clips, splice=splice, property="shape", event="changes shape")


def track(value: float, shape: str, colour: str) -> Track:
    flag = np.full(6, value > 0)
    names = np.full(6, shape), np.full(6, colour)
    return Track(np.full((6, 2), value), np.full((6, 2), 10 * value), flag, ~flag, np.full(6, 3 * value), *names)


def test_the_clips_come_in_the_order_of_their_roles() -> None:
    item = quadruplet(film(0), film(100), splice=3)
    assert [clip.role for clip in item.clips] == list(ROLES)
    assert item.id == "handmade/0"


def test_pairs_that_share_the_first_half_differ_from_the_splice_on() -> None:
    pairs = quadruplet(film(0), film(100), splice=2).pairs(shares="first")
    assert [(p.possible.role, p.impossible.role) for p in pairs] == [("A", "C"), ("B", "D")]
    assert [(p.first_difference, p.last_difference) for p in pairs] == [(2, 5), (2, 5)]
    assert {p.shares for p in pairs} == {"first"}


def test_pairs_that_share_the_second_half_differ_before_the_splice() -> None:
    pairs = quadruplet(film(0), film(100), splice=2).pairs(shares="second")
    assert [(p.possible.role, p.impossible.role) for p in pairs] == [("A", "D"), ("B", "C")]
    assert [(p.first_difference, p.last_difference) for p in pairs] == [(0, 1), (0, 1)]


def test_differences_are_of_the_frames_and_not_of_the_splice() -> None:
    b = film(0)
    b[3, 1, 0, 2] += 1
    (pair, _) = quadruplet(film(0), b, splice=2).pairs(shares="first")
    assert (pair.first_difference, pair.last_difference) == (3, 3)


def test_an_unknown_half_is_refused() -> None:
    with pytest.raises(ValueError, match="got shares='third' · expected 'first' or 'second'"):
        quadruplet(film(0), film(100), splice=3).pairs(shares="third")  # type: ignore[arg-type]


def test_a_spliced_track_follows_one_and_then_the_other_in_every_field() -> None:
    one, other = track(1.0, "disc", "red"), track(-1.0, "square", "green")
    spliced = one.splice(other, 4)
    assert spliced.position[:, 0].tolist() == [1, 1, 1, 1, -1, -1]
    assert spliced.velocity[:, 1].tolist() == [10, 10, 10, 10, -10, -10]
    assert spliced.present.tolist() == [True] * 4 + [False] * 2
    assert spliced.hidden.tolist() == [False] * 4 + [True] * 2
    assert spliced.radius.tolist() == [3.0] * 4 + [-3.0] * 2
    assert spliced.shape.tolist() == ["disc"] * 4 + ["square"] * 2
    assert spliced.colour.tolist() == ["red"] * 4 + ["green"] * 2


def test_a_spliced_track_keeps_names_longer_than_the_first_ones() -> None:
    nobody, somebody = track(1.0, "", ""), track(1.0, "triangle", "yellow")
    assert nobody.splice(somebody, 3).shape.tolist() == [""] * 3 + ["triangle"] * 3
    assert somebody.splice(nobody, 3).colour.tolist() == ["yellow"] * 3 + [""] * 3


def test_a_clip_has_no_tracks_and_a_quadruplet_is_crossed_unless_it_is_said() -> None:
    item = quadruplet(film(0), film(100), splice=3)
    assert item.crossed and item.a.tracks == ()


def test_a_group_is_of_the_property_of_its_clips() -> None:
    clips = quadruplet(film(0), film(100), splice=3).clips
    group = Group("g", clips, ((0, 2), (1, 3)))
    assert group.property == clips[0].property and len(group.clips) == 4
