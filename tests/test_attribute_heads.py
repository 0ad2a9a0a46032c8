"""Integrated gradients by head: what it adds up to, what must vanish; table and figure."""

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
from analyses import attribute_heads
from analyses.attribute_heads import CONTRASTS, ESTIMATES, Config, agreement, attribute
from analyses.lines import with_noise_alone
from dit_lens import edits, results
from dit_lens.capture import Route, evaluations, of_role
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.running import Request
from figures import attribute_heads as figure

TINY = Config(properties=("inertia",), test=2, nodes=4, limit=0.2)
READOUT = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def test() -> Sequence[Quadruplet]:
    return MiniPhys("test", TINY.test, TINY.properties)[:]


@pytest.fixture(scope="module")
def probe() -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    return Probe(weight, 0.0, 1.0, Reads(READOUT, TINY.step, 0.7, "random"))


@pytest.fixture(scope="module")
def told(lens: DiTLens, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    return attribute(lens, TINY, test, probe)


def test_heads_add_up_to_the_effect_of_patching_all_of_a_block(
    lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, told: xr.Dataset
) -> None:
    (fed,) = evaluations(lens, test, TINY.steps, Route("continuation")).values()
    clean, corrupted = of_role(fed, "A"), of_role(fed, "C")
    point = "blocks.1.attn.hook_z"
    with torch.no_grad():
        source = lens.model.run_with(clean, {}, Request(point))[1][point]
        before = probe.of_activation(lens.model.run_with(corrupted, {}, Request(READOUT))[1][READOUT])
        with lens.hooks([(point, edits.patch(source))]):
            after = probe.of_activation(lens.model.run(corrupted, Request(READOUT))[1][READOUT])
    summed = told.effect_logit.sel(pair="A→C", estimate=ESTIMATES[0], block=1).squeeze("step").sum("head")
    np.testing.assert_allclose(summed, after - before, rtol=1e-3, atol=1e-6)
    assert np.abs(summed).min() > 1e-4


def test_blocks_up_to_the_readout_are_told_for_all_pairs(told: xr.Dataset) -> None:
    sizes = {"step": 1, "estimate": 3, "quadruplet": 2, "pair": len(CONTRASTS) + 1, "block": 3, "head": 4}
    assert dict(told.effect_logit.sizes) == sizes
    exact, first_order, from_noise = (float(told.delta.sel(estimate=estimate).max()) for estimate in ESTIMATES)
    assert exact < 1e-5 and exact < first_order / 10 and from_noise < 0.02


def test_from_noise_a_pair_is_told_by_its_clips(
    lens: DiTLens, test: Sequence[Quadruplet], probe: Probe, told: xr.Dataset
) -> None:
    """What all heads of a block do in the run of noise alone, patched from one clip, less that from the other."""
    clips, alone = with_noise_alone(lens, TINY, test)
    point = "blocks.1.attn.hook_z"
    effects = {}
    with torch.no_grad():
        for role in "AC":
            source = lens.model.run(of_role(clips, role), Request(point))[1][point]
            noise = of_role(alone, role)
            before = lens.model.run(noise, Request(READOUT))[1][READOUT]
            with lens.hooks([(point, edits.patch(source))]):
                after = lens.model.run(noise, Request(READOUT))[1][READOUT]
            effects[role] = probe.of_activation(after) - probe.of_activation(before)
    summed = told.effect_logit.sel(pair="A→C", estimate=ESTIMATES[2], block=1).squeeze("step").sum("head")
    np.testing.assert_allclose(summed, effects["A"] - effects["C"], rtol=0, atol=2e-3)
    back = told.effect_logit.sel(pair="C→A", estimate=ESTIMATES[2])
    np.testing.assert_allclose(back, -told.effect_logit.sel(pair="A→C", estimate=ESTIMATES[2]), atol=1e-6)
    assert np.abs(summed).min() > 1e-3


def test_there_and_back_is_the_same_line_around_another_run(told: xr.Dataset) -> None:
    """Back is near to minus there, not equal to it: what enters the block is another clip's."""
    there, back = (told.effect_logit.sel(pair=pair, estimate=ESTIMATES[0]) for pair in ("A→C", "C→A"))
    assert float(np.corrcoef(there.values.ravel(), -back.values.ravel())[0, 1]) > 0.9
    assert float(np.abs(there + back).max()) > 0


def test_agreement_is_of_ranks(told: xr.Dataset) -> None:
    spread = xr.DataArray([1.0], coords={"step": [TINY.step]})
    whole = told.assign(probe_spread=spread).expand_dims(model=["m"])
    one = whole.effect_logit.sel(estimate=ESTIMATES[0], drop=True)
    for factor in (9.0, -9.0):
        other = xr.concat([one, factor * one, one], "estimate").assign_coords(estimate=list(ESTIMATES))
        assert agreement(whole.assign(effect_logit=other), "m") == pytest.approx(np.sign(factor))


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["attribute_heads", *arguments])
    run, table = attribute_heads.run, attribute_heads.table
    analyses.command.main(Config, run, table, figure.draw, "attribute_heads", attribute_heads.__doc__)


FEW = ["--controls", "--properties", "inertia", "--train", "10", "--test", "4", "--nodes", "2", "--batch-size", "10"]


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call([*FEW, "--limit", "9"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "mini-wan, sigma" in printed and "largest delta" in printed
    assert (tmp_path / "out" / "attribute_heads.pdf").stat().st_size > 5000
    assert results.facts(results.open_result(tmp_path / "data" / "attribute_heads.nc"))["config"]["nodes"] == 2


def test_a_line_that_does_not_converge_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call([*FEW, "--limit", "1e-9"], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
