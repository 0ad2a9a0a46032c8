"""Integrated gradients over pixels: they reach the logit through the codec, vanish on what is shared; table, figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import attribute_pixels
from analyses.attribute_pixels import BASELINES, Config, PixelLogit, attribute
from analyses.lines import drawn
from dit_lens import results
from dit_lens.attribution import Line, integrate
from dit_lens.capture import Route, evaluations, latent_splice, role_major, spliced_noise
from dit_lens.clips import Quadruplet, stack_frames
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.running import Request
from dit_lens.stats import interaction
from dit_lens.video import to_tensor
from figures import attribute_pixels as figure

TINY = Config(properties=("inertia", "colour"), test=2, nodes=12, limit=0.2)
READOUT = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def test() -> Sequence[Quadruplet]:
    return MiniPhys("test", TINY.test, TINY.properties)[:]


@pytest.fixture(scope="module")
def probe(lens: DiTLens) -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    sigma = lens.schedule(TINY.levels).sigmas[TINY.step]
    return Probe(weight, 0.0, 1.0, Reads(READOUT, TINY.step, sigma, "random"))


@pytest.fixture(scope="module")
def films(test: Sequence[Quadruplet]) -> torch.Tensor:
    return to_tensor(stack_frames(role_major(test)))


def logit_of(lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, path: str) -> PixelLogit:
    latents = lens.encode(role_major(test))
    given = latent_splice(latents, test[0]) if path == "continuation" else 0
    return PixelLogit(lens, probe, spliced_noise(latents, test, TINY.seed), given)


@pytest.mark.parametrize("path", ["continuation", "noising"])
def test_from_pixels_to_the_logit_is_the_route_that_the_probe_was_fitted_on(
    path, lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, films: torch.Tensor
) -> None:
    (fed,) = evaluations(lens, test, TINY.steps, Route(path)).values()
    with torch.no_grad():
        _, cache = lens.model.run(fed, Request(READOUT))
        found = logit_of(lens, test, probe, path)(films)
    torch.testing.assert_close(found, probe.of_activation(cache[READOUT]), rtol=1e-4, atol=1e-4)


def test_completeness_over_pixels_and_nothing_where_clips_agree(
    lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, films: torch.Tensor
) -> None:
    logit = logit_of(lens, test, probe, "continuation")
    possible, impossible = films, torch.cat([films[4:6], films[6:], films[:2], films[2:4]])  # A, B with C, D
    values, change, _ = integrate(logit, impossible, possible, Line(steps=12))
    with torch.no_grad():
        expected = logit(possible) - logit(impossible)
    torch.testing.assert_close(values.flatten(1).sum(1), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(change, expected)
    assert expected.abs().min() > 1e-4
    splice = test[0].splice
    assert not values[:2, :, :splice].any() and values[:2, :, splice:].any()
    assert (values[possible == impossible] == 0).all()


@pytest.fixture(scope="module")
def told(lens: DiTLens, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    return attribute(lens, TINY, test, probe)


def test_both_baselines_add_up_to_what_tells_the_pair_and_to_the_contrast(told: xr.Dataset) -> None:
    summed, change = told.heat.sum(["frame", "row", "column"]), told.logit.sel(role="A") - told.logit.sel(role="C")
    odd = interaction(told.logit.values)
    for baseline in BASELINES:
        np.testing.assert_allclose(summed.sel(baseline=baseline), change, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(told.by_frame.sel(baseline=baseline).sum("frame"), odd, rtol=0, atol=3e-5)
    assert np.abs(odd).min() > 5e-4 and np.abs(change).min() > 0.01
    assert float(told.delta.max()) < 0.01
    splice = int(told.splice[0])
    assert not told.heat.sel(baseline="paired clip").values[:, :splice].any()
    assert told.heat.sel(baseline="quadruplet mean").values[:, :splice].any()


def test_pairs_that_are_told_best_are_shown_one_of_each_property(told: xr.Dataset, test: Sequence[Quadruplet]) -> None:
    better = told.logit.copy(data=[[1.0, 0, 0, 9], [2.0, 9, 0, 0]])
    maps = drawn(told.assign(logit=better), test, range(17), 2)
    assert [name.split(":")[0] for name in maps.shown.values] == [test[1].property, test[0].property]
    assert maps.pixels.shape == (2, 2, 17, 32, 32, 3)
    np.testing.assert_array_equal(maps.pixels[0, 1], test[1].c.frames)
    np.testing.assert_array_equal(maps.heat.isel(shown=0), told.heat.isel(quadruplet=1))
    same = (maps.pixels[0, 0] == maps.pixels[0, 1]).all(["row_drawn", "column_drawn", "rgb"])
    np.testing.assert_array_equal(maps.shown_agree[0], same)
    assert same[0] and not same[-1]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["attribute_pixels", *arguments])
    run, table = attribute_pixels.run, attribute_pixels.table
    analyses.command.main(Config, run, table, figure.draw, "attribute_pixels", attribute_pixels.__doc__)


FEW = ["--controls", "--properties", "inertia", "--train", "10", "--test", "4", "--nodes", "2", "--batch-size", "10"]


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call([*FEW, "--limit", "99"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert all(baseline in printed for baseline in BASELINES) and "largest delta" in printed
    assert (tmp_path / "out" / "attribute_pixels.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "attribute_pixels.nc")
    splice = int(result.splice[0])
    paired = result.by_frame.sel(baseline="paired clip")
    assert paired.sizes["frame"] == 17 and bool((np.abs(paired).sum("frame") > 0).all()) and splice == 9


def test_a_line_that_does_not_converge_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call([*FEW, "--limit", "1e-9"], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
