"""Integrated gradients over the noised latent: what they add up to, where they vanish, baselines; table and figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import attribute_latents
from analyses.attribute_latents import BASELINES, Config, attribute, clip_frames
from analyses.frozen_probe import route
from analyses.lines import drawn, with_noise_alone
from dit_lens import results
from dit_lens.attribution import LATENT
from dit_lens.capture import latent_splice, role_major, spliced_noise, travel
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.running import Request
from dit_lens.stats import interaction
from figures import attribute_latents as figure

TINY = Config(properties=("inertia", "colour"), test=2, nodes=10, levels=4, step=3, limit=0.2)
READOUT = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def test() -> Sequence[Quadruplet]:
    return MiniPhys("test", TINY.test, TINY.properties)[:]


@pytest.fixture(scope="module")
def probe(lens: DiTLens) -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(7))
    return Probe(weight, 0.0, 1.0, Reads(READOUT, TINY.step, lens.schedule(TINY.levels).sigmas[TINY.step], "random"))


@pytest.fixture(scope="module", params=["continuation", "inversion"])
def config(request: pytest.FixtureRequest) -> Config:
    return replace(TINY, path=request.param)


@pytest.fixture(scope="module")
def told(lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, config: Config) -> xr.Dataset:
    return attribute(lens, config, test, probe, 1)


def test_what_follows_the_label_adds_up_to_the_contrast_of_the_logit(told: xr.Dataset) -> None:
    """Up to the quadrature; the contrasts of either half's content are many times as large as that."""
    summed = told.odd.sum(["frame", "row", "column"])
    of_clips, of_noise = (
        told[name].transpose("direction", "quadruplet", "role").values for name in ("logit", "noise_logit")
    )
    for baseline, values in zip(BASELINES, (of_clips, of_clips, of_clips - of_noise), strict=True):
        found = summed.sel(baseline=baseline).transpose("direction", "quadruplet").values
        expected = np.stack([interaction(one) for one in values])
        np.testing.assert_allclose(found, expected, rtol=0, atol=4e-3)
        first_half = interaction(values[0][:, [0, 2, 1, 3]])  # A + C - B - D
        assert np.abs(first_half - found[0]).max() > 0.04
    assert float(told.delta.max()) < 0.02
    assert float(np.abs(told.odd.sel(direction="probe") - told.odd.sel(direction="random 0")).max()) > 1e-4
    np.testing.assert_allclose(told.by_frame, told.odd.sum(["row", "column"]))


def test_the_pair_shown_adds_up_to_its_difference_of_logits(told: xr.Dataset) -> None:
    change = told.logit.sel(role="A") - told.logit.sel(role="C")
    noise = told.noise_logit.sel(role="A") - told.noise_logit.sel(role="C")
    for baseline, expected in zip(BASELINES, (change, change, change - noise), strict=True):
        summed = told.heat.sel(baseline=baseline).sum(["frame", "row", "column"])
        np.testing.assert_allclose(summed, expected.transpose(*summed.dims), rtol=0, atol=1e-2)
    assert float(np.abs(change).max()) > 0.2 and float(np.abs(noise).max()) > 0.02


def test_where_the_latents_agree_nothing_is_attributed_to_the_pair(told: xr.Dataset, config: Config) -> None:
    splice = int(told.splice[0])
    heat = told.heat.transpose("baseline", "direction", "quadruplet", "frame", ...).values
    shared = np.arange(told.sizes["frame"]) < splice
    if config.path == "inversion":  # which mixes halves: no two latents agree
        assert not told.agree.any() and np.abs(heat[0]).max((-1, -2)).min() > 0
        return
    np.testing.assert_array_equal(told.agree, np.tile(shared, (2, 1)))
    assert not heat[0][:, :, shared].any() and heat[0][:, :, ~shared].any()
    assert all(one[:, :, shared].any() for one in heat[1:])


@pytest.mark.parametrize("path", ["continuation", "noising", "inversion"])
def test_the_last_baseline_is_the_same_noise_without_a_clean_part(
    path: Any, lens: DiTLens, test: Sequence[Quadruplet]
) -> None:
    config = replace(TINY, path=path)
    evaluations = with_noise_alone(lens, config, test)
    with torch.no_grad():
        clips, alone = (lens.model.run(one, Request(LATENT))[1][LATENT] for one in evaluations)
    sigma, latents = lens.schedule(config.levels).sigmas[config.step], lens.encode(role_major(test))
    if config.path == "inversion":
        noise = travel(lens, test, route(config)).latents[-1]
        torch.testing.assert_close(alone, sigma * noise, rtol=1e-4, atol=1e-4)
        return
    noise, given = spliced_noise(latents, test, config.seed), latent_splice(latents, test[0])
    level = torch.full((5, 1, 1), sigma)
    if config.path == "continuation":
        level[:given] = 0
    torch.testing.assert_close(alone, level * noise)
    torch.testing.assert_close(clips - alone, (1 - level) * latents, rtol=1e-4, atol=1e-5)


def test_latent_frames_are_drawn_over_the_last_frame_they_stand_for(
    told: xr.Dataset, test: Sequence[Quadruplet]
) -> None:
    assert clip_frames(told, test) == [0, 4, 8, 12, 16]
    maps = drawn(told.sel(direction="probe"), test, clip_frames(told, test), 1)
    (shown,) = [q for q in test if str(maps.shown.values[0]).startswith(f"{q.property}:")]
    np.testing.assert_array_equal(maps.pixels[0, 0, 3], shown.a.frames[12])
    assert int(maps.cut[0]) == 3 and maps.heat.shape == (len(BASELINES), 1, 5, 8, 8)


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["attribute_latents", *arguments])
    run, table = attribute_latents.run, attribute_latents.table
    analyses.command.main(Config, run, table, figure.draw, "attribute_latents", attribute_latents.__doc__)


FEW = ["--properties", "inertia", "--train", "10", "--test", "4", "--nodes", "2", "--batch-size", "10"]


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call([*FEW, "--controls", "--limit", "99"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert all(printed.count(f"  {baseline} ") == 2 for baseline in BASELINES)  # two directions
    assert (
        "mini-wan, sigma" in printed
        and "random 0: contrast of the logit" in printed
        and "how clips got there is held fixed" in printed
    )
    assert (tmp_path / "out" / "attribute_latents.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "attribute_latents.nc")
    assert list(result.direction.values) == ["probe", "random 0"] and result.sizes["shown"] == 1
    assert bool(result.shown_agree[0, 0]) and not bool(result.shown_agree[0, -1])


def test_a_line_that_does_not_converge_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call([*FEW, "--controls", "--limit", "1e-9"], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
