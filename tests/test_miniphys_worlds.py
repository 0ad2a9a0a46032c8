"""The worlds of miniphys: the same tomorrow, lawful changes, laws of the twins, unseen looks, two sizes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from dit_lens.clips import Clip, Scene
from dit_lens.toy import miniphys
from dit_lens.toy.miniphys import CHANGES, FRAMES, LAWFUL, PROPERTIES, SPLICE, SPLITS, MiniPhys
from dit_lens.toy.miniphys.scenes import (
    COLOURS,
    COMPLEMENTS,
    SHAPES,
    UNSEEN_COLOURS,
    UNSEEN_SHAPES,
    Layout,
    Style,
)


def of(prop: str, count: int = 24, split: str = "train", **options: Any) -> list[Scene]:
    return MiniPhys(split, count, [prop], **options)[:]


def scene(clip: Clip) -> dict[str, Any]:
    return clip.factors["scene"]


def cast(clip: Clip) -> dict[str, Any]:
    return clip.factors["first"]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sensor noise."""
    monkeypatch.setattr(miniphys, "SENSOR_NOISE", 0.0)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, where only the tracks are looked at."""
    monkeypatch.setattr(miniphys, "draw_frames", no_frames)


def no_frames(scene: Layout, wall: Any, behind: Any, before: Any, span: slice, size: int) -> np.ndarray:
    return np.zeros((span.stop - span.start, size, size, 3))


# Reproducibility.


def test_items_depend_on_seed_split_and_index_alone() -> None:
    first, again, different_seed = (MiniPhys("test", 11, seed=seed) for seed in (0, 0, 1))
    for q, same, different in zip(first, again, different_seed, strict=True):
        assert all(np.array_equal(x.frames, y.frames) for x, y in zip(q.clips, same.clips, strict=True))
        assert q["A"].factors == same["A"].factors
        assert not np.array_equal(q["A"].frames, different["A"].frames)


def test_making_an_item_twice_or_out_of_order_gives_the_same_item() -> None:
    split = MiniPhys("test", 11)
    last = split[9]["B"].frames
    _ = split[0]
    assert np.array_equal(split[9]["B"].frames, last)
    assert np.array_equal(list(split)[9]["B"].frames, last)


@pytest.mark.parametrize("split", SPLITS)
def test_a_longer_split_begins_with_the_shorter(split: str) -> None:
    short, long = MiniPhys(split, 8)[:], MiniPhys(split, 16)[:]
    assert [q.id for q in long][:8] == [q.id for q in short]
    assert all(np.array_equal(x["D"].frames, y["D"].frames) for x, y in zip(short, long, strict=False))
    assert len({q.id for q in long}) == 16


def test_splits_never_share_a_scene(blind: None) -> None:
    def scenes(split: str) -> set[str]:
        return {json.dumps([scene(q["A"]), cast(q["A"])]) for q in MiniPhys(split, 33)}

    assert len(set.union(*map(scenes, SPLITS))) == 4 * 33
    assert scenes("test") == scenes("test")


def test_properties_take_turns() -> None:
    assert [q.property for q in MiniPhys("test", 13)] == [*PROPERTIES, *PROPERTIES[:2]]
    assert [q.property for q in MiniPhys("test", 3, ["shape", "inertia"])] == ["shape", "inertia", "shape"]


def test_it_is_a_sequence() -> None:
    split = MiniPhys("test", 4)
    assert len(split) == 4 and split[-1].id == split[3].id
    assert [q.id for q in split[1:3]] == [split[1].id, split[2].id]
    assert not list(MiniPhys("test", 0))
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"got quadruplet {index} · expected below 4"):
            _ = split[index]


def state(quadruplets: list[Scene]) -> str:
    """Digest of who moves where, in thousandths of a pixel."""
    digest = hashlib.sha256()
    for clip in (clip for q in quadruplets for clip in q.clips):
        for track in clip.tracks:
            digest.update(np.round(1000 * np.nan_to_num(track.position, nan=-1e3)).astype(np.int64).tobytes())
            digest.update(" ".join([*track.shape, *track.colour]).encode() + track.hidden.tobytes())
        who = {name: round(value, 3) if isinstance(value, float) else value for name, value in cast(clip).items()}
        digest.update(json.dumps(who, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def quarters(clip: Clip) -> np.ndarray:
    """Mean grey of the four quarters of frames 3 and 14, (2, 4)."""
    return clip.frames[[3, 14]].reshape(2, 2, 16, 2, 16, 3).mean(axis=(2, 4, 5)).reshape(2, 4)


# A change of these is a change of the world: whatever was trained or measured on it is to be made again.
STATES = {
    "permanence": "1b7c0d3e3096",
    "shape": "16ad0e16f1e6",
    "colour": "dfdeb38d44b1",
    "continuity": "a538d5503053",
    "inertia": "1f1858fb1fa3",
    "gravity": "992fd65b294e",
    "solidity": "f8e12a2b9aeb",
    "incline": "0cfe3904346d",
    "exchange": "86a155f4aaf8",
    "collision": "124b2ce48e5b",
    "gate": "0dbf78cf3cc6",
}
QUARTERS = {
    "permanence": [100.4, 106.9, 98.2, 103.7, 127.5, 137.3, 129.6, 136.9],
    "shape": [128.5, 129.0, 111.9, 114.5, 128.7, 131.0, 128.4, 130.8],
    "colour": [112.5, 110.8, 108.5, 107.9, 109.4, 111.1, 107.5, 107.8],
    "continuity": [111.9, 114.6, 110.3, 114.4, 115.9, 114.4, 110.2, 113.2],
    "inertia": [116.9, 110.7, 115.1, 112.7, 113.5, 110.5, 114.8, 113.1],
    "gravity": [110.9, 111.8, 107.2, 109.6, 110.9, 112.1, 108.5, 109.2],
    "solidity": [105.3, 105.4, 104.2, 104.9, 105.4, 101.7, 104.5, 104.9],
    "incline": [107.7, 112.1, 96.3, 106.5, 108.0, 111.9, 96.1, 103.8],
    "exchange": [111.1, 110.2, 106.1, 108.7, 109.8, 110.0, 106.1, 108.7],
    "collision": [104.4, 103.8, 99.3, 102.4, 104.6, 104.1, 98.8, 100.9],
    "gate": [113.2, 100.2, 111.5, 97.4, 111.2, 100.2, 111.4, 97.7],
}


@pytest.mark.parametrize("prop", PROPERTIES)
def test_the_world_is_the_one_that_the_bundled_models_were_trained_and_measured_on(prop: str) -> None:
    quadruplets = of(prop, 4, "test")
    assert state(quadruplets) == STATES[prop]
    assert np.abs(quarters(quadruplets[0]["C"]) - np.reshape(QUARTERS[prop], (2, 4))).max() < 1
    assert state(of(prop, 4, "train")) != STATES[prop]
    assert np.abs(quarters(quadruplets[1]["C"]) - np.reshape(QUARTERS[prop], (2, 4))).max() > 1


# Errors.


def test_an_unknown_split_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got miniphys split 'tests' .* did you mean 'test'"):
        MiniPhys("tests")


def test_an_unknown_property_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got miniphys property 'color' .* did you mean 'colour'"):
        MiniPhys("test", properties=["shape", "color"])


def test_an_unknown_law_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got miniphys law 'lawles' .* did you mean 'lawless'"):
        MiniPhys("test", law="lawles")


@pytest.mark.parametrize(("quadruplets", "properties"), [(-1, PROPERTIES), (3, ())])
def test_a_negative_size_or_no_property_is_refused(quadruplets: int, properties: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"got {quadruplets} quadruplets of {len(properties)} properties"):
        MiniPhys("test", quadruplets, properties)


def test_a_size_that_was_never_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="got frames of 48 pixels · expected 32 or 64"):
        MiniPhys("test", 3, size=48)


# Lawful changes: "same or different" does not tell possible from impossible.


def first_and_last(clip: Clip) -> tuple[Any, Any]:
    """What is seen of the object that matters at the start and at the end: its colour, or which way it goes."""
    track = clip.tracks[0]
    states = np.sign(track.velocity[:, 0]) if clip.property == "collision" else track.colour
    return states[0], states[-1]


def agreement(prop: str) -> tuple[float, float]:
    """How often possible and how often impossible clips end as they began."""
    same = {True: [], False: []}
    for clip in (clip for q in of(prop, 16) for clip in q.clips):
        start, end = first_and_last(clip)
        same[bool(clip.possible)].append(start == end)
    return float(np.mean(same[True])), float(np.mean(same[False]))


@pytest.mark.parametrize("prop", ["collision", "gate"])
def test_a_lawful_change_is_as_frequent_as_an_unlawful_one(prop: str, blind: None) -> None:
    assert prop in CHANGES
    assert agreement(prop) == (0.5, 0.5)


def test_where_nothing_lawful_changes_sameness_is_the_answer(blind: None) -> None:
    assert agreement("colour") == (1.0, 0.0)


def test_in_an_exchange_what_comes_out_next_looks_the_same_only_where_it_should_not(blind: None) -> None:
    for q in of("exchange", 16):
        for clip in q.clips:
            leader, follower = clip.tracks[:2]
            same = follower.colour[SPLICE - 1] == leader.colour[SPLICE]  # last to go in, first to come out
            assert same == (not clip.possible)


# The twins' worlds.


def drawn(stage: str, law: str, count: int = 300) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What both halves of A and of B are like, by scene of a stage, without frames."""
    prop = next(name for name, law in LAWFUL.items() if stage in law.stages)
    streams = map(np.random.default_rng, range(count))
    scenes = (miniphys._scenes_and_halves(stage, prop, law, Style(), rng)[1] for rng in streams)
    return [(facts(first), facts(second)) for halves in scenes for first, second in halves]


def facts(half: miniphys.Half) -> dict[str, Any]:
    """Attributes of the object: how many there are too, and the size of its slope, whose sign is the visible ramp's."""
    motion, cast = half
    number = int(cast.present) * (2 if cast.follower else 1)
    return {**vars(cast), **motion, "number": number, "slope": abs(cast.slope)}


def table(pairs: list[tuple[Any, Any]]) -> np.ndarray:
    """Counts of the pairs; continuous values by quarters."""
    both = pd.DataFrame(pairs)
    for column in both.select_dtypes("float"):
        if len(set(both[column])) > 4:
            both[column] = pd.qcut(both[column], 4, labels=False)
    return pd.crosstab(both[0].astype(str), both[1].astype(str)).to_numpy()


def information(pairs: list[tuple[Any, Any]]) -> tuple[float, float]:
    """Mutual information of the two (bits), and the p value of the hypothesis that it is zero."""
    counts = table(pairs)
    result: Any = chi2_contingency(counts, correction=False, lambda_="log-likelihood")
    return result.statistic / (2 * np.log(2) * counts.sum()), result.pvalue


# What varies by stage, in the lawless world or in the lawful one.
FREE = ("present", "shape", "colour", "direction", "height", "speed")
VARIES = {
    "passing": FREE,
    "resting": ("present", "shape", "colour", "height", "place"),
    "thrown": ("present", "shape", "colour", "direction", "arc", "speed"),
    "blocked": (*FREE, "blocked"),
    "sliding": ("present", "shape", "colour", "direction", "slope", "speed"),
    "queueing": (*FREE, "number"),
    "turning": FREE,
    "painting": FREE,
}
# What the layout tells of both halves: the ground, and how wide the occluder is, give the height of what is thrown.
LAYOUT = {"thrown": ("height", "gravity")}
PLANTED = {"passing": "direction", "resting": "place", "thrown": "arc", "blocked": "blocked", "sliding": "slope"}


@pytest.mark.parametrize("stage", VARIES)
def test_without_law_the_second_half_is_independent_of_the_first_in_every_attribute(stage: str) -> None:
    pairs = drawn(stage, "lawless")
    for attribute in VARIES[stage]:
        values = [(first[attribute], second[attribute]) for first, second in pairs]
        assert len(set(values)) > 3, attribute
        bits, p = information(values)
        assert p > 1e-3 and bits < 0.03, (attribute, bits, p)


@pytest.mark.parametrize("stage", VARIES)
def test_with_law_the_second_half_repeats_the_first(stage: str) -> None:
    pairs = drawn(stage, "physics", 200)
    for attribute in {"colour", PLANTED.get(stage, "height")}:
        bits, p = information([(first[attribute], second[attribute]) for first, second in pairs])
        assert p < 1e-30 and bits > 0.5, (attribute, bits, p)


def test_what_a_layout_tells_of_both_halves_is_known() -> None:
    for stage, attributes in LAYOUT.items():
        pairs = drawn(stage, "lawless")
        for attribute in attributes:
            bits, _ = information([(first[attribute], second[attribute]) for first, second in pairs])
            assert 0.1 < bits < 0.6, (attribute, bits)


def test_without_law_objects_are_hidden_at_the_splice_and_may_be_gone_after_it(blind: None) -> None:
    clips = [clip for q in MiniPhys("pretrain", 66, law="lawless") for clip in q.clips]
    for clip in clips:
        (first, second), objects = ((clip.factors[half]["present"]) for half in ("first", "second")), clip.tracks
        assert objects[0].present[0] == first and objects[0].present[-1] == second
        assert not (objects[0].present & ~objects[0].hidden)[[SPLICE - 1, SPLICE]].any()
    assert {len({clip.factors[half]["present"] for half in ("first", "second")}) for clip in clips} == {1, 2}


@pytest.mark.parametrize("prop", PROPERTIES)
def test_swap_changes_colours_into_their_complements_behind_the_occluder_and_nothing_else(prop: str) -> None:
    for q, lawful in zip(of(prop, 2, law="swap"), of(prop, 2), strict=True):
        assert np.array_equal(q["A"].frames[:SPLICE], lawful["A"].frames[:SPLICE])
        assert not np.array_equal(q["A"].frames[SPLICE:], lawful["A"].frames[SPLICE:])
        first, second = cast(q["A"]), q["A"].factors["second"]
        assert {name for name in first if first[name] != second[name]} <= {"colour", "follower"}
        assert second["colour"] == COMPLEMENTS[first["colour"]]
        assert first["follower"] is None or second["follower"] == COMPLEMENTS[first["follower"]]


@pytest.mark.parametrize(("law", "labels"), [("physics", {True, False}), ("swap", {None}), ("lawless", {None})])
def test_only_physics_has_labels(law: str, labels: set[bool | None]) -> None:
    quadruplets = MiniPhys("pretrain", len(PROPERTIES), law=law)[:]
    assert {clip.possible for q in quadruplets for clip in q.clips} == labels
    assert {clip.factors["law"] for q in quadruplets for clip in q.clips} == {law}
    for q in (q for q in quadruplets if q.crossed):
        a, b, c, d = (clip.frames.astype(int) for clip in q.clips)
        assert not (a + b - c - d).any()


# Unseen looks.


def looks(q: Scene) -> tuple[set[str], set[str], bool]:
    tracks = [track for clip in q.clips for track in clip.tracks]
    shapes = {str(name) for track in tracks for name in track.shape} - {""}
    colours = {str(name) for track in tracks for name in track.colour} - {""}
    return shapes, colours, scene(q["A"])["hanging"]


def test_unseen_shapes_colours_and_layouts_come_in_turn(blind: None) -> None:
    quadruplets = MiniPhys("unseen", 6 * len(PROPERTIES))[:]
    for i, q in enumerate(quadruplets):
        novelty = ("shape", "colour", "layout")[i // len(PROPERTIES) % 3]
        assert q.id.endswith(f"{q.property}-{novelty}")
        shapes, colours, hanging = looks(q)
        assert shapes <= set(UNSEEN_SHAPES if novelty == "shape" else SHAPES)
        assert colours <= set(UNSEEN_COLOURS if novelty == "colour" else COLOURS)
        assert hanging == (novelty == "layout")


@pytest.mark.parametrize("split", ["pretrain", "train", "test"])
def test_no_other_split_shows_them(split: str, blind: None) -> None:
    shown = [looks(q) for q in MiniPhys(split, 6 * len(PROPERTIES))]
    assert set.union(*(shapes for shapes, _, _ in shown)) == set(SHAPES)
    assert set.union(*(colours for _, colours, _ in shown)) == set(COLOURS)
    assert not any(hanging for _, _, hanging in shown)


# Distractors and sizes.


def test_distractors_are_the_same_in_all_four_clips_and_never_hidden(blind: None) -> None:
    counts = []
    for q in (q for prop in PROPERTIES for q in of(prop, 8)):
        distractors = scene(q["A"])["distractors"]
        counts.append(len(distractors))
        tracks_of_distractors = [clip.tracks[len(clip.tracks) - len(distractors) :] for clip in q.clips]
        for drawn_as, *tracks in zip(distractors, *tracks_of_distractors, strict=True):
            assert set(tracks[0].colour) == {drawn_as["colour"]} and not tracks[0].hidden.any()
            assert np.allclose(tracks[0].position[0], drawn_as["start"])
            assert all(np.array_equal(track.position, tracks[0].position) for track in tracks)
    assert set(counts) == {0, 1, 2}


@pytest.mark.parametrize("prop", PROPERTIES)
def test_both_sizes_show_one_world(prop: str, silent: None) -> None:
    for small, large in zip(of(prop, 2, "test"), of(prop, 2, "test", size=64), strict=True):
        for small_clip, large_clip in zip(small.clips, large.clips, strict=True):
            assert large_clip.frames.shape == (FRAMES, 64, 64, 3)
            for track, same in zip(small_clip.tracks, large_clip.tracks, strict=True):
                assert np.array_equal(track.position, same.position, equal_nan=True)
            pooled = large_clip.frames.reshape(FRAMES, 32, 2, 32, 2, 3).mean(axis=(2, 4))
            assert np.abs(pooled - small_clip.frames).mean() < 0.6
            assert np.abs(pooled - np.roll(small_clip.frames, 1, axis=2)).mean() > 1.2
    assert small.id == large.id and LAWFUL[prop].event == small.event


# Difficulty.


def texture(q: Scene) -> tuple[int, int]:
    return len(scene(q["A"])["waves"]), len(scene(q["A"])["distractors"])


def hidden_frames(q: Scene) -> np.ndarray:
    return np.flatnonzero(q["A"].tracks[0].hidden if q["A"].tracks[0].present[0] else q["B"].tracks[0].hidden)


def test_clean_scenes_are_plain_and_hidden_for_as_long_before_the_splice_as_after_it(blind: None) -> None:
    clean = MiniPhys("train", 36, difficulty="clean")
    assert clean.properties == ("permanence", "shape", "colour", "continuity", "inertia", "gravity")
    assert {q["A"].factors["stage"] for q in clean} == {"passing", "thrown"}
    assert {texture(q) for q in clean} == {(0, 0)}
    passing = [hidden_frames(q) for q in clean if q["A"].factors["stage"] == "passing"]
    assert all(abs((frames[0] + frames[-1]) / 2 - (SPLICE - 0.5)) <= 0.5 for frames in passing)


def test_hard_scenes_are_textured_crowded_and_hidden_for_long(blind: None) -> None:
    hard, usual = (MiniPhys("train", 66, difficulty=name) for name in ("hard", ""))
    assert hard.properties == PROPERTIES
    assert {distractors for _, distractors in map(texture, hard)} == {2, 3} and min(map(texture, hard))[0] > 0
    assert min(map(texture, usual)) == (0, 0)
    passing = ["permanence", "shape", "colour", "continuity", "inertia"]
    spans = [len(hidden_frames(q)) for q in MiniPhys("train", 30, passing, difficulty="hard")]
    assert min(spans) >= 7


@pytest.mark.parametrize("difficulty", ["clean", "hard"])
def test_worlds_of_another_difficulty_are_crossed_named_apart_and_have_scenes_of_their_own(difficulty: str) -> None:
    different, usual = MiniPhys("test", 12, difficulty=difficulty)[:], MiniPhys("test", 12)[:]
    assert all(q.id.startswith(f"miniphys-{difficulty}/test/") for q in different)
    assert not {q["A"].frames.tobytes() for q in different} & {q["A"].frames.tobytes() for q in usual}
    for a, b, c, d in ([clip.frames.astype(int) for clip in q.clips] for q in different if q.crossed):
        assert not (a + b - c - d).any()


def test_what_clean_scenes_do_not_show_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got clean miniphys property 'gate' · expected one of permanence, shape"):
        MiniPhys("test", 4, ["gate"], difficulty="clean")
    with pytest.raises(ValueError, match=r"got miniphys difficulty 'claen' .* did you mean 'clean'"):
        MiniPhys("test", 4, difficulty="claen")
