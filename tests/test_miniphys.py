"""miniphys: balanced frame by frame, each law broken alone, the splice out of sight."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from dit_lens.clips import Clip, Quadruplet
from dit_lens.datasets import miniphys
from dit_lens.datasets.miniphys import EVENTS, FRAMES, PROPERTIES, SIZE, SPLICE, MiniPhys
from dit_lens.probing import estimator
from dit_lens.stats import pairwise_accuracy

LATENT_FRAMES = {"before the splice": range(5, 9), "behind the splice": range(9, 13)}


@pytest.fixture(scope="module")
def many() -> list[Quadruplet]:
    """Forty, eight of each property."""
    return MiniPhys("train", quadruplets=40)[:]


@pytest.fixture(scope="module")
def bright() -> list[Quadruplet]:
    """Sixty in which A and B differ in what colours are seen, before and behind the occluder alike."""
    return MiniPhys("train", quadruplets=60, properties=["permanence", "colour"])[:]


def features(quadruplets: list[Quadruplet], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([[of(clip.frames) for clip in q.clips] for q in quadruplets])


def frame_sum(rng: np.random.Generator, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A random nonlinear integer function of each frame and its time, summed over frames."""
    weights = rng.integers(-1000, 1001, (FRAMES, SIZE * SIZE * 3, size)).astype(np.float64)

    def feature(frames: np.ndarray) -> np.ndarray:
        projected = np.einsum("tp,tpd->td", frames.reshape(FRAMES, -1).astype(np.float64), weights)
        return (projected.astype(np.int64) ** 2 // 997 % 10007).sum(0)

    return feature


def halves_product(frames: np.ndarray) -> np.ndarray:
    """Mean colour of the first half and of the second, (2, 3); their product is not a sum over frames."""
    pixels = frames.astype(np.float64)
    return np.stack([pixels[:SPLICE].sum(axis=(0, 1, 2)), pixels[SPLICE:].sum(axis=(0, 1, 2))])


def planted(quadruplets: list[Quadruplet]) -> np.ndarray:
    """First half x second half, each centred on its scene, summed over colours: (q, 4, 1)."""
    halves = features(quadruplets, halves_product)
    halves = halves - halves.mean(1, keepdims=True)
    return halves.prod(2).sum(-1, keepdims=True)


def changed(q: Quadruplet) -> dict[str, tuple[Any, Any]]:
    a, b = q.a.factors["first"], q.b.factors["first"]
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}


# Balance: nothing that adds up over frames tells possible from impossible.


def test_a_plus_b_equals_c_plus_d_pixel_by_pixel(many: list[Quadruplet]) -> None:
    for q in many:
        a, b, c, d = (clip.frames.astype(int) for clip in q.clips)
        assert not (a + b - c - d).any()
        assert (a + b - c - c).any() and (a - c).any() and (b - c).any()


def test_every_frame_of_a_crossing_is_a_frame_of_a_or_b(many: list[Quadruplet]) -> None:
    for q in many:
        assert np.array_equal(q.c.frames[:SPLICE], q.a.frames[:SPLICE])
        assert np.array_equal(q.c.frames[SPLICE:], q.b.frames[SPLICE:])
        assert np.array_equal(q.d.frames[:SPLICE], q.b.frames[:SPLICE])
        assert np.array_equal(q.d.frames[SPLICE:], q.a.frames[SPLICE:])


@pytest.mark.parametrize("seed", range(3))
def test_frame_sums_order_exactly_half_of_the_pairs_of_each_quadruplet(many: list[Quadruplet], seed: int) -> None:
    scores = features(many, frame_sum(np.random.default_rng(seed), size=4))
    for score in np.moveaxis(scores, -1, 0):
        assert (pairwise_accuracy(score) == 0.5).all()
    assert (scores[:, 0] != scores[:, 1]).any()


def test_a_product_of_halves_orders_every_pair(bright: list[Quadruplet]) -> None:
    assert (pairwise_accuracy(planted(bright)[..., 0]) == 1.0).all()


def test_a_logistic_probe_on_frame_sums_stays_at_zero(bright: list[Quadruplet]) -> None:
    x = features(bright, frame_sum(np.random.default_rng(0), size=16)).reshape(-1, 16).astype(np.float64)
    possible = np.tile([True, True, False, False], len(bright))
    logistic = estimator().fit(x, possible)[-1]
    assert np.linalg.norm(logistic.coef_) < 1e-8
    assert abs(logistic.intercept_[0]) < 1e-8


def test_a_logistic_probe_finds_a_product_of_halves_beside_them(bright: list[Quadruplet]) -> None:
    sums = features(bright, frame_sum(np.random.default_rng(0), size=16)).astype(np.float64)
    product = planted(bright) / np.abs(planted(bright)).mean(1, keepdims=True)
    x = np.concatenate([sums, product], axis=-1).reshape(-1, 17)
    possible = np.tile([True, True, False, False], len(bright))
    fitted = estimator().fit(x, possible)
    assert np.abs(fitted[-1].coef_[0]).argmax() == 16
    assert fitted.score(x, possible) > 0.95


# Reproducibility and splits.


def test_items_depend_on_seed_split_and_index_alone() -> None:
    one, again, other = MiniPhys("test", 5), MiniPhys("test", 5), MiniPhys("test", 5, seed=1)
    for q, same, different in zip(one, again, other, strict=True):
        assert all(np.array_equal(x.frames, y.frames) for x, y in zip(q.clips, same.clips, strict=True))
        assert q.a.factors == same.a.factors
        assert not np.array_equal(q.a.frames, different.a.frames)


def test_making_an_item_twice_or_out_of_order_gives_the_same_item() -> None:
    split = MiniPhys("test", 5)
    last = split[4].b.frames
    _ = split[0]
    assert np.array_equal(split[4].b.frames, last)
    assert np.array_equal(list(split)[4].b.frames, last)


def test_a_longer_split_begins_with_the_shorter() -> None:
    short, long = MiniPhys("train", 6), MiniPhys("train", 12)
    assert [q.id for q in long][:6] == [q.id for q in short]
    assert all(np.array_equal(x.d.frames, y.d.frames) for x, y in zip(short, long, strict=False))
    assert len({q.id for q in long}) == 12


def scene(q: Quadruplet) -> str:
    return json.dumps([q.a.factors["occluder"], q.a.factors["first"]])


def test_splits_never_share_a_scene() -> None:
    scenes = {split: {scene(q) for q in MiniPhys(split, 30)} for split in miniphys.SPLITS}
    assert len(set.union(*scenes.values())) == 3 * 30
    assert scenes["test"] == {scene(q) for q in MiniPhys("test", 30)}


def test_properties_take_turns() -> None:
    assert [q.property for q in MiniPhys("test", 7)] == [*PROPERTIES, *PROPERTIES[:2]]
    assert [q.property for q in MiniPhys("test", 3, ["shape", "inertia"])] == ["shape", "inertia", "shape"]


def test_it_is_a_sequence() -> None:
    split = MiniPhys("test", 4)
    assert len(split) == 4 and split[-1].id == split[3].id
    assert [q.id for q in split[1:3]] == [split[1].id, split[2].id]
    assert not list(MiniPhys("test", 0))
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"got quadruplet {index} · expected below 4"):
            _ = split[index]


# What is seen and what is not.


def test_an_object_that_is_present_is_hidden_for_five_to_eight_frames(many: list[Quadruplet]) -> None:
    for q in many:
        hidden = np.flatnonzero(q.a.track.hidden)
        first, last = q.a.factors["hidden"]
        assert hidden.tolist() == list(range(first, last + 1))
        assert 5 <= len(hidden) <= 8
        assert first >= 3 and last <= FRAMES - 4
    assert len({tuple(q.a.factors["hidden"]) for q in many}) > 5


def test_the_splice_is_out_of_sight_and_beside_a_wholly_hidden_latent_frame(many: list[Quadruplet]) -> None:
    beside = []
    for q in many:
        hidden = set(np.flatnonzero(q.a.track.hidden))
        assert q.splice == SPLICE and {SPLICE - 1, SPLICE} <= hidden
        beside.append([name for name, frames in LATENT_FRAMES.items() if set(frames) <= hidden])
        assert beside[-1]
    assert len({name for names in beside for name in names}) == 2


def test_both_clips_of_a_scene_are_hidden_in_the_same_frames(many: list[Quadruplet]) -> None:
    for q in many:
        if q.property == "permanence":
            assert not q.b.track.hidden.any() and not q.b.track.present.any()
        else:
            assert np.array_equal(q.a.track.hidden, q.b.track.hidden)


def test_hidden_frames_of_a_and_b_differ_by_sensor_noise_and_seen_frames_by_more(many: list[Quadruplet]) -> None:
    noise = np.sqrt(2) * 255 * miniphys.SENSOR_NOISE
    for q in many:
        difference = q.a.frames.astype(float) - q.b.frames
        hidden = difference[q.a.track.hidden]
        assert hidden.std() == pytest.approx(noise, rel=0.05)
        assert abs(hidden.mean()) < 5 * noise / np.sqrt(hidden.size)
        assert np.abs(difference[~q.a.track.hidden]).max() > 8 * noise


def test_hidden_frames_of_a_and_b_are_equal_but_for_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniphys, "SENSOR_NOISE", 0.0)
    leaks = {}
    for q in MiniPhys("train", 100):
        difference = np.abs(q.a.frames.astype(int) - q.b.frames).max(axis=(1, 2, 3))
        assert difference[~q.a.track.hidden].max() > 20
        if difference[q.a.track.hidden].any():
            leaks[q.id] = difference[q.a.track.hidden].tolist()
    assert not leaks


def test_without_noise_the_empty_clip_of_permanence_is_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniphys, "SENSOR_NOISE", 0.0)
    (q,) = MiniPhys("test", 1, ["permanence"])
    assert (q.b.frames == q.b.frames[:1]).all()
    assert (q.a.frames != q.a.frames[:1]).any()


def test_the_track_is_where_the_object_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniphys, "SENSOR_NOISE", 0.0)
    discs = [q for q in MiniPhys("test", 40, ["permanence"]) if q.a.factors["first"]["shape"] == "disc"]
    edges_in_sight = 0
    for q in discs:
        (occluder_x, width), radius = q.a.factors["occluder"], q.a.factors["first"]["radius"]
        seen = (q.a.frames != q.b.frames).any(-1).any(1)
        for frame in np.flatnonzero(seen.sum(1) > 1):
            x = q.a.track.position[frame, 0]
            ends = (0, occluder_x - width / 2) if x < occluder_x else (occluder_x + width / 2, SIZE)
            columns = np.flatnonzero(seen[frame])
            assert columns.min() == pytest.approx(max(x - radius, ends[0]), abs=1.2)
            assert columns.max() + 1 == pytest.approx(min(x + radius, ends[1]), abs=1.2)
            edges_in_sight += (x - radius > ends[0]) + (x + radius < ends[1])
    # An edge moves by 1.5 pixels or more in a frame: a track that lags is caught by each of these.
    assert edges_in_sight > 4 * len(discs) > 20


def test_positions_move_by_the_velocity(many: list[Quadruplet]) -> None:
    for q in many:
        track = q.a.track
        assert np.allclose(np.diff(track.position, axis=0), track.velocity[:-1])
        assert (np.abs(track.velocity[:, 0]) > 1).all()


# Each property changes just what it says.


def test_one_attribute_differs_between_a_and_b(many: list[Quadruplet]) -> None:
    attribute = {"permanence": "present", "continuity": "height", "inertia": "direction"}
    for q in many:
        assert list(changed(q)) == [attribute.get(q.property, q.property)]
        assert q.event == EVENTS[q.property]


def test_tracks_of_shape_and_colour_are_equal(many: list[Quadruplet]) -> None:
    for q in many:
        same = np.array_equal(q.a.track.position, q.b.track.position, equal_nan=True)
        assert same == (q.property in ("shape", "colour"))


def test_continuity_changes_the_height_of_the_path(many: list[Quadruplet]) -> None:
    for q in (q for q in many if q.property == "continuity"):
        a, b = q.a.track, q.b.track
        assert np.array_equal(a.position[:, 0], b.position[:, 0])
        assert (np.abs(a.position[:, 1] - b.position[:, 1]) >= 8).all()
        assert len(set(q.c.track.position[:, 1])) == 2 and len(set(a.position[:, 1])) == 1


def test_inertia_turns_back(many: list[Quadruplet]) -> None:
    for q in (q for q in many if q.property == "inertia"):
        a, b, c = (clip.track.velocity[:, 0] for clip in (q.a, q.b, q.c))
        assert np.array_equal(a, -b)
        assert len(set(np.sign(a))) == 1
        assert np.sign(c[SPLICE - 1]) == -np.sign(c[SPLICE])


def test_permanence_has_nan_where_nothing_is_present(many: list[Quadruplet]) -> None:
    for q in (q for q in many if q.property == "permanence"):
        for clip in q.clips:
            assert np.array_equal(np.isnan(clip.track.position).all(1), ~clip.track.present)
            assert np.array_equal(np.isnan(clip.track.velocity).all(1), ~clip.track.present)
        assert q.a.track.present.all() and not q.b.track.present.any()
        assert q.c.track.present.tolist() == [True] * SPLICE + [False] * (FRAMES - SPLICE)
        assert q.d.track.present.tolist() == [False] * SPLICE + [True] * (FRAMES - SPLICE)


def test_objects_and_their_paths_stay_in_the_picture_and_behind_the_occluder_in_height() -> None:
    for q in MiniPhys("train", 100, ["continuity"]):
        for clip in (q.a, q.b):
            y, radius = clip.track.position[0, 1], clip.factors["first"]["radius"]
            assert radius + 1 <= y + 1e-9 and y <= SIZE - radius - 1 + 1e-9


# What a clip says of itself.


def test_pairs_have_the_roles_and_differ_where_they_should(many: list[Quadruplet]) -> None:
    expected = {
        "first": ([("A", "C"), ("B", "D")], (SPLICE, FRAMES - 1)),
        "second": ([("A", "D"), ("B", "C")], (0, SPLICE - 1)),
    }
    for shares, (roles, span) in expected.items():
        for q in many:
            pairs = q.pairs(shares)  # type: ignore[arg-type]
            assert [(p.possible.role, p.impossible.role) for p in pairs] == roles
            assert all((p.first_difference, p.last_difference) == span for p in pairs)
            assert all(p.possible.possible and not p.impossible.possible for p in pairs)


def test_labels_and_ids(many: list[Quadruplet]) -> None:
    for q in many:
        assert [clip.possible for clip in q.clips] == [True, True, False, False]
        assert [clip.id for clip in q.clips] == [f"{q.id}/{role}" for role in "ABCD"]
        assert {clip.group for clip in q.clips} == {q.id}
        assert {clip.property for clip in q.clips} == {q.property}
        assert all(clip.frames.shape == (FRAMES, SIZE, SIZE, 3) for clip in q.clips)
        assert all(clip.frames.dtype == np.uint8 for clip in q.clips)


def test_factors_tell_who_moves_in_each_half_in_plain_values(many: list[Quadruplet]) -> None:
    def leaves(value: Any) -> list[Any]:
        nested = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
        return [value] if nested is None else [leaf for part in nested for leaf in leaves(part)]

    def halves(clip: Clip) -> tuple[Any, Any]:
        return clip.factors["first"], clip.factors["second"]

    for q in many:
        a, b = q.a.factors["first"], q.b.factors["first"]
        assert [halves(clip) for clip in q.clips] == [(a, a), (b, b), (a, b), (b, a)]
        assert {type(leaf) for clip in q.clips for leaf in leaves(dict(clip.factors))} <= {bool, int, float, str}


def test_a_mover_is_what_the_factors_say(monkeypatch: pytest.MonkeyPatch) -> None:
    films: list[miniphys.Film] = []
    shoot = miniphys._film
    monkeypatch.setattr(miniphys, "_film", lambda *scene: films.append(shoot(*scene)) or films[-1])
    (q,) = MiniPhys("test", 1, ["shape"])
    assert [asdict(film.mover) for film in films] == [q.a.factors["first"], q.b.factors["first"]]


# Errors.


def test_an_unknown_split_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got miniphys split 'tests' .* did you mean 'test'"):
        MiniPhys("tests")


def test_an_unknown_property_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got miniphys property 'color' .* did you mean 'colour'"):
        MiniPhys("test", properties=["shape", "color"])


@pytest.mark.parametrize(("quadruplets", "properties"), [(-1, PROPERTIES), (3, ())])
def test_a_negative_size_or_no_property_is_refused(quadruplets: int, properties: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"got {quadruplets} quadruplets of {len(properties)} properties"):
        MiniPhys("test", quadruplets, properties)
