"""Six methods on one bench: where a head is read as it writes they agree, where layers lie between they part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from spliced import pair_of

from analyses.command import call
from dit_lens import ablation, results
from dit_lens.attribution import Integral
from dit_lens.cache import ActivationCache
from dit_lens.capture import NoisePath, evaluations
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.compare_methods import DIRECT, METHODS, PATCHING, maps, parted, rank_agreement
from dit_lens.measures.patching import PLAUSIBILITY, RANDOM
from dit_lens.running import Evaluation, Request
from dit_lens.studies.ablations import donors_of
from dit_lens.studies.exchanges import partners_of
from dit_lens.studies.head_shares import Bench, contrasts
from dit_lens.studies.readouts import LinearReadout, Readouts
from dit_lens.toy.miniphys import MiniPhys

BLOCK, STEP, PATH = 2, 14, NoisePath("continuation", 20)
Case = tuple[Evaluation, Sequence[Scene], np.ndarray]


def readouts(point: str) -> Readouts:
    rng = np.random.default_rng(0)
    lines = [
        LinearReadout(name, name, rng.standard_normal((5, 128)), 0.0, 1.0, np.nan)
        for name in (PLAUSIBILITY, f"{RANDOM} 0")
    ]
    return Readouts(point, tuple(lines))


@pytest.fixture(scope="module", params=["crossed scenes", "single pairs"])
def case(request: pytest.FixtureRequest, lens: DiTLens) -> Case:
    """Contrasts (readout, method, scene, block, head), read right behind the attention of the last block."""
    whole = MiniPhys("test", 2, ["gravity"])[:]
    pairs = [pair_of(scene, frame) for scene, frame in zip(whole, (9, 9), strict=True)]
    batch = whole if request.param == "crossed scenes" else pairs
    (fed,) = evaluations(lens, batch, [STEP], PATH).values()
    means = ablation.means_over(lens, [{STEP: fed}], [f"blocks.{block}.attn.hook_z" for block in range(BLOCK + 1)])
    read, roles = readouts(f"blocks.{BLOCK}.hook_resid_mid_attn"), batch[0].roles
    partners = partners_of(roles, request.param == "crossed scenes")
    bench = Bench(lens, STEP, read, means, roles, partners, Integral(steps=4, limit=0.5))
    return fed, batch, contrasts(bench, fed, donors_of(batch, 0))


def test_partners_are_on_the_other_side_of_a_pair() -> None:
    assert partners_of("ABCD", True) == [[2, 3, 0, 1], [3, 2, 1, 0]]
    assert partners_of("ABCD", False) == [[2, 3, 0, 1]] and partners_of("AC", False) == [[1, 0]]


def test_a_head_that_is_read_as_it_writes_is_one_number_by_all_methods(case: Case) -> None:
    """Of pairs and of crossed scenes; an earlier head is not."""
    for block, alike in ((BLOCK, True), (0, False)):
        shares = dict(zip(METHODS, np.moveaxis(case[2][:, :, :, block], 1, 0), strict=True))
        scale = np.abs(shares[PATCHING]).max()
        gaps = [
            np.abs(shares[name] - shares[DIRECT]).max() < 2e-3 * scale for name in METHODS if "resample" not in name
        ]
        assert scale > 1e-5 and (all(gaps) if alike else not gaps[0])
    assert np.isfinite(case[2]).all()


def test_resampling_takes_the_share_and_gives_that_of_the_donors(lens: DiTLens, case: Case) -> None:
    """Of a head that is read as it writes: its share less what the donors' writes make of the same contrast."""
    fed, batch, shares = case
    read = readouts(f"blocks.{BLOCK}.hook_resid_mid_attn")
    with torch.no_grad():
        _, kept = lens.model.run(fed, Request(lens.anatomy.needs(read.point)))
    cache = ActivationCache(kept, lens.model.grid(fed), lens.blocks, anatomy=lens.anatomy)
    weight = torch.from_numpy(read.lines[0].weight).float()
    split = cache.attribute_to(weight, read.point).attribution.sel(block=BLOCK)
    writes = np.stack([split.sel(component=f"attn.{head}").values for head in range(lens.heads)], -1)
    signs = np.array([1.0 if role in "AB" else -1.0 for role in batch[0].roles])
    signs /= len(signs) / 2
    taken = writes[donors_of(batch, 0).numpy()]
    left = [np.tensordot(signs, x.reshape(len(signs), 2, -1), (0, 0)) for x in (writes, taken)]
    resampled = shares[0, METHODS.index("resample ablation"), :, BLOCK]
    np.testing.assert_allclose(resampled, left[0] - left[1], atol=2e-3 * np.abs(resampled).max())
    assert np.abs(left[1]).max() > 0.01 * np.abs(left[0]).max()


def planted(noise: float, seed: int = 0) -> np.ndarray:
    """Effects (method, q, head): the first two methods share a map, the third has its own; noise by quadruplet."""
    rng = np.random.default_rng(seed)
    shared, separate = rng.standard_normal((2, 1, 12))
    return np.stack([shared + noise * rng.standard_normal((30, 12)), 2 * shared + noise * rng.standard_normal((30, 12)),
                     separate + noise * rng.standard_normal((30, 12))])  # fmt: skip


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
    coords = {"model": ["m"], "readout": [PLAUSIBILITY], "estimate": list(METHODS), "block": [0, 1]}
    dims = ("model", "readout", "estimate", "scene", "block", "head")
    result = xr.Dataset({"contrast": (dims, values)}, coords=coords).assign_coords(property=("scene", ["a"] * 8))
    assert parted(result, "m")[:2] == [(1, 2), (0, 0)]
    assert maps(result, "m", PLAUSIBILITY).shape == (len(METHODS), 8, 6)


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--controls --properties inertia --train 5 --test 2 --nodes 2 --limit 9 --sampler-steps 2 --read-at 1"
    call("compare_methods", [*options.split(), "--block", "1", "--full", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "random direction" in printed and all(method in printed for method in METHODS)
    (figure,), (file,) = tmp_path.glob("compare_methods-*.pdf"), tmp_path.glob("compare_methods-*.nc")
    assert figure.stat().st_size > 5000
    result = results.open_result(file)
    assert result.contrast.notnull().all() and result.sizes["estimate"] == len(METHODS)
