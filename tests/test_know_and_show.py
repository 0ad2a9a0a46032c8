"""Knowing against showing: margins by hand, a model that knows or shows, or neither; table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import know_and_show
from analyses.know_and_show import ALL, LEAD, MEASURES, Config, gap, preferred, scores, showing, true_clips
from dit_lens import behaviour
from dit_lens.behaviour import FirstHalves
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from figures import know_and_show as figure

SIZES = ["--train", "11", "--test", "12", "--draws", "1", "--sigmas", "0.6", "--steps", "11", "--sampling", "2"]


@pytest.fixture(scope="module")
def batch() -> list[Quadruplet]:
    return MiniPhys("test", 6, ["colour", "inertia", "incline"])[:]


def planted(margin: np.ndarray) -> xr.Dataset:
    """A result of one model from margins (measure, quadruplet, pair); the last quadruplet is not crossed."""
    n = margin.shape[1]
    coordinates = {
        "model": ["planted"],
        "measure": list(MEASURES),
        "quadruplet": [str(i) for i in range(n)],
        "property": ("quadruplet", ["colour"] * (n - 2) + ["incline"] * 2),
        "crossed": ("quadruplet", [True] * (n - 2) + [False] * 2),
    }
    ceiling = np.tile([0.9, 0.8, -0.9, 0.1], (n, 1))
    return xr.Dataset(
        {
            "margin": (("model", "measure", "quadruplet", "pair"), margin[None]),
            "ceiling": (("quadruplet", "role"), ceiling),
        },
        coordinates,
    )


def test_scores_by_hand() -> None:
    margin = np.zeros((len(MEASURES), 6, 2))
    margin[0] = [[3, -1], [3, -1], [2, 1], [-1, 3], [-5, 1], [-5, 1]]  # content moves both pairs apart; the sum tells
    margin[1, :, 0] = [1, 1, -1, -1, 1, 1]
    result = planted(margin)
    votes = preferred(result).isel(model=0)
    assert votes.sel(measure="knowing").values.tolist() == [1, 1, 1, 1, 0, 0]
    assert (votes.sel(measure=LEAD[-1]) == 0.5).all()  # a tie
    measured = scores(result).isel(model=0)
    assert measured.share.sel(property=ALL).values[:3] == pytest.approx([1, 0.5, 0.5])
    assert measured.share.sel(property="incline").values[:3] == pytest.approx([0, 1, 0.5])
    assert measured.n.values.tolist() == [4, 4, 2]
    assert measured.ceiling.values == pytest.approx(1)
    result["ceiling"] = result.ceiling + xr.DataArray([0, 0, 2, 0], dims="role")  # C and D are taken for possible
    assert scores(result).ceiling.values == pytest.approx(0.5)
    assert gap(result, "planted") == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("ends", "wins"), [("possible", 1.0), ("impossible", 0.0)])
def test_who_goes_on_as_the_world_does_shows_it(
    ends: str, wins: float, lens: DiTLens, batch: list[Quadruplet], monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(lens: DiTLens, halves: FirstHalves, steps: int) -> torch.Tensor:
        return getattr(halves, ends)

    monkeypatch.setattr(behaviour, "continued", oracle)
    found = showing(lens, batch, Config(batch_size=4))
    assert found.shape == (4, 6, 2)
    assert (behaviour.shown(found[1:]) == wins).all()  # pixels, latents, encoder
    assert abs(behaviour.shown(found[0, :2].sum(-1)).mean() - wins) < 0.01  # a colour and an inertia, by the tracker


def test_the_ceiling_is_of_all_four_clips(lens: DiTLens, batch: list[Quadruplet]) -> None:
    seen = true_clips(lens, batch[:2])
    assert seen.ceiling.dims == ("quadruplet", "role") and seen.found.sizes["half"] == 2
    assert (seen.ceiling.sel(role=["A", "B"]) > 0).all() and (seen.ceiling.sel(role=["C", "D"]) < 0).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["know_and_show", *arguments])
    module = know_and_show
    analyses.command.main(Config, module.run, module.table, figure.draw, "know_and_show", module.__doc__)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call([*SIZES, "--controls", "mini-wan-random"], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert told.index("true clips through the autoencoder") < told.index("mini-wan-random")
    assert all(told.count(f"{measure}  ") == 2 for measure in MEASURES) and told.count("knowing - showing") == 2
    assert (tmp_path / "out" / "know_and_show.pdf").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--test", "1"], "1 test quadruplets"), (["--train", "10", "--test", "11"], "none of gate")],
)
def test_too_little_is_told(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(arguments, monkeypatch, tmp_path)
    assert stopped.value.code == 2 and says in capsys.readouterr().err
