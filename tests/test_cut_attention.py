"""Which attention is needed: cuts by hand, the theorem of cut halves, and the analysis from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import analyses.command
import figures.output
from analyses import cut_attention
from analyses.cut_attention import Config, cut, knockouts, odd, significance, top
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from figures import cut_attention as figure

TINY = Config(properties=("inertia", "gravity"), train=10, test=8, step=2, levels=4, controls=(), batch_size=4)


@pytest.fixture(scope="module")
def told(lens: DiTLens) -> xr.Dataset:
    """Cuts of an untrained model, read by a fixed direction behind block 1."""
    weight = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    probe = Probe(weight, 0.0, 1.0, Reads("blocks.1.hook_resid_post", 2, 0.5, "untrained"))
    found = cut(lens, TINY, MiniPhys("test", TINY.test, TINY.properties)[:], probe)
    return found.assign(probe_spread=1.0).assign_coords(readout_block=1)


def test_what_lies_behind_the_readout_is_nan_and_does_not_count(told: xr.Dataset) -> None:
    assert np.isnan(told.whole.sel(block=2)).all() and np.isfinite(told.whole.sel(block=[0, 1])).all()
    assert set(odd(told, "whole").block.values) == {0, 1}
    assert np.abs(odd(told, "whole").sel(cut="behind → before the splice")).max() > 0
    p = significance(told, "effect")
    assert set(p.dims) == {"cut", "block", "head"} and ((p > 0) & (p <= 1)).all()


def test_the_cut_of_a_block_is_that_of_all_its_heads(told: xr.Dataset) -> None:
    """In the block of the readout heads meet in a sum before the gate, and MLPs bend it: near, not equal."""
    whole, heads = told.whole.sel(block=1), told.effect.sel(block=1).sum("head")
    at = {"cut": "behind → before the splice"}
    assert float(np.corrcoef(whole.sel(at).values.ravel(), heads.sel(at).values.ravel())[0, 1]) > 0.9


def test_a_frame_loses_the_one_before_and_nothing_else(lens: DiTLens) -> None:
    change = knockouts(3, 5)["frame → the one before"](0, [0])
    seen: dict[str, np.ndarray] = {}

    def look(x: Tensor, hook: Hook) -> None:
        seen["before"], new = x.clone().numpy(), change.edit(x, hook)
        assert new is not None
        seen["after"] = new.clone().numpy()

    latent = torch.randn(1, *lens.encode(MiniPhys("test", 1)[0].a).shape[1:])
    lens.run_with_hooks(latent=latent, timestep=500.0, fwd_hooks=[(change.point, look)])
    before, after = (seen[name][0, 0].reshape(5, 16, 5, 16).sum((1, 3)) / 16 for name in ("before", "after"))
    gone = np.eye(5, k=-1, dtype=bool)
    assert np.allclose(after[gone], 0) and (before[gone] > 0).all() and np.allclose(after.sum(1), 1, atol=1e-5)
    left = np.where(gone, 0, before)
    np.testing.assert_allclose(after, left / left.sum(1, keepdims=True), rtol=0.2)


def test_the_worst_cut_comes_first() -> None:
    values = np.zeros((8, 4, 2, 2))
    values[:, :2, 1, 0] = -1.0  # of A and B alone, by the second cut in block 0
    coords = {
        "quadruplet": range(8), "role": list("ABCD"), "cut": ["one", "two"], "block": [0, 1],
        "property": ("quadruplet", ["inertia"] * 8),
    }  # fmt: skip
    told = xr.Dataset({"whole": (("quadruplet", "role", "cut", "block"), values)}, coords)
    told = told.assign(probe_spread=0.5).assign_coords(readout_block=1)
    assert top(told)[0] == ("two", 0)
    np.testing.assert_allclose(odd(told, "whole").sel(cut="two", block=0), -2.0)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(analyses.command, "DATA", tmp_path / "data")
    monkeypatch.setattr(figures.output, "OUT", tmp_path / "out")
    options = ["--controls", "mini-wan-random", "--properties", "inertia", "gravity", "--train", "10", "--test", "4",
               "--levels", "4", "--step", "2"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["cut_attention", *options])
    analyses.command.main(
        Config, cut_attention.run, cut_attention.table, figure.draw, "cut_attention", cut_attention.__doc__
    )
    printed = capsys.readouterr().out
    assert "mini-wan-random" in printed and "without text at most" in printed
    assert (tmp_path / "out" / "cut_attention.pdf").stat().st_size > 5000
