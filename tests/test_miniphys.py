"""miniphys: balanced frame by frame, one attribute at a time, the splice out of sight."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dit_lens.clips import Clip, Scene
from dit_lens.probing import estimator
from dit_lens.stats import pairwise_accuracy
from dit_lens.toy import miniphys
from dit_lens.toy.miniphys import EVENTS, FRAMES, LAWFUL, PROPERTIES, SPLICE, SPLITS, MiniPhys
from dit_lens.toy.miniphys.physics import WALL
from dit_lens.toy.miniphys.scenes import EDGE, PALETTE, WORLD

CROSSED = [name for name, law in LAWFUL.items() if law.crossed]
SIZE = 32


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    """Four of each property."""
    return MiniPhys("train", quadruplets=4 * len(PROPERTIES))[:]


@pytest.fixture(scope="module")
def crossed(many: list[Scene]) -> list[Scene]:
    return [q for q in many if q.crossed]


@pytest.fixture(scope="module")
def matched(many: list[Scene]) -> list[Scene]:
    return [q for q in many if not q.crossed]


@pytest.fixture(scope="module")
def bright() -> list[Scene]:
    """Sixty in which A and B differ in what colours are seen, before and behind the occluder alike."""
    return MiniPhys("train", quadruplets=60, properties=["permanence", "colour"])[:]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sensor noise."""
    monkeypatch.setattr(miniphys, "SENSOR_NOISE", 0.0)


def features(quadruplets: list[Scene], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([[of(clip.frames) for clip in q.clips] for q in quadruplets])


def frame_sum(rng: np.random.Generator, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A random nonlinear integer function of each frame and its time, summed over frames."""
    weights = rng.integers(-1000, 1001, (FRAMES, SIZE * SIZE * 3, size)).astype(np.float64)

    def feature(frames: np.ndarray) -> np.ndarray:
        projected = np.einsum("tp,tpd->td", frames.reshape(FRAMES, -1).astype(np.float64), weights)
        return (projected.astype(np.int64) ** 2 // 997 % 10007).sum(0)

    return feature


def halves_product(frames: np.ndarray) -> np.ndarray:
    """Sum of colours of the first half and of the second, (2, 3); their product is not a sum over frames."""
    pixels = frames.astype(np.float64)
    return np.stack([pixels[:SPLICE].sum(axis=(0, 1, 2)), pixels[SPLICE:].sum(axis=(0, 1, 2))])


def planted(quadruplets: list[Scene]) -> np.ndarray:
    """First half x second half, each centred on its scene, summed over colours: (q, 4, 1)."""
    halves = features(quadruplets, halves_product)
    halves = halves - halves.mean(1, keepdims=True)
    return halves.prod(2).sum(-1, keepdims=True)


def levels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest difference in each frame, (F,)."""
    return np.abs(a.astype(int) - b).max(axis=(1, 2, 3))


# Balance: nothing that adds up over frames tells possible from impossible.


def test_a_plus_b_equals_c_plus_d_pixel_by_pixel(crossed: list[Scene]) -> None:
    for q in crossed:
        a, b, c, d = (clip.frames.astype(int) for clip in q.clips)
        assert not (a + b - c - d).any()
        assert (a + b - c - c).any() and (a - c).any() and (b - c).any()


def test_every_frame_of_a_crossing_is_a_frame_of_a_or_b(crossed: list[Scene]) -> None:
    assert {q.property for q in crossed} == set(CROSSED) == set(PROPERTIES) - {"incline"}
    for q in crossed:
        assert np.array_equal(q["C"].frames[:SPLICE], q["A"].frames[:SPLICE])
        assert np.array_equal(q["C"].frames[SPLICE:], q["B"].frames[SPLICE:])
        assert np.array_equal(q["D"].frames[:SPLICE], q["B"].frames[:SPLICE])
        assert np.array_equal(q["D"].frames[SPLICE:], q["A"].frames[SPLICE:])


def test_a_matched_pair_shares_the_first_half_and_does_not_balance(matched: list[Scene]) -> None:
    assert {q.property for q in matched} == {"incline"}
    for q in matched:
        assert np.array_equal(q["C"].frames[:SPLICE], q["A"].frames[:SPLICE])
        assert np.array_equal(q["D"].frames[:SPLICE], q["B"].frames[:SPLICE])
        assert levels(q["C"].frames, q["B"].frames)[SPLICE:].all()
        a, b, c, d = (clip.frames.astype(int) for clip in q.clips)
        assert (a + b - c - d).any()


@pytest.mark.parametrize("seed", range(3))
def test_frame_sums_order_exactly_half_of_the_pairs_of_each_quadruplet(crossed: list[Scene], seed: int) -> None:
    scores = features(crossed, frame_sum(np.random.default_rng(seed), size=4))
    for score in np.moveaxis(scores, -1, 0):
        assert (pairwise_accuracy(score) == 0.5).all()
    assert (scores[:, 0] != scores[:, 1]).any()


def test_a_product_of_halves_orders_every_pair(bright: list[Scene]) -> None:
    assert (pairwise_accuracy(planted(bright)[..., 0]) == 1.0).all()


@pytest.mark.parametrize("prop", CROSSED)
def test_a_logistic_probe_on_frame_sums_stays_at_zero(prop: str) -> None:
    quadruplets = MiniPhys("train", 12, [prop])[:]
    x = features(quadruplets, frame_sum(np.random.default_rng(0), size=16)).reshape(-1, 16).astype(np.float64)
    possible = np.tile([True, True, False, False], len(quadruplets))
    logistic: Any = estimator().fit(x, possible)[-1]
    assert np.linalg.norm(logistic.coef_) < 1e-8
    assert abs(logistic.intercept_[0]) < 1e-8


def test_a_logistic_probe_finds_a_product_of_halves_beside_them(bright: list[Scene]) -> None:
    sums = features(bright, frame_sum(np.random.default_rng(0), size=16)).astype(np.float64)
    product = planted(bright) / np.abs(planted(bright)).mean(1, keepdims=True)
    x = np.concatenate([sums, product], axis=-1).reshape(-1, 17)
    possible = np.tile([True, True, False, False], len(bright))
    fitted: Any = estimator().fit(x, possible)
    assert np.abs(fitted[-1].coef_[0]).argmax() == 16
    assert fitted.score(x, possible) > 0.95


# What is seen and what is not.


def hidden_in_both(q: Scene) -> np.ndarray:
    """In which frames everything that A or B has behind the occluder is out of sight."""
    behind = [track for clip in (q["A"], q["B"]) for track in clip.tracks if track.hidden.any()]
    return np.all([track.hidden for track in behind], axis=0)


@pytest.mark.parametrize("split", SPLITS)
def test_the_splice_is_out_of_sight(split: str, silent: None) -> None:
    for q in MiniPhys(split, 6 * len(PROPERTIES)):
        differs = levels(q["A"].frames, q["B"].frames)
        if q.crossed:
            assert not differs[[SPLICE - 1, SPLICE]].any(), q.id
            assert not differs[hidden_in_both(q)].any(), q.id
            assert differs[:SPLICE].max() > 20 and differs[SPLICE:].max() > 20, q.id
        else:  # another ramp in the other scene; the same ramp in the crossing
            assert not levels(q["A"].frames, q["C"].frames)[: SPLICE + 1].any(), q.id
            assert levels(q["A"].frames, q["C"].frames)[SPLICE:].any() and differs.all(), q.id


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_behind_the_occluder_is_hidden_at_the_splice_and_not_at_the_ends(split: str) -> None:
    for q in MiniPhys(split, 6 * len(PROPERTIES)):
        for clip in q.clips[:2] if q.crossed else q.clips:
            movers = [track for track in clip.tracks if track.hidden.any()]
            assert movers or not clip.tracks[0].present.any()
            assert all(track.hidden[SPLICE] for track in movers)
            if q.crossed and movers:
                assert not movers[0].hidden[[0, -1]].any()


def test_hidden_frames_of_a_and_b_differ_by_sensor_noise_and_seen_frames_by_more(crossed: list[Scene]) -> None:
    noise = np.sqrt(2) * 255 * miniphys.SENSOR_NOISE
    for q in crossed:
        difference = q["A"].frames.astype(float) - q["B"].frames
        hidden = difference[hidden_in_both(q)]
        assert hidden.std() == pytest.approx(noise, rel=0.05)
        assert abs(hidden.mean()) < 5 * noise / np.sqrt(hidden.size)
        assert np.abs(difference[~hidden_in_both(q)]).max() > 6 * noise


def test_without_noise_distractors_or_occluder_the_empty_clip_of_permanence_is_still(silent: None) -> None:
    passing = [q for q in MiniPhys("test", 30, ["permanence"]) if q["A"].factors["stage"] == "passing"]
    plain = [q for q in passing if not q["A"].factors["scene"]["distractors"]]
    assert len(plain) > 3
    for q in plain:
        assert (q["B"].frames == q["B"].frames[:1]).all()
        assert (q["A"].frames != q["A"].frames[:1]).any()


def test_the_wall_is_seen_first_and_then_covered(silent: None) -> None:
    for q in MiniPhys("train", 24, ["solidity"]):
        s, way = q["A"].factors["scene"], q["A"].factors["first"]["direction"]
        wall = s["occluder"][0] + way * (s["radius"] + WALL)
        difference = np.abs(q["A"].frames.astype(int) - q["B"].frames).max(-1)
        assert (difference[0].max(0)[int(wall - 0.5) : int(wall + 0.5) + 1] > 50).all()
        columns = np.abs(np.arange(32) + 0.5 - s["occluder"][0]) < s["occluder"][1] / 2 - 1
        assert difference[:3, :, columns].max(axis=(1, 2)).all() and not difference[3:, :, columns].any()
        assert difference[SPLICE + 1 :].any()


def test_the_track_is_where_the_object_is_seen(silent: None) -> None:
    discs = [q for q in MiniPhys("test", 120, ["permanence"]) if q["A"].factors["first"]["shape"] == "disc"]
    discs = [q for q in discs if q["A"].factors["stage"] == "passing" and not q["A"].factors["scene"]["distractors"]]
    edges_in_sight = 0
    for q in discs:
        occluder_x, width = q["A"].factors["scene"]["occluder"]
        visible = (q["A"].frames != q["B"].frames).any(-1).any(1)
        for frame in np.flatnonzero(visible.sum(1) > 1):
            x, radius = q["A"].tracks[0].position[frame, 0], q["A"].tracks[0].radius[frame]
            ends = (0, occluder_x - width / 2) if x < occluder_x else (occluder_x + width / 2, WORLD)
            columns = np.flatnonzero(visible[frame])
            assert columns.min() == pytest.approx(max(x - radius, ends[0]), abs=1.2)
            assert columns.max() + 1 == pytest.approx(min(x + radius, ends[1]), abs=1.2)
            edges_in_sight += (x - radius > ends[0]) + (x + radius < ends[1])
    # An edge moves by 1.5 pixels or more in a frame: a track that lags is caught by each of these.
    assert edges_in_sight > 4 * len(discs) > 20


# Each property changes just what it says.

ATTRIBUTES = {
    "permanence": [{"present"}],
    "continuity": [{"height"}, {"place"}],
    "inertia": [{"direction"}],
    "gravity": [{"arc"}],
    "solidity": [{"blocked"}],
    "incline": [{"slope"}],
    "exchange": [{"colour", "follower"}],
    "collision": [{"direction"}],
    "gate": [{"colour"}],
}


def test_one_attribute_differs_between_a_and_b(many: list[Scene]) -> None:
    for q in many:
        a, b = q["A"].factors["first"], q["B"].factors["first"]
        assert {name for name in a if a[name] != b[name]} in ATTRIBUTES.get(q.property, [{q.property}])
        assert q.event == EVENTS[q.property]


def test_the_scene_is_shared_but_for_the_ramp_of_the_incline(many: list[Scene]) -> None:
    for q in many:
        a, b, c, d = (clip.factors["scene"] for clip in q.clips)
        assert a == c and b == d
        assert {name for name in a if a[name] != b[name]} == (set() if q.crossed else {"ramp"})


def test_an_object_keeps_its_place_where_only_its_looks_differ(many: list[Scene]) -> None:
    looks = {"shape", "colour", "exchange", "gate"}
    for q in many:
        same = [
            np.array_equal(a.position, b.position, equal_nan=True)
            for a, b in zip(q["A"].tracks, q["B"].tracks, strict=True)
        ]
        assert same[0] == (q.property in looks)
        assert all(same[1:])


def test_permanence_has_nan_and_no_name_where_nothing_is_present(many: list[Scene]) -> None:
    for q in (q for q in many if q.property == "permanence"):
        for clip in q.clips:
            track = clip.tracks[0]
            for numbers in (track.position[:, 0], track.velocity[:, 1], track.radius):
                assert np.array_equal(np.isnan(numbers), ~track.present)
            assert np.array_equal(track.shape == "", ~track.present)
            assert np.array_equal(track.colour == "", ~track.present)
        assert q["A"].tracks[0].present.all() and not q["B"].tracks[0].present.any()
        assert q["C"].tracks[0].present.tolist() == [True] * SPLICE + [False] * (FRAMES - SPLICE)
        assert q["D"].tracks[0].present.tolist() == [False] * SPLICE + [True] * (FRAMES - SPLICE)


@pytest.mark.parametrize("prop", PROPERTIES)
def test_objects_stay_in_the_picture_in_height(prop: str) -> None:
    for q in MiniPhys("train", 20, [prop]):
        for track in (t for clip in q.clips for t in clip.tracks if t.hidden.any()):
            y, reach = track.position[track.present, 1], track.radius[track.present] + EDGE
            assert (reach <= y + 1e-9).all() and (y <= WORLD - reach + 0.5).all()


# What a clip says of itself.


def test_pairs_have_the_roles_and_differ_where_they_should(many: list[Scene]) -> None:
    expected = {
        "first": ([("A", "C"), ("B", "D")], (SPLICE, FRAMES - 1)),
        "second": ([("A", "D"), ("B", "C")], (0, SPLICE - 1)),
    }
    for shares, (roles, span) in expected.items():
        for q in many:
            pairs = q.pairs(shares)  # type: ignore[arg-type]
            assert [(p.possible.role, p.impossible.role) for p in pairs] == roles
            assert all(p.possible.possible and not p.impossible.possible for p in pairs)
            if q.crossed or shares == "first":
                assert all((p.first_difference, p.last_difference) == span for p in pairs)


def test_labels_and_ids(many: list[Scene]) -> None:
    for q in many:
        assert [clip.possible for clip in q.clips] == [True, True, False, False]
        assert [clip.id for clip in q.clips] == [f"{q.id}/{role}" for role in "ABCD"]
        assert {clip.group for clip in q.clips} == {q.id}
        assert {clip.property for clip in q.clips} == {q.property}
        assert all(clip.frames.shape == (FRAMES, SIZE, SIZE, 3) for clip in q.clips)
        assert all(clip.frames.dtype == np.uint8 for clip in q.clips)


@pytest.mark.parametrize("split", SPLITS)
def test_factors_tell_who_moves_in_each_half_in_plain_values(split: str) -> None:
    def leaves(value: Any) -> list[Any]:
        nested = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
        return [value] if nested is None else [leaf for part in nested for leaf in leaves(part)]

    def halves(clip: Clip) -> tuple[Any, Any]:
        return clip.factors["first"], clip.factors["second"]

    plain = {bool, int, float, str, type(None)}
    for q in MiniPhys(split, 3 * len(PROPERTIES)):
        a, b = q["A"].factors["first"], q["B"].factors["first"]
        assert [halves(clip) for clip in q.clips] == [(a, a), (b, b), (a, b), (b, a)]
        assert {type(leaf) for clip in q.clips for leaf in leaves(dict(clip.factors))} <= plain
        assert json.loads(json.dumps(dict(q["A"].factors)))["first"] == a


def test_tracks_tell_what_the_factors_say(many: list[Scene]) -> None:
    for q in many:
        for clip in (q["A"], q["B"]):
            track, cast, scene = clip.tracks[0], clip.factors["first"], clip.factors["scene"]
            if cast["present"]:
                assert set(track.shape) == {cast["shape"]} and track.colour[0] == cast["colour"]
                assert set(track.radius) == {scene["radius"]}
            assert len(clip.tracks) == 1 + (cast["follower"] is not None) + len(scene["distractors"])
            assert set(np.concatenate([t.colour for t in clip.tracks])) <= {*PALETTE, ""}
