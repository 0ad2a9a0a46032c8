"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.toy.miniphys import MiniPhys


def test_load_hands_the_options_to_the_data_set() -> None:
    loaded = dl.datasets.load("miniphys", split="train", quadruplets=2, properties=["colour"], seed=3)
    direct = MiniPhys("train", 2, ["colour"], 3)
    assert len(loaded) == 2
    assert [q.id for q in loaded] == [q.id for q in direct]
    assert np.array_equal(loaded[1]["C"].frames, direct[1]["C"].frames)
    assert not np.array_equal(loaded[1]["C"].frames, MiniPhys("train", 2, ["colour"], 4)[1]["C"].frames)


def test_load_hands_size_and_law_to_the_data_set() -> None:
    (large,) = dl.datasets.load("miniphys", quadruplets=1, size=64)
    assert large["A"].frames.shape == (17, 64, 64, 3) and large["A"].possible
    (lawless,) = dl.datasets.load("miniphys", quadruplets=1, law="lawless")
    assert lawless["A"].frames.shape == (17, 32, 32, 3) and lawless["A"].possible is None


def test_an_unknown_data_set_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got data set 'minphys' .* did you mean 'miniphys'"):
        dl.datasets.load("minphys")


def test_an_option_that_the_data_set_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'quadruplets'"):
        dl.datasets.load("miniphys", quadruples=3)


@pytest.mark.parametrize("name", sorted(set(dl.datasets.NAMES) - {"miniphys"}))
def test_what_lies_on_disk_asks_for_its_root_and_names_what_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"got no root for {name} · expected the folder"):
        dl.datasets.load(name)
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        dl.datasets.load(name, root=tmp_path)
    with pytest.raises(ValueError, match=f"option of {name} 'roots' .* did you mean 'root'"):
        dl.datasets.load(name, roots=tmp_path)
