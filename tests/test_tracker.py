"""The tracker: exact on what miniphys renders, says what it sees in part only, and its score counts each mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dit_lens.clips import Clip, Scene
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.toy import tracker
from dit_lens.toy.miniphys import PROPERTIES, MiniPhys
from dit_lens.toy.miniphys.rendering import distance
from dit_lens.toy.miniphys.scenes import COLOURS, PALETTE, SHAPES, UNSEEN_SHAPES, WORLD
from dit_lens.toy.tracker import Detection
from dit_lens.toy.tracker.scoring import visible_shares
from dit_lens.video import to_frames, to_tensor

MAIN = 2.35  # radius from which on an object is no distractor
OCCLUDER = (0.35, 0.33, 0.36)


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    """One of each property."""
    return MiniPhys("test", len(PROPERTIES))[:]


def canvas(size: int = 32) -> np.ndarray:
    """A background with sensor noise."""
    noise = 0.02 * np.random.default_rng(0).standard_normal((size, size, 3))
    return np.array([0.50, 0.47, 0.52]) + noise


def paint(frame: np.ndarray, far: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    mask = np.clip(0.5 - far * len(frame) / WORLD, 0, 1)[..., None]
    return frame + mask * (np.asarray(colour) - frame)


def put(frame: np.ndarray, shape: str, colour: str, radius: float, x: float, y: float) -> np.ndarray:
    """The frame with an object before everything in it."""
    centres = (np.arange(len(frame)) + 0.5) * WORLD / len(frame)
    return paint(frame, distance(shape, radius, centres[None, :] - x, centres[:, None] - y), PALETTE[colour])


def band(frame: np.ndarray, left: float, right: float, colour: tuple[float, ...]) -> np.ndarray:
    """The frame with an upright band over its whole height."""
    columns = (np.arange(len(frame)) + 0.5) * WORLD / len(frame) + np.zeros((len(frame), 1))
    return paint(frame, np.maximum(left - columns, columns - right), colour)


def read(frames: np.ndarray) -> list[list[Detection]]:
    """What is found among the colours and shapes of the test split."""
    return tracker.track(frames, colours=tuple(COLOURS), shapes=SHAPES)


def scores(detections: list[list[list[Detection]]], clips: list[Clip]) -> dict[str, float]:
    """Of main objects, and the precision of all detections."""
    matches = [
        match for of_clip, clip in zip(detections, clips, strict=True) for match in tracker.compare(of_clip, clip)
    ]
    main = tracker.summarise(match for match in matches if match.radius >= MAIN)
    return main | {"precision": tracker.summarise(matches)["precision"]}


@pytest.mark.parametrize("size", [32, 64])
def test_rendered_truth_is_read_exactly_and_another_clips_truth_is_not(size: int) -> None:
    clips = [q["A"] for q in MiniPhys("test", len(PROPERTIES) if size == 32 else 7, size=size)]
    detections = [read(clip.frames) for clip in clips]
    right, wrong = scores(detections, clips), scores(detections, clips[1:] + clips[:1])
    assert right["objects"] > 20
    assert (right["recall"], right["colour"], right["shape"]) == (1, 1, 1)
    assert right["within_0.3"] >= 0.99 and right["error"] < 0.03
    assert right["whole"] > 0.9 and right["part_whole"] < 0.05 and right["precision"] > 0.99
    assert wrong["recall"] < 0.6 and wrong["precision"] < 0.7


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", [*SHAPES, *UNSEEN_SHAPES])
def test_a_drawn_object_is_found_where_it_was_put(shape: str, size: int) -> None:
    for i, colour in enumerate(PALETTE):
        x, y, radius = 9.3 + 1.7 * i, 20.1 - 1.3 * i, 2.5 + 0.1 * i
        (detected,) = tracker.find_objects(put(canvas(size), shape, colour, radius, x, y))
        assert (detected.colour, detected.shape, detected.whole) == (colour, shape, True)
        assert np.allclose(detected.position, (x, y), atol=0.15) and abs(detected.radius - radius) < 0.15


def test_grey_things_are_no_objects() -> None:
    assert tracker.find_objects(canvas()) == []
    assert tracker.find_objects(band(canvas(), 10, 20, OCCLUDER)) == []
    assert len(tracker.find_objects(put(canvas(), "disc", "red", 3, 16, 16))) == 1


def test_bytes_and_floats_are_read_alike() -> None:
    frame = put(canvas(), "square", "blue", 3, 12.4, 17.8).clip(0, 1)
    (first,), (second,) = tracker.find_objects(frame), tracker.find_objects((255 * frame).round().astype(np.uint8))
    assert np.allclose(first.position, second.position, atol=0.02)


@pytest.mark.parametrize("edge", [12.0, 9.5, 8.0])
def test_what_an_occluder_cuts_off_is_placed_but_not_called_whole(edge: float) -> None:
    bare = put(canvas(64), "disc", "green", 3, 9, 15)
    (free,), (cut,) = (tracker.find_objects(frame) for frame in (bare, band(bare, edge, 28, OCCLUDER)))
    assert free.whole and cut.whole is (edge >= 12)
    assert np.allclose(cut.position, (9, 15), atol=0.3) and (cut.colour, cut.shape) == ("green", "disc")


def test_what_leaves_the_frame_is_placed_but_not_called_whole() -> None:
    (detected,) = tracker.find_objects(put(canvas(64), "square", "yellow", 3, 31, 15))
    assert not detected.whole and np.allclose(detected.position, (31, 15), atol=0.3)


def test_an_object_that_covers_another_is_whole_and_the_other_is_not() -> None:
    frame = put(put(canvas(64), "square", "blue", 3.2, 16, 16), "disc", "red", 1.8, 19, 16)
    big, small = tracker.find_objects(frame)
    assert (big.colour, big.whole, small.colour, small.whole) == ("blue", False, "red", True)
    assert np.allclose(big.position, (16, 16), atol=0.3) and np.allclose(small.position, (19, 16), atol=0.3)


@pytest.mark.parametrize("x", [5.0, 13.2, 15.0, 16.8])
def test_a_gate_is_no_object_and_what_passes_it_is_one_in_the_colour_of_its_centre(x: float) -> None:
    gate = band(canvas(64), 14.4, 15.6, PALETTE["red"])
    left, right = (put(gate, "square", colour, 3, x, 20) for colour in ("green", "red"))
    beyond = (np.arange(64) + 0.5) / 2 > 15
    assert tracker.find_objects(gate) == []
    (detected,) = tracker.find_objects(np.where(beyond[None, :, None], right, left))
    assert np.allclose(detected.position, (x, 20), atol=0.3) and detected.shape == "square"
    assert detected.colour == ("red" if x > 15.6 else "green") or x == 15


def test_colours_survive_a_codec_and_places_nearly(world: list[Scene], codec: AutoencoderPatchPCA) -> None:
    detections = []
    for quadruplet in world[:7]:
        latents = codec.encode(to_tensor(quadruplet["A"].frames[None]), return_dict=False)[0].mode()
        frames = to_frames(codec.decode(latents, return_dict=False)[0])[0]
        detections.append(read(frames))
    main = scores(detections, [q["A"] for q in world[:7]])
    assert main["recall"] > 0.85 and main["colour"] > 0.97 and main["error"] < 0.5 and main["part_whole"] < 0.4


def detection(x: float, colour: str = "red", radius: float = 3.0) -> Detection:
    return Detection((x, 10.0), colour, "disc", radius, True, 3 * radius**2, 0.03)


def test_an_object_is_followed_through_its_absence_and_a_far_one_is_another() -> None:
    frames = [
        [detection(4), detection(18, "blue", 1.8)],
        [detection(6), detection(18, "blue", 1.8)],
        [],
        [],
        [detection(12)],
        [detection(31)],
    ]
    main, small, far = tracker.follow(frames)
    assert np.allclose(main.position[:, 0], [4, 6, np.nan, np.nan, 12, np.nan], equal_nan=True)
    assert np.allclose(far.position[-1], (31, 10)) and np.isnan(far.position[:-1]).all()
    assert list(small.colour) == ["blue", "blue", "", "", "", ""] and list(small.whole) == [True] * 2 + [False] * 4
    assert tracker.follow([]) == []


def test_a_new_colour_does_not_end_a_track_but_its_own_colour_is_preferred() -> None:
    (single,) = tracker.follow([[detection(4)], [], [detection(7, "green")]])
    assert list(single.colour) == ["red", "", "green"]
    two = tracker.follow([[detection(4), detection(8, "green")], [detection(6, "green"), detection(6.2)]])
    assert sorted(list(track.colour) for track in two) == [["green", "green"], ["red", "red"]]


def test_main_objects_are_followed_along_their_true_paths(world: list[Scene]) -> None:
    for clip in (q["A"] for q in world if q.property not in ("permanence", "exchange")):  # none there, or two alike
        main = tracker.follow(read(clip.frames))[0]
        off = np.linalg.norm(main.position - clip.tracks[0].position, axis=1)
        assert main.whole.any() and (off[main.whole] < 0.5).all()


def test_nothing_found_is_nothing_recalled_and_each_mistake_is_counted(world: list[Scene]) -> None:
    clip = next(q["A"] for q in world if q.property == "inertia")
    detections = tracker.track(clip.frames)

    def summary(change) -> dict[str, float]:
        return tracker.summarise(tracker.compare([[change(each) for each in frame] for frame in detections], clip))

    none = tracker.summarise(tracker.compare([[] for _ in detections], clip))
    assert none["recall"] == 0 and np.isnan(none["precision"])
    true, moved = summary(lambda d: d), summary(lambda d: replace(d, position=(d.position[0] + 1, d.position[1])))
    assert true["recall"] == true["colour"] == true["shape"] == true["precision"] == 1 and true["error"] < 0.1
    assert moved["error"] == pytest.approx(1, abs=0.1) and moved["within_0.3"] == 0 and moved["colour"] == 1
    assert summary(lambda d: replace(d, colour="lime"))["colour"] == 0
    assert summary(lambda d: replace(d, shape="cross"))["shape"] == 0
    assert summary(lambda d: replace(d, position=(-20.0, -20.0)))["precision"] == 0


def test_visible_shares_are_none_where_hidden_and_all_before_the_occluder(world: list[Scene]) -> None:
    hidden = shown = 0
    for clip in (clip for q in world for clip in q.clips):
        shares = visible_shares(clip)
        for share, truth in zip(shares, clip.tracks, strict=True):
            assert (share[truth.hidden | ~truth.present] == 0).all()
            hidden, shown = hidden + int(truth.hidden.sum()), shown + int((share == 1).sum())
    assert hidden > 100 and shown > 100


def test_mistakes_are_told(world: list[Scene]) -> None:
    clip = world[0]["A"]
    with pytest.raises(ValueError, match=r"got a frame of shape .* expected \(H, H, 3\) · for several frames, track"):
        tracker.find_objects(clip.frames)
    with pytest.raises(ValueError, match="did you mean 'green'"):
        tracker.find_objects(clip.frames[0], colours=("gren",))
    with pytest.raises(ValueError, match="did you mean 'disc'"):
        tracker.find_objects(clip.frames[0], shapes=("disk",))
    with pytest.raises(ValueError, match="got detections in 1 frames of 17"):
        tracker.compare([[]], clip)
    with pytest.raises(ValueError, match="tells no scene · expected a clip of miniphys"):
        visible_shares(replace(clip, factors={}))
