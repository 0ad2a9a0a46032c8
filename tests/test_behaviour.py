"""Behaviour: truth shows the possible outcome, its crossing the impossible one; what ignores the past adds up to 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.toy import behaviour, tracker
from dit_lens.toy.behaviour import FirstHalves, Outcomes, Thing, distance
from dit_lens.toy.miniphys import PROPERTIES, MiniPhys
from dit_lens.toy.miniphys.scenes import COLOURS, SHAPES

SPLICE = 9


@pytest.fixture(scope="module")
def batch() -> list[Scene]:
    return MiniPhys("test", len(PROPERTIES))[:]


@pytest.fixture(scope="module")
def halves(lens: DiTLens, batch: list[Scene]) -> FirstHalves:
    return FirstHalves.of(lens, batch)


@pytest.fixture(scope="module")
def crossed(batch: list[Scene]) -> np.ndarray:
    return np.flatnonzero([q.crossed for q in batch])


@pytest.mark.parametrize("index", range(len(PROPERTIES)), ids=PROPERTIES)
def test_the_tracker_takes_clips_as_rendered_for_what_they_are(index: int, batch: list[Scene]) -> None:
    for pair in batch[index].pairs("first"):
        outcomes = Outcomes.of(pair)
        tracked = [
            tracker.track(clip.frames[SPLICE:], colours=tuple(COLOURS), shapes=SHAPES)
            for clip in (pair.possible, pair.impossible)
        ]
        possible, impossible = (outcomes.margin(things) for things in tracked)
        if batch[index].crossed:
            assert possible > 0.9 and impossible < -0.9
        else:  # ramps differ by a part of a pixel
            assert possible > 0 > impossible


def test_outcomes_are_differs_in_what_the_property_crosses(batch: list[Scene]) -> None:
    differing = {q.property: Outcomes.of(q.pairs("first")[0]).differs_in for q in batch}
    assert {p for p, names in differing.items() if names == ("colour",)} == {"colour", "exchange", "gate"}
    assert differing["shape"] == ("shape",)
    assert {p for p, names in differing.items() if not names} == {*PROPERTIES} - {"colour", "exchange", "gate", "shape"}


def test_distance_by_hand() -> None:
    red, blue = Thing((10.0, 10.0), "red", "disc"), Thing((12.0, 10.0), "blue", "disc")
    assert distance([red], [red]) == 0 and distance([red], []) == distance([], [red]) == 1
    assert distance([red], [blue]) == pytest.approx(0.5)  # two of four world pixels
    assert distance([red], [blue], ["colour"]) == 1 and distance([red], [blue], ["shape"]) == pytest.approx(0.5)
    assert distance([red, blue], [blue, red], ["colour"]) == 0
    assert distance([red], [Thing((20.0, 10.0), "red", "disc")]) == 1
    small = blue._replace(clear=False)
    assert distance([], [small]) == 0 and distance([blue], [small]) == 0 and distance([red, blue], [red, small]) == 0


def test_latents_and_pixels_of_truth_score_in_full(lens: DiTLens, halves: FirstHalves, crossed: np.ndarray) -> None:
    possible, impossible = (behaviour.margins(lens, halves, x) for x in (halves.possible, halves.impossible))
    assert possible[:, 1:] == pytest.approx(1, abs=1e-5) and impossible[:, 1:] == pytest.approx(-1, abs=1e-5)
    middle = behaviour.margins(lens, halves, (halves.possible + halves.impossible) / 2)
    assert middle[:, 2] == pytest.approx(0, abs=1e-5) and np.abs(middle[:, 3]).max() < 1
    # the codec of the tests is fitted on few clips; the tracker reads most of what it leaves
    both = np.concatenate([crossed, crossed + len(halves.pairs) // 2])
    assert behaviour.shown(possible[both, 0]).mean() > 0.8 and behaviour.shown(impossible[both, 0]).mean() < 0.2


def test_what_ignores_the_first_half_adds_up_to_nothing(
    lens: DiTLens, halves: FirstHalves, crossed: np.ndarray, generator: torch.Generator
) -> None:
    count = len(halves.pairs) // 2
    half = torch.randn(halves.possible[:count].shape, generator=generator)
    margins = behaviour.margins(lens, halves, torch.cat([half, half]))
    assert margins[crossed] + margins[crossed + count] == pytest.approx(0, abs=1e-5)
    assert np.abs(margins).max() > 0.01


def test_a_continuation_keeps_the_first_half_and_only_the_second_is_scored(lens: DiTLens, halves: FirstHalves) -> None:
    continuation = behaviour.continued(lens, halves, steps=2)
    assert torch.equal(continuation[:, :, : halves.cut], halves.possible[:, :, : halves.cut])
    assert not torch.equal(continuation[:, :, halves.cut :], halves.possible[:, :, halves.cut :])
    blanked = continuation.clone()
    blanked[:, :, : halves.cut] = 0
    assert np.array_equal(
        behaviour.margins(lens, halves, blanked)[:, 2], behaviour.margins(lens, halves, continuation)[:, 2]
    )


def test_the_independent_encoder_is_none_of_the_models_own(halves: FirstHalves) -> None:
    """It takes 4k + 1 frames and is shown the first one longer; all that follow count."""
    video = halves.possible_video
    latents, longer = (behaviour.encoded_apart(x) for x in (video, torch.cat([video[:, :, :1], video], 2)))
    assert video.shape[2] == 8 and latents.shape[1:] == (16, 3, 8, 8) and torch.equal(latents, longer)
    for frame in range(8):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        assert not torch.allclose(behaviour.encoded_apart(changed), latents, atol=1e-3)


def test_a_tie_counts_one_half() -> None:
    assert behaviour.shown(np.array([0.2, 0.0, -1.0])).tolist() == [1, 0.5, 0]


def test_wrong_input_is_told(lens: DiTLens, halves: FirstHalves, batch: list[Scene]) -> None:
    with pytest.raises(ValueError, match="shares its second half"):
        Outcomes.of(batch[0].pairs("second")[0])
    with pytest.raises(ValueError, match="expected 8"):
        halves.outcomes[0].margin([[]] * 17)
    with pytest.raises(ValueError, match="one for each of 22 first halves"):
        behaviour.margins(lens, halves, halves.possible[:3])
    with pytest.raises(ValueError, match="no quadruplets"):
        FirstHalves.of(lens, [])
    (unseen,) = (q for q in MiniPhys("unseen", 11, ["colour"]) if q.id.endswith("000001-colour-colour"))
    with pytest.raises(ValueError, match="expected colours and shapes that models were trained on"):
        Outcomes.of(unseen.pairs("first")[0])
    bare = replace(batch[0]["A"], factors={"splice": SPLICE})
    with pytest.raises(ValueError, match="tells no scene"):
        Outcomes.of(replace(batch[0].pairs("first")[0], possible=bare))
