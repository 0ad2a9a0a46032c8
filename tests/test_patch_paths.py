"""Paths of plausibility: what label-odd paths add up to, the split of scenes, circuits; table and figure."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import patch_paths
from analyses.pairs import label_odd
from analyses.patch_paths import (
    CROSSED,
    Config,
    Runs,
    chosen,
    circuits,
    over_pairs,
    paths,
    split,
)
from analyses.patch_paths_table import edges_of, flat, shares
from dit_lens import patching, results
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from figures import patch_paths as figure

TINY = Config(properties=("inertia",), test=4, top=3, least=0.0, draws=3, batch_size=4)
SENDERS = [*(f"0.{head}" for head in range(4)), "mlp 0", *(f"1.{head}" for head in range(4)), "mlp 1"]
EDGES = list(product(SENDERS, ["readout", "mlp 0", "1.2.v"]))


@pytest.fixture(scope="module")
def test() -> list[Quadruplet]:
    return MiniPhys("test", TINY.test, TINY.properties)[:]


@pytest.fixture(scope="module")
def probe() -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    return Probe(weight, 0.0, 1.0, Reads("blocks.1.hook_resid_post", TINY.step, 0.7, "random"))


@pytest.fixture(scope="module")
def told(lens: DiTLens, test: list[Quadruplet], probe: Probe) -> xr.Dataset:
    return paths(lens, TINY, test, probe, EDGES)


def test_every_pair_and_path_is_told_and_a_clip_with_itself_is_zero(told: xr.Dataset) -> None:
    assert dict(told.effect_logit.sizes) == {"quadruplet": 4, "pair": len(CROSSED), "sender": 10, "receiver": 3}
    forward = told.effect_logit.notnull().all(["quadruplet", "pair"])
    assert forward.sel(receiver="readout").all() and int(forward.sel(receiver="mlp 0").sum()) == 4
    assert list(told.sender.values[forward.sel(receiver="1.2.v").values]) == ["0.0", "0.1", "0.2", "0.3", "mlp 0"]
    effects = told.effect_logit.fillna(0)
    assert not effects.sel(pair="A→A").any() and float(np.abs(effects.sel(pair="A→C")).max()) > 1e-4
    assert flat(label_odd(told)).sizes == {"quadruplet": 4, "path": 10 + 4 + 5}


def test_the_last_mlp_tells_the_readout_all_that_patching_it_does(
    lens: DiTLens, test: list[Quadruplet], probe: Probe, told: xr.Dataset
) -> None:
    def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
        return patching.patch_writes(lens, clean, corrupted, TINY.steps, probe.logit, ["mlp_out"])

    whole = over_pairs(lens, TINY, test, measure, "MLPs")
    direct = told.effect_logit.sel(sender="mlp 1", receiver="readout")
    np.testing.assert_allclose(direct, whole.effect_logit.sel(block=1).squeeze(drop=True), rtol=1e-3, atol=1e-5)


def test_no_scene_both_ranks_and_reports(test: list[Quadruplet]) -> None:
    ranking, report = ({q.id for q in half} for half in split(test))
    assert not ranking & report and ranking | report == {q.id for q in test} and len(ranking) == 2


def test_a_circuit_comes_from_the_ranking_scenes_alone(
    lens: DiTLens, test: list[Quadruplet], probe: Probe, told: xr.Dataset
) -> None:
    ranking, report = split(test)
    tested = circuits(lens, TINY, report, probe, told)
    odd = label_odd(told.sel(quadruplet=[q.id for q in ranking])).mean("quadruplet")
    sizes = flat(odd.expand_dims("quadruplet")).squeeze("quadruplet").to_series().abs().sort_values(ascending=False)
    assert edges_of(tested) == list(sizes.index[:3])
    assert dict(tested.value.sizes) == {"role": 4, "scene": 2, "circuit": 4, "resampled": 2}
    value, whole = shares(tested.assign(probe_spread=("model", [1.0])))
    assert list(value.scene) == [q.id for q in report] and float(np.abs(value - whole).max()) > 1e-4


def test_a_screen_ranks_all_paths_on_the_ranking_scenes(
    lens: DiTLens, test: list[Quadruplet], probe: Probe, told: xr.Dataset
) -> None:
    ranking, _ = split(test)
    edges, screen = chosen(lens, replace(TINY, screened=5, sample=6), ranking, probe)
    assert dict(screen.estimate.sizes) == {"sender": 10, "receiver": 1 + 2 + 4 * 3}
    assert int(screen.verified.sum()) == 5 and int(screen.sampled.sum()) == 6 and len(set(edges)) == len(edges)
    exact = label_odd(told.sel(quadruplet=[q.id for q in ranking])).mean("quadruplet", skipna=False)
    shared = screen.estimate.sel(receiver=exact.receiver)
    known = exact.notnull().values
    np.testing.assert_array_equal(known, shared.notnull().values)
    assert np.corrcoef(shared.values[known], exact.transpose("sender", "receiver").values[known])[0, 1] > 0.7
    assert {edge for edge in EDGES if bool(screen.verified.sel(sender=edge[0], receiver=edge[1]))} <= set(edges)


def run_tiny(options: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    few = [list(MiniPhys(split, size, ("inertia",))) for split, size in (("train", 10), ("test", 4))]
    monkeypatch.setattr(patch_paths, "load", lambda *options: few)
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["patch_paths", "--properties", "inertia", "--draws", "3", *options])
    analyses.command.main(Config, patch_paths.run, patch_paths.table, figure.draw, "patch_paths", patch_paths.__doc__)


def test_table_and_figure_of_a_screen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tiny(["--controls", "--screened", "6", "--sample", "8"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "the 6 that gradients rank" in printed and "8 at random; rank agreement" in printed and "nan" not in printed
    assert (tmp_path / "out" / "patch_paths.pdf").stat().st_size > 5000
    made = results.open_result(tmp_path / "data" / "patch_paths.nc")
    patched = made.effect_logit.isel(model=0).notnull().all(["quadruplet", "pair"])
    np.testing.assert_array_equal(patched, made.verified.astype(bool) | made.sampled.astype(bool))


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(["--controls", "mini-wan-random", "--heads", "1"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "mini-wan, sigma" in printed and "mini-wan-random, sigma" in printed and "of 3 random circuits" in printed
    assert "a clip patched with itself: 0\n" in printed and "nan" not in printed
    assert (tmp_path / "out" / "patch_paths.pdf").stat().st_size > 5000
    made = results.open_result(tmp_path / "data" / "patch_paths.nc")
    assert results.facts(made)["config"]["heads"] == 1
    control = made.effect_logit.sel(model="mini-wan-random", receiver="readout").isnull().all(["pair", "sender"])
    assert int(control.sum()) == 2  # the ranking scenes
