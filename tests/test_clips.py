"""The clip contract: crossings, pairs and spliced tracks, on handmade clips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.clips import ROLES, Clip, Scene, Track, block_means, breaks_between, frame_distances, quadruplet


def video(level: int) -> np.ndarray:
    return np.full((6, 2, 2, 3), level, dtype=np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]


def handmade(a: np.ndarray, b: np.ndarray, splice: int) -> Scene:
    crossed = np.concatenate([a[:splice], b[splice:]]), np.concatenate([b[:splice], a[splice:]])
    clips = [
        Clip(f"handmade/0/{role}", frames, role in "AB", "handmade/0", role, "shape")
        for role, frames in zip(ROLES, (a, b, *crossed), strict=True)
    ]
    return quadruplet(clips, ((splice,), (splice,)), "changes shape")


def track(value: float, shape: str, colour: str) -> Track:
    flag = np.full(6, value > 0)
    names = np.full(6, shape), np.full(6, colour)
    return Track(np.full((6, 2), value), np.full((6, 2), 10 * value), flag, ~flag, np.full(6, 3 * value), *names)


def test_the_clips_come_in_the_order_of_their_roles() -> None:
    item = handmade(video(0), video(100), splice=3)
    assert [clip.role for clip in item.clips] == list(ROLES)
    assert item.id == "handmade/0"


def test_pairs_that_share_the_first_half_differ_from_the_splice_on() -> None:
    pairs = handmade(video(0), video(100), splice=2).pairs(shares="first")
    assert [(p.possible.role, p.impossible.role) for p in pairs] == [("A", "C"), ("B", "D")]
    assert [(p.first_difference, p.last_difference) for p in pairs] == [(2, 5), (2, 5)]
    assert {p.shares for p in pairs} == {"first"}


def test_pairs_that_share_the_second_half_differ_before_the_splice() -> None:
    pairs = handmade(video(0), video(100), splice=2).pairs(shares="second")
    assert [(p.possible.role, p.impossible.role) for p in pairs] == [("A", "D"), ("B", "C")]
    assert [(p.first_difference, p.last_difference) for p in pairs] == [(0, 1), (0, 1)]


def test_differences_are_of_the_frames_and_not_of_the_splice() -> None:
    b = video(0)
    b[3, 1, 0, 2] += 1
    (pair, _) = handmade(video(0), b, splice=2).pairs(shares="first")
    assert (pair.first_difference, pair.last_difference) == (3, 3)


def test_an_unknown_half_is_refused() -> None:
    with pytest.raises(ValueError, match="got shares='third' · expected 'first' or 'second'"):
        handmade(video(0), video(100), splice=3).pairs(shares="third")  # type: ignore[arg-type]


def test_a_spliced_track_follows_one_and_then_the_other_in_every_field() -> None:
    first, second = track(1.0, "disc", "red"), track(-1.0, "square", "green")
    spliced = first.splice(second, 4)
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
    item = handmade(video(0), video(100), splice=3)
    assert item.crossed and item["A"].tracks == ()


def test_a_scene_is_of_the_property_of_its_clips() -> None:
    clips = handmade(video(0), video(100), splice=3).clips
    scene = Scene("g", clips, ((0, 2), (1, 3)))
    assert scene.property == clips[0].property and len(scene.clips) == 4


# Scenes.


def test_a_clip_is_named_by_its_role() -> None:
    item = handmade(video(0), video(100), splice=3)
    assert [item[role] for role in ROLES] == list(item.clips) and item.roles == ROLES
    with pytest.raises(KeyError, match="got role 'E' of handmade/0 · expected one of A, B, C, D"):
        item["E"]


def test_a_quadruplet_has_its_four_roles_in_order() -> None:
    a, b, c, d = handmade(video(0), video(100), splice=3).clips
    with pytest.raises(ValueError, match="got roles A, C, B, D · expected A, B, C, D"):
        quadruplet([a, c, b, d], ((3,), (3,)))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (((3,),), "got 1 breaks of 2 matches"),
        (((3, 3), (3,)), r"got breaks \(3, 3\) in g · expected rising"),
        (((5, 3), (3,)), "expected rising frames"),
    ],
)
def test_breaks_are_one_for_each_match_and_rise(breaks: tuple[tuple[int, ...], ...], message: str) -> None:
    clips = handmade(video(0), video(100), splice=3).clips
    with pytest.raises(ValueError, match=message):
        Scene("g", clips, ((0, 2), (1, 3)), breaks)


def test_each_clip_has_the_splice_of_its_own_pair_and_the_scene_the_first() -> None:
    item = quadruplet(handmade(video(0), video(100), splice=3).clips, ((4,), (2, 5)))
    assert item.splices == (4, 2, 4, 2) and item.splice == 2
    assert [pair.shares for pair in item.pairs()] == [None, None]  # the second pair meets again
    first, second, third, _ = item.clips
    for breaks, splices in ((((4,), (3,)), (3, 4, 3)), (((3,), (4,)), (3, 3, 4))):  # the first clip is in both pairs
        assert Scene("g", (first, second, third), ((0, 1), (0, 2)), breaks).splices == splices


@pytest.mark.parametrize("breaks", [(), ((), ()), ((3,), ()), ((3,), (0, 2))])
def test_without_shared_first_frames_there_is_no_splice(breaks: tuple[tuple[int, ...], ...]) -> None:
    item = Scene("g", handmade(video(0), video(100), splice=3).clips, ((0, 2), (1, 3)), breaks)
    with pytest.raises(ValueError, match=r"got g, whose clips share no first frames · .* --path inversion or noising"):
        _ = item.splice


def test_halves_are_of_quadruplets_alone_and_pairs_of_every_scene() -> None:
    a, b, c, _ = handmade(video(0), video(100), splice=3).clips
    scene = Scene("g", (a, b, c), ((1, 2),), ((3,),))
    ((pair,),) = (scene.pairs(),)
    assert (pair.possible, pair.impossible, pair.shares) == (b, c, "first")
    with pytest.raises(ValueError, match=r"got g with roles A, B, C · expected a quadruplet"):
        scene.pairs("first")
    with pytest.raises(ValueError, match="which are the same frames"):
        Scene("g", (a, a), ((0, 1),)).pairs()


def test_scenes_of_one_unit_are_one_observation() -> None:
    clips = handmade(video(0), video(100), splice=3).clips
    assert Scene("g#1", clips, unit="g").group == "g" and Scene("g", clips).group == "g"


# Breaks.


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_breaks_are_where_two_clips_part_and_meet(differs: list[bool]) -> None:
    first = np.random.default_rng(0).integers(0, 255, (len(differs), 4, 4, 3), dtype=np.uint8)
    second = first.copy()
    second[differs, 1, 2, 0] += 1
    changes = np.flatnonzero(np.diff([False, *differs])).tolist()
    assert breaks_between(first, second) == breaks_between(second, first) == tuple(changes)
    assert sum(differs) == sum(
        (end - start) for start, end in zip(changes[::2], [*changes[1::2], len(differs)], strict=False)
    )


def test_clips_of_other_shapes_have_no_breaks() -> None:
    with pytest.raises(ValueError, match="expected equal shapes"):
        breaks_between(video(0), video(0)[:3])


def test_a_tolerance_is_for_means_over_squares_so_that_objects_show_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    plain = np.full((3, 64, 64, 3), 100, np.uint8)
    noisy = (plain + rng.integers(-8, 9, plain.shape)).astype(np.uint8)  # each pixel off by up to 8 levels
    noisy[1, 20:28, 30:38] += 40  # an object of 8 x 8 pixels
    assert np.abs(noisy.astype(int) - plain).mean(axis=(1, 2, 3)).max() < 5  # hardly seen in the mean of a frame
    near, object_, far = frame_distances(plain, noisy)
    assert max(near, far) < 3 < 10 < object_
    assert breaks_between(plain, noisy, 3.0) == (1, 2) and breaks_between(plain, noisy) == (0,)
    assert breaks_between(plain, noisy, 50.0) == ()


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (21, 13), (288, 288)])
def test_means_over_squares_take_in_every_pixel(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    means = block_means(frames)
    assert means.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 3)
    for row in range(means.shape[1]):
        for column in range(means.shape[2]):
            square = frames[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert np.allclose(means[:, row, column], square.mean(axis=(1, 2)), atol=1e-3)
