"""The head atlas by hand: classes with a margin, stable ranks, and numbers that go with effects or do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dit_lens import results
from dit_lens.measures.map_attention import (
    MIXED,
    SHUFFLES,
    against_effect,
    classes,
    contrast,
    rank_correlation,
    stability,
    table,
    verdict,
)
from figures.map_attention import draw

NUMBERS = ["entropy", "distance_t", "diagonal", "multi_diagonal", "stripe", "text"]
SCENES, BLOCKS, HEADS = 12, 3, 4


@pytest.fixture
def result() -> xr.Dataset:
    """Head 0.0 is diagonal, 0.1 by less than the margin, 0.2 by the margin in half of the scenes; 1.3 stripe.

    Entropy ranks heads by their index in every scene, and the size of effects is in the same order up to block 1; the
    distance is random; possible and impossible clips differ in head 2.0 only.
    """
    random = np.random.default_rng(0)
    plain = np.zeros((2, SCENES, 4, BLOCKS, HEADS, len(NUMBERS)))
    index = np.arange(BLOCKS * HEADS).reshape(BLOCKS, HEADS)
    plain[..., 0] = index / 20
    plain[..., 1] = random.normal(size=(2, SCENES, 1, BLOCKS, HEADS))
    plain[..., 0, 0, 2], plain[..., 0, 1, 2], plain[:, ::2, :, 0, 2, 2] = 0.5, 0.05, 0.3
    plain[:, 1::2, :, 0, 2, 3] = 0.1
    plain[..., 1, 3, 4] = 0.4
    plain[:, :, :2, 2, 0, 0] += 0.01 + 0.001 * random.normal(size=(2, SCENES, 1))
    plain[..., 5] = np.nan
    effect = np.zeros((2, SCENES, 4, BLOCKS, HEADS))
    effect[:, :, :2], effect[:, :, 2:] = -index, index
    dims = ("model", "scene", "role", "block", "head")
    coords = {
        "model": ["m", "twin"], "scene": [f"s{i}" for i in range(SCENES)], "role": list("ABCD"),
        "block": range(BLOCKS), "head": range(HEADS), "number": NUMBERS, "property": ("scene", ["inertia"] * SCENES),
        "readout_block": 1, "sigma": 0.5, "margin": 0.1,
    }  # fmt: skip
    data = {"plain": ((*dims, "number"), plain), "effect": (dims, effect), "probe_spread": ("model", [2.0, 2.0])}
    facts = results.provenance(path="noising", dataset="d", split="test", seed=0)
    return xr.Dataset(data, coords, {"provenance": facts})


def test_a_class_needs_a_lead_by_the_margin_and_surely(result: xr.Dataset) -> None:
    names = classes(result.isel(model=0))
    assert names.values[0].tolist() == ["diagonal", MIXED, MIXED, MIXED]
    assert names.values[1].tolist() == [MIXED, MIXED, MIXED, "stripe"] and (names.values[2] == MIXED).all()
    assert classes(result.isel(model=0).assign_coords(margin=0.01)).values[0].tolist()[1] == "diagonal"


def test_ranks_are_stable_of_what_is_alike_in_all_scenes(result: xr.Dataset) -> None:
    stable = stability(result.isel(model=0))
    assert float(stable.sel(number="entropy")) > 0.99 and abs(float(stable.sel(number="distance_t"))) < 0.35
    assert "text" not in stable.number.values
    rho = rank_correlation(np.array([1.0, 2, 2, 4]), np.array([[1.0, 2, 2, 9], [4, 2, 2, 1], [1, 1, 1, 1]]))
    np.testing.assert_allclose(rho, [1, -1, np.nan])


def test_a_number_goes_with_effects_or_not_and_labels_differ_where_they_do(result: xr.Dataset) -> None:
    against = against_effect(result.isel(model=0))
    assert float(against.rho.sel(number="entropy")) == pytest.approx(1)
    assert float(against.p.sel(number="entropy")) <= 2 / (SHUFFLES + 1) * 5
    assert float(against.p.sel(number="distance_t")) > 0.05
    p = contrast(result.isel(model=0)).p
    assert (p < 0.05).sum() == 1 and float(p.sel(block=2, head=0, number="entropy")) < 0.05


def test_verdict_table_and_figure(result: xr.Dataset, tmp_path: Path) -> None:
    said = verdict(result)
    assert "Of 12 heads of m, 1 diagonal and 1 stripe, by a margin of 0.1" in said and "is entropy: rho +1.00" in said
    assert "1 of 60 cells differ" in said and "twin 2 heads have a class" in said
    printed = table(result, full=True)
    assert "0.000 (0.0)" in printed and "block 1: mixed, mixed, mixed, stripe" in printed
    assert draw(result, tmp_path / "atlas.pdf").stat().st_size > 5000
