"""Framing: the number of frames that autoencoders take, out of any video, by a policy that is never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from video_files import noise

from dit_lens.datasets import Framing


@pytest.mark.parametrize("multiple", [4, 8])
@pytest.mark.parametrize("total", range(1, 40))
def test_every_policy_gives_a_multiple_and_one_more(total: int, multiple: int) -> None:
    taken = {p: Framing(multiple=multiple, policy=p).indices(total) for p in ("resample", "drop-tail", "pad-last")}
    assert {(len(indices) - 1) % multiple for indices in taken.values()} == {0}
    assert taken["drop-tail"] == tuple(range(len(taken["drop-tail"]))) and total - multiple < len(taken["drop-tail"])
    assert taken["pad-last"] == tuple(min(i, total - 1) for i in range(len(taken["pad-last"])))
    assert total <= len(taken["pad-last"]) < total + multiple
    assert len(taken["resample"]) == len(taken["drop-tail"])
    assert taken["resample"][0] == 0 and (taken["resample"][-1] == total - 1 or len(taken["resample"]) == 1)
    assert sorted(set(taken["resample"])) == list(taken["resample"])


def test_by_hand() -> None:
    assert Framing(multiple=4, policy="drop-tail").indices(100) == tuple(range(97))
    assert Framing(multiple=8, policy="pad-last").indices(100) == (*range(100), *[99] * 5)
    assert Framing(count=5, policy="resample").indices(9) == (0, 2, 4, 6, 8)
    assert Framing(count=3, policy="drop-tail", step=2).indices(9) == (0, 2, 4)
    assert Framing(step=3).indices(8) == (0, 3, 6)
    assert Framing().indices(3) == (0, 1, 2)


def test_rates_follow_the_frames_that_are_used() -> None:
    resampled = Framing(count=5, policy="resample")
    assert resampled.rate(30, resampled.indices(9)) == 15
    assert Framing(step=3).rate(30, (0, 3, 6)) == 10
    assert Framing(count=9, policy="pad-last").rate(30, (0, 1, 1)) == 30


def test_sizes_are_cropped_or_letterboxed_as_it_is_said() -> None:
    wide = noise(2, 0, 4, 8)
    assert np.array_equal(Framing().shape(wide), wide)
    assert np.array_equal(Framing(size=(4, 4), fit="crop").shape(wide), wide[:, :, 2:6])
    assert (Framing(size=(8, 8), fit="letterbox").shape(wide)[:, [0, 1, 6, 7]] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 5}, r"got frame policy None for 5 · expected one of resample, drop-tail, pad-last"),
        ({"multiple": 4}, r"got frame policy None for 4"),
        ({"policy": "resample"}, r"which nothing needs · expected None"),
        ({"count": 5, "policy": "pad"}, r"did you mean 'pad-last'"),
        ({"size": (8, 8)}, r"got way to fit None for \(8, 8\)"),
        ({"count": 6, "multiple": 4, "policy": "resample"}, r"got count=6 · expected 4k\+1 frames"),
        ({"step": 0}, r"at least 1"),
        ({"count": 0}, r"at least 1"),
        ({"multiple": -4, "policy": "resample"}, r"at least 1"),
    ],
)
def test_what_is_not_said_is_not_chosen(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Framing(**options)


def test_a_policy_that_cannot_make_the_number_says_so_by_the_film() -> None:
    for policy in ("resample", "drop-tail"):
        with pytest.raises(ValueError, match="got clip with 4 frames · expected at least 5"):
            Framing(count=5, policy=policy).indices(4, "clip")
    with pytest.raises(ValueError, match="got clip with 6 frames · expected at most 5 to pad"):
        Framing(count=5, policy="pad-last").indices(6, "clip")
