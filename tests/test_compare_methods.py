"""Six methods on one bench: where a head is read as it writes they agree, where layers lie between they part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import analyses.command
import figures.output
from analyses import compare_methods
from analyses.compare_methods import Bench, Config, contrasts
from analyses.compare_methods_table import DIRECT, METHODS, PATCHING, maps, parted, rank_agreement
from analyses.readouts import PLAUSIBILITY, RANDOM, Line, Readouts
from dit_lens import ablation, edits, results
from dit_lens.cache import ActivationCache
from dit_lens.capture import Route, evaluations
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.running import Request
from figures import compare_methods as figure

TINY = Config(test=2, nodes=4, limit=0.5)
BLOCK = 2


@pytest.fixture(scope="module")
def told(lens: DiTLens, quadruplets: list[Quadruplet]) -> np.ndarray:
    """Contrasts (readout, method, q, block, head), read right behind the attention of the last block."""
    batch: Sequence[Quadruplet] = quadruplets[:2]
    (fed,) = evaluations(lens, batch, TINY.steps, Route("continuation")).values()
    means = ablation.means_over(lens, [{TINY.step: fed}], [f"blocks.{b}.attn.hook_z" for b in range(BLOCK + 1)])
    return contrasts(Bench(lens, TINY, readouts(f"blocks.{BLOCK}.hook_resid_mid_attn"), means), fed, donors(batch))


def readouts(point: str) -> Readouts:
    rng = np.random.default_rng(0)
    lines = [
        Line(name, name, rng.standard_normal((5, 128)), 0.0, 1.0, np.nan) for name in (PLAUSIBILITY, f"{RANDOM} 0")
    ]
    return Readouts(point, tuple(lines))


def donors(batch: Sequence[Quadruplet]) -> Tensor:
    return edits.donors([q.id for q in batch] * len(ROLES), ["any"] * len(batch) * len(ROLES), 0)


def test_a_head_that_is_read_as_it_writes_is_one_number_by_all_methods(told: np.ndarray) -> None:
    own = dict(zip(METHODS, np.moveaxis(told[:, :, :, BLOCK], 1, 0), strict=True))
    scale = np.abs(own[PATCHING]).max()
    for method in METHODS:
        if method != "resample ablation":
            np.testing.assert_allclose(own[method], own[DIRECT], atol=2e-3 * scale, err_msg=method)
    assert scale > 1e-4


def test_resampling_takes_the_share_and_gives_that_of_the_donors(
    lens: DiTLens, quadruplets: list[Quadruplet], told: np.ndarray
) -> None:
    """Of a head that is read as it writes: own share less what the donors' writes make of the same contrast."""
    batch = quadruplets[:2]
    (fed,) = evaluations(lens, batch, TINY.steps, Route("continuation")).values()
    read = readouts(f"blocks.{BLOCK}.hook_resid_mid_attn")
    with torch.no_grad():
        _, kept = lens.model.run(fed, Request(lens.anatomy.needs(read.point)))
    cache = ActivationCache(kept, lens.model.grid(fed), lens.blocks, anatomy=lens.anatomy)
    weight = torch.from_numpy(read.lines[0].weight).float()
    split = cache.attribute_to(weight, read.point).attribution.sel(block=BLOCK)
    writes = np.stack([split.sel(component=f"attn.{head}").values for head in range(lens.heads)], -1)
    given = writes[donors(batch).numpy()]
    left = [np.tensordot([0.5, 0.5, -0.5, -0.5], x.reshape(4, 2, -1), (0, 0)) for x in (writes, given)]
    own = told[0, METHODS.index("resample ablation"), :, BLOCK]
    np.testing.assert_allclose(own, left[0] - left[1], atol=2e-3 * np.abs(own).max())


def test_further_up_later_layers_make_something_else_of_it(told: np.ndarray) -> None:
    earlier = dict(zip(METHODS, np.moveaxis(told[:, :, :, 0], 1, 0), strict=True))
    gap = np.abs(earlier[PATCHING] - earlier[DIRECT]).max()
    assert gap > 0.05 * np.abs(earlier[PATCHING]).max()
    assert np.isfinite(told).all()


def planted(noise: float, seed: int = 0) -> np.ndarray:
    """Effects (method, q, head): the first two methods share a map, the third has its own; noise by quadruplet."""
    rng = np.random.default_rng(seed)
    shared, other = rng.standard_normal((2, 1, 12))
    return np.stack([shared + noise * rng.standard_normal((30, 12)), 2 * shared + noise * rng.standard_normal((30, 12)),
                     other + noise * rng.standard_normal((30, 12))])  # fmt: skip


def test_agreement_is_found_where_it_is_and_halves_say_how_much_can_be() -> None:
    estimate, low, high = rank_agreement(planted(0.5))
    assert estimate[0, 1] > 0.9 and low[0, 1] > 0.5 > abs(estimate[0, 2]) and (low <= high).all()
    assert np.diag(estimate).min() > 0.9  # of each with itself
    noise, _, _ = rank_agreement(np.random.default_rng(1).standard_normal((3, 30, 12)))
    assert np.abs(noise).max() < 0.7 and np.abs(np.diag(noise)).max() < 0.5
    np.testing.assert_allclose(estimate, estimate.T)


def test_heads_that_part_are_those_with_the_largest_gap() -> None:
    values = np.zeros((1, 1, len(METHODS), 8, 2, 3), np.float32)
    values[:, :, 0, :, 1, 2], values[:, :, 3, :, 1, 2] = 1.0, -1.0
    values[:, :, 0, :, 0, 0], values[:, :, 3, :, 0, 0] = 3.0, 2.5
    coords = {"model": ["m"], "readout": [PLAUSIBILITY], "way": list(METHODS), "block": [0, 1]}
    dims = ("model", "readout", "way", "quadruplet", "block", "head")
    result = xr.Dataset({"contrast": (dims, values)}, coords=coords).assign_coords(property=("quadruplet", ["a"] * 8))
    assert parted(result, "m")[:2] == [(1, 2), (0, 0)]
    assert maps(result, "m", PLAUSIBILITY).shape == (len(METHODS), 8, 6)


FEW = ["--train", "10", "--test", "4", "--properties", "inertia", "--nodes", "3", "--limit", "9", "--levels", "4",
       "--step", "2", "--controls"]  # fmt: skip


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(analyses.command, "DATA", tmp_path / "data")
    monkeypatch.setattr(figures.output, "OUT", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["compare_methods", *FEW])
    told = compare_methods.run, compare_methods.table, figure.draw, "compare_methods", compare_methods.__doc__
    analyses.command.main(Config, *told)
    printed = capsys.readouterr().out
    assert "random direction" in printed and all(method in printed for method in METHODS)
    assert (tmp_path / "out" / "compare_methods.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "compare_methods.nc")
    assert result.contrast.notnull().all() and result.sizes["way"] == len(METHODS)
