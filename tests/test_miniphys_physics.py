"""What happens in miniphys: each law holds on the tracks of possible clips and breaks where a crossing is spliced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_lens.clips import Clip, Scene, Track
from dit_lens.toy import miniphys
from dit_lens.toy.miniphys import FRAMES, SPLICE, MiniPhys
from dit_lens.toy.miniphys.physics import WALL
from dit_lens.toy.miniphys.scenes import COMPLEMENTS, WORLD

# The engine finds a collision up to a sixteenth of a frame late, which loses up to an eighth of a frame's way.
LATE = 0.4


def of(prop: str, count: int = 24, split: str = "train", **options: Any) -> list[Scene]:
    return MiniPhys(split, count, [prop], **options)[:]


def scene(clip: Clip) -> dict[str, Any]:
    return clip.factors["scene"]


def cast(clip: Clip) -> dict[str, Any]:
    return clip.factors["first"]


@pytest.fixture(autouse=True)
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures: only the tracks are looked at."""
    monkeypatch.setattr(miniphys, "draw_frames", no_frames)


def no_frames(scene: Any, wall: Any, behind: Any, before: Any, span: slice, size: int) -> np.ndarray:
    return np.zeros((span.stop - span.start, size, size, 3))


def turns(track: Track, axis: int) -> np.ndarray:
    """The frames after which the velocity along an axis changes its sign."""
    return np.flatnonzero(np.diff(np.sign(track.velocity[:, axis])))


def beside_occluder(clip: Clip) -> np.ndarray:
    """In which frames the object is at least half in sight."""
    centre, width = scene(clip)["occluder"]
    x = clip.tracks[0].position[:, 0]
    return (np.abs(x - centre) >= width / 2) & (x > 0) & (x < WORLD)


# Where nothing acts.


@pytest.mark.parametrize("prop", ["shape", "colour", "continuity", "inertia", "exchange", "gate"])
def test_what_nothing_acts_upon_keeps_its_velocity(prop: str) -> None:
    for q in of(prop, 12):
        for track in (*q["A"].tracks, *q["B"].tracks):
            assert np.allclose(np.diff(track.position, axis=0), track.velocity[:-1])
            assert (track.velocity == track.velocity[0]).all()
        if prop == "inertia":
            assert turns(q["C"].tracks[0], 0).tolist() == turns(q["D"].tracks[0], 0).tolist() == [SPLICE - 1]


def test_continuity_changes_the_place_of_a_path_or_of_a_thing_at_rest() -> None:
    stages = set()
    for q in of("continuity"):
        apart = np.abs(q["A"].tracks[0].position - q["B"].tracks[0].position).max(0)
        stages.add(q["A"].factors["stage"])
        along, across = (1, 0) if q["A"].factors["stage"] == "passing" else (0, 1)
        assert apart[across] == 0 and apart[along] >= (8 if along else 6)
        jump = np.abs(np.diff(q["C"].tracks[0].position, axis=0) - q["C"].tracks[0].velocity[:-1])[:, along]
        assert np.flatnonzero(jump > 1).tolist() == [SPLICE - 1]
    assert stages == {"passing", "resting"}


# Gravity.


def energy(track: Track, g: float) -> np.ndarray:
    """Kinetic and potential, per unit of mass."""
    return (track.velocity**2).sum(1) / 2 - g * track.position[:, 1]


def test_a_thrown_ball_falls_by_g_but_where_it_meets_the_ground() -> None:
    flights = 0
    for q in of("gravity"):
        for clip in (q["A"], q["B"]):
            track, g = clip.tracks[0], scene(clip)["gravity"]
            free = np.ones(FRAMES - 2, bool)
            for frame in np.flatnonzero((track.velocity[:-1, 1] > 0) & (track.velocity[1:, 1] < 0)):
                free[max(frame - 1, 0) : frame + 2] = False  # the second differences beside the collision
            assert np.allclose(np.diff(track.position[:, 1], 2)[free], g)
            assert not free.all() or cast(clip)["arc"] == "over"
            assert np.allclose(track.velocity[:, 0], track.velocity[0, 0])
            flights += free.sum()
    assert flights > 24 * 2 * 10


def test_the_ground_holds_and_returns_the_energy_and_a_crossing_does_not() -> None:
    kept, lost = [], []
    for q in of("gravity", 60):
        g = scene(q["A"])["gravity"]
        for clip in (q["A"], q["B"]):
            floor = scene(clip)["ground"] - scene(clip)["radius"]
            assert (clip.tracks[0].position[:, 1] <= floor + 0.2).all(), clip.id
            assert np.ptp(energy(clip.tracks[0], g)) < 0.02 * 36 * g
        kept.append(np.ptp(energy(q["A"].tracks[0], g)))
        lost.append(np.ptp(energy(q["C"].tracks[0], g)))
    assert np.mean(lost) > 20 * np.mean(kept)


def height_at(track: Track, time: float, g: float) -> float:
    """By free flight from the last frame before."""
    frame = int(time)
    rest = time - frame
    return track.position[frame, 1] + rest * track.velocity[frame, 1] + g * rest**2 / 2


def test_both_arcs_go_in_and_come_out_at_one_height_and_part_in_between() -> None:
    for q in of("gravity", 60):
        s = scene(q["A"])
        half = (s["occluder"][1] / 2 - s["radius"]) / s["speed"]
        apart = [
            abs(height_at(q["A"].tracks[0], time, s["gravity"]) - height_at(q["B"].tracks[0], time, s["gravity"]))
            for time in (s["middle"] - half, s["middle"] + half, s["middle"])
        ]
        assert max(apart[:2]) < LATE < 5 < apart[2]


# The incline.


def test_a_body_on_a_ramp_has_the_acceleration_of_its_slope_and_after_a_crossing_that_of_the_other() -> None:
    for q in of("incline"):
        for clip in q.clips:
            angle, g = np.radians(scene(clip)["ramp"]), scene(clip)["gravity"]
            assert clip.factors["first"]["slope"] == scene(clip)["ramp"]
            along, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            gained = np.diff(clip.tracks[0].velocity @ along)
            slopes = [np.radians(clip.factors[half]["slope"]) for half in ("first", "second")]
            assert np.allclose(gained[: SPLICE - 1], g * np.sin(slopes[0]))
            assert np.allclose(gained[SPLICE:], g * np.sin(slopes[1]))
            assert (slopes[0] == slopes[1]) == clip.possible
            assert np.allclose(clip.tracks[0].position @ normal, (clip.tracks[0].position @ normal)[0], atol=0.02)
        assert np.sign(scene(q["A"])["ramp"]) == np.sign(scene(q["B"])["ramp"])


# Walls, gates and queues.


def test_a_wall_throws_back_and_no_wall_lets_pass() -> None:
    for q in of("solidity"):
        assert [cast(clip)["blocked"] for clip in (q["A"], q["B"])].count(True) == 1
        for clip in (q["A"], q["B"]):
            way, track = cast(clip)["direction"], clip.tracks[0]
            face = scene(clip)["occluder"][0]  # the centre of the object where it touches the wall
            beyond = way * (track.position[:, 0] - face)
            if cast(clip)["blocked"]:
                (turn,) = turns(track, 0)
                assert abs(turn + 0.5 - scene(clip)["middle"]) < 1 and track.hidden[turn] and track.hidden[turn + 1]
                assert beyond.max() < LATE
                assert np.allclose(np.abs(track.velocity[:, 0]), scene(clip)["speed"])
            else:
                assert not len(turns(track, 0)) and beyond.max() > 5


def test_a_collision_turns_in_sight_of_the_wall_and_before_going_in() -> None:
    for split in ("train", "unseen"):
        for q in of("collision", split=split):
            (turn,) = turns(q["A"].tracks[0], 0)
            hidden, side = np.flatnonzero(q["A"].tracks[0].hidden)[0], np.sign(scene(q["A"])["wall"] - WORLD / 2)
            assert turn <= 3 and turn + 2 < hidden and beside_occluder(q["A"])[turn : turn + 2].all()
            face = side * scene(q["A"])["wall"] - WALL - scene(q["A"])["radius"]
            assert face - 2.5 < (side * q["A"].tracks[0].position[:, 0]).max() < face + LATE
            assert side * q["A"].tracks[0].velocity[0, 0] > 0 > side * q["A"].tracks[0].velocity[-1, 0]
            assert not len(turns(q["B"].tracks[0], 0)[turns(q["B"].tracks[0], 0) < hidden + 4])
            assert SPLICE - 1 in turns(q["C"].tracks[0], 0) and SPLICE - 1 in turns(q["D"].tracks[0], 0)


def test_a_gate_paints_what_passes_it_in_plain_sight() -> None:
    repainted = []
    for q in of("gate"):
        x, paint = scene(q["A"])["gate"]
        for clip in (q["A"], q["B"]):
            track, way = clip.tracks[0], cast(clip)["direction"]
            past = way * (track.position[:, 0] - x) > 0
            assert np.array_equal(track.colour, np.where(past, paint, cast(clip)["colour"]))
            assert (beside_occluder(clip) & past).sum() >= 2 and (beside_occluder(clip) & ~past)[SPLICE:].sum() >= 1
            assert not track.hidden[np.flatnonzero(past)[0] - 1 :].any()
            repainted.append(track.colour[0] != track.colour[-1])
        assert {cast(q["A"])["colour"], cast(q["B"])["colour"]} == {paint, COMPLEMENTS[paint]}
        assert q["C"].tracks[0].colour[SPLICE - 1] != q["C"].tracks[0].colour[SPLICE]
    assert sum(repainted) == len(repainted) / 2


def test_who_went_in_first_comes_out_first_and_after_a_crossing_in_the_other_colour() -> None:
    for q in of("exchange"):
        leader, follower = q["A"].tracks[:2]
        assert leader.hidden[[SPLICE - 1, SPLICE]].all() and follower.hidden[[SPLICE - 1, SPLICE]].all()
        went_in = [np.flatnonzero(track.hidden)[0] for track in (leader, follower)]
        came_out = [np.flatnonzero(track.hidden)[-1] for track in (leader, follower)]
        assert went_in[0] + 2 < went_in[1] and came_out[0] + 2 < came_out[1]
        gap = np.abs(leader.position[:, 0] - follower.position[:, 0])
        assert (gap > leader.radius + follower.radius).all()
        for before, after in zip(q["A"].tracks[:2], q["C"].tracks[:2], strict=True):
            assert set(after.colour[:SPLICE]) == set(before.colour)
            assert set(after.colour[SPLICE:]) == {COMPLEMENTS[before.colour[0]]}
        assert leader.colour[0] == COMPLEMENTS[follower.colour[0]]
