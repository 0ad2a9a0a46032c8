"""Dose-response: dose 0 is the unsteered model, a planted response is measured as it is; table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import steer
from analyses.steer import FITTED, MEASURES, Config, as_far_as, damage, dose_response, fit, responses, scores
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from figures import steer as figure

RANDOM = as_far_as("probe")
SMALL = Config(steps=(11,), blocks=(1, 2), doses=(-4.0, 4.0), randoms=1, sampling=2, batch_size=4)


def test_dose_0_is_unsteered_and_others_are_not(lens: DiTLens) -> None:
    quadruplets = MiniPhys("train", 10, ["inertia", "gravity"])[:]
    steered = fit(lens, quadruplets, SMALL, None)
    assert steered.block in (1, 2) and 0 <= steered.accuracy <= 1
    assert fit(lens, quadruplets, SMALL, (11, 2)).block == 2  # a control is steered where it is told
    result = dose_response(lens, MiniPhys("test", 2, ["inertia", "gravity"])[:], steered, SMALL)
    moved = result["values"].sel(measure="damage")
    assert (moved.sel(dose=0.0) == 0).all() and (moved.sel(dose=[-4.0, 4.0]) > 0).all()
    assert (result.erased.sel(measure="damage") > 0).all()
    still = result["values"].sel(dose=0.0)
    assert (still == still.isel(direction=0)).all()
    for name in FITTED:
        fitted, random = (steered.directions[n] for n in (name, f"{as_far_as(name)} 0"))
        assert fitted.spread * float(fitted.unit.norm()) == pytest.approx(random.spread * float(random.unit.norm()))


def test_damage_by_hand() -> None:
    plain = torch.ones(2, 1, 1, 2, 2)
    made = torch.stack([plain[0], 4 * plain[0]])
    assert damage(made, plain).tolist() == pytest.approx([0, 3])


def planted(slope: float) -> xr.Dataset:
    """Margins that grow with the dose along the probe, and nowhere else, from -0.1."""
    names = ["probe", "difference of means", f"{RANDOM} 0", f"{RANDOM} 1"]
    dose, n = np.array([-2.0, 0.0, 2.0]), 3
    values = np.zeros((1, len(names), len(dose), n, 2, len(MEASURES)))
    values[..., :-1] = -0.1
    values[:, 0, :, :, :, :-1] += slope * dose[:, None, None, None]
    values[:, 2, 2, :, :, -1], values[:, 3, 2, :, :, -1] = 1, 3
    coordinates = {"model": ["planted"], "direction": names, "dose": dose, "measure": list(MEASURES)}
    axes = ("model", "direction", "dose", "quadruplet", "pair", "measure")
    return xr.Dataset(
        {"values": (axes, values), "erased": (axes[:2] + axes[3:], values[:, :, 1])},
        coordinates | {"quadruplet": list("abc")},
    )


def test_a_planted_response_is_found() -> None:
    found = responses(planted(0.2)).isel(model=0, quadruplet=0)
    assert found.dose.values.tolist() == [-2, 0, 2, np.inf]
    assert found.shown.sel(kind="probe").values.tolist() == [0, 0, 1, 0]
    assert found.nearer.sel(kind="probe").values == pytest.approx([-0.4, 0, 0.4, 0])
    assert (found.nearer.sel(kind=RANDOM) == 0).all() and (found.shown.sel(kind="difference of means") == 0).all()
    assert float(found.damage.sel(kind=RANDOM, dose=2.0)) == 2  # the mean of 1 and 3
    change = scores(planted(0.2), change=True).sel(model="planted", kind="probe", end="middle")
    assert change.shown.values.tolist() == [0, 0, 1, 0]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["steer", *arguments])
    analyses.command.main(Config, steer.run, steer.table, figure.draw, "steer", steer.__doc__)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--train", "8", "--test", "4", "--steps", "11", "--blocks", "2", "--doses", "4", "--randoms", "1"]
    call([*sizes, "--sampling", "2", "--controls", "mini-wan-random"], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert told.count("dose 0 changes 0\n") == 2 and all(word in told for word in ("+4", "erased", RANDOM, "probe"))
    assert (tmp_path / "out" / "steer.pdf").stat().st_size > 5000


@pytest.mark.parametrize("arguments", [["--test", "1"], ["--randoms", "0"], ["--blocks"]])
def test_too_little_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(arguments, monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "expected at least 5, 2, 1, one and one" in capsys.readouterr().err
