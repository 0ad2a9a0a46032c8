"""Integrated gradients by head: what it adds up to, which pairs there are, noise as baseline; table and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from analyses.attribute_heads import HEADS, Config, attribute
from analyses.command import call
from dit_lens import edits, results
from dit_lens.capture import NoisePath, evaluations, of_role
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.attribute_heads import ESTIMATES, agreement
from dit_lens.probing import Probe
from dit_lens.running import Evaluation, Request
from dit_lens.studies.integrated_gradients import with_noise_alone
from dit_lens.studies.readers import Reader
from tests.readers import random_probe, reader_with
from tests.spliced import crossed_at, pair_of

CONFIG = Config(path="continuation", sampler_steps=20, read_at=(14,), nodes=4, limit=0.3, batch_size=2)
POINT = "blocks.1.attn.hook_z"
PAIRS = ("A→C", "B→D", "A→D", "B→C", "C→A", "D→B", "D→A", "C→B", "A→B")


@pytest.fixture(scope="module")
def reader(lens: DiTLens) -> Reader:
    return reader_with(lens, random_probe(lens, 2, 14, 20), NoisePath("continuation"))


@pytest.fixture(scope="module")
def scenes(quadruplets: list[Scene]) -> list[Scene]:
    return [quadruplets[0], crossed_at(quadruplets[1], (13,))]


@pytest.fixture(scope="module")
def heads(reader: Reader, scenes: list[Scene]) -> xr.Dataset:
    return attribute(reader, CONFIG, scenes)


@torch.no_grad()
def patched(lens: DiTLens, probe: Probe, source: Evaluation, into: Evaluation) -> np.ndarray:
    """What all heads of block 1 together change of the logit, taken from another run."""
    z = lens.model.run_with(source, {}, Request(POINT))[1][POINT]
    readout = probe.reads.point
    before = lens.model.run(into, Request(readout))[1][readout]
    with lens.hooks([(POINT, edits.patch(z))]):
        after = lens.model.run(into, Request(readout))[1][readout]
    return (probe.of_activation(after) - probe.of_activation(before)).numpy()


def test_heads_add_up_to_the_effect_of_patching_all_of_a_block(
    reader: Reader, scenes: list[Scene], heads: xr.Dataset
) -> None:
    (fed,) = evaluations(reader.lens, scenes, [14], reader.path).values()
    whole = patched(reader.lens, reader.probe, of_role(fed, "A"), of_role(fed, "C"))
    by_head = heads.effect_logit.sel(pair="A→C", estimate=ESTIMATES[0], block=1).squeeze("step")
    np.testing.assert_allclose(by_head.sum("head"), whole, rtol=1e-3, atol=1e-6)
    assert np.abs(whole).min() > 1e-4
    assert np.abs(by_head.isel(head=slice(1, None)).sum("head") - whole).max() > 1e-3 * np.abs(whole).max()


def test_crossed_scenes_have_all_pairs_and_single_pairs_theirs(
    reader: Reader, scenes: list[Scene], heads: xr.Dataset
) -> None:
    sizes = {"step": 1, "estimate": 3, "scene": 2, "pair": 9, "block": 3, "head": 4}
    assert dict(heads.effect_logit.sizes) == sizes and tuple(heads.pair.values) == PAIRS
    exact, first_order, from_noise = (float(heads.delta.sel(estimate=estimate).max()) for estimate in ESTIMATES)
    assert exact < 1e-5 and exact < first_order / 10 and from_noise < 0.05
    singles = [pair_of(scene, frame) for scene, frame in zip(scenes, (9, 5), strict=True)]
    single, alone = (attribute(reader, CONFIG, part) for part in (singles, singles[1:]))
    assert single.pair.values.tolist() == ["A→C", "C→A"] and single.sign.values.tolist() == [1, -1]
    same, different = (single.effect_logit.isel(scene=[i]).transpose(*alone.effect_logit.dims) for i in (1, 0))
    np.testing.assert_allclose(same, alone.effect_logit, rtol=1e-3, atol=1e-5)  # no matter what it is batched with
    assert float(np.abs(different.values - same.values).max()) > 1e-3


def test_from_noise_a_pair_is_that_of_its_clips(reader: Reader, scenes: list[Scene], heads: xr.Dataset) -> None:
    """What all heads of a block do in the run of noise alone, patched from one clip, less that from the other."""
    clips, alone = with_noise_alone(CONFIG, reader.lens, scenes, 14)
    effects = {r: patched(reader.lens, reader.probe, of_role(clips, r), of_role(alone, r)) for r in "AC"}
    by_head = heads.effect_logit.sel(estimate=ESTIMATES[2])
    summed = by_head.sel(pair="A→C", block=1).squeeze("step").sum("head")
    np.testing.assert_allclose(summed, effects["A"] - effects["C"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(by_head.sel(pair="C→A"), -by_head.sel(pair="A→C"), atol=1e-6)
    assert np.abs(summed).min() > 1e-3


def test_there_and_back_is_the_same_line_around_another_run(heads: xr.Dataset) -> None:
    """Back is near to minus there, not equal to it: what enters the block is another clip's."""
    there, back = (heads.effect_logit.sel(pair=pair, estimate=ESTIMATES[0]) for pair in ("A→C", "C→A"))
    assert float(np.corrcoef(there.values.ravel(), -back.values.ravel())[0, 1]) > 0.9
    assert float(np.abs(there + back).max()) > 0


def test_agreement_is_of_ranks(heads: xr.Dataset) -> None:
    whole = heads.assign(probe_spread=("step", [1.0])).expand_dims(model=["m"])
    exact = whole.effect_logit.sel(estimate=ESTIMATES[0], drop=True)
    for factor in (9.0, -9.0):
        estimates = xr.concat([exact, factor * exact, exact], "estimate").assign_coords(estimate=list(ESTIMATES))
        assert agreement(whole.assign(effect_logit=estimates), "m") == pytest.approx(np.sign(factor))


def test_a_model_without_heads_is_refused_with_the_reason(lens: DiTLens) -> None:
    assert len(lens.table.select(HEADS, lens.name)) == lens.blocks
    with pytest.raises(KeyError, match="hook_zz"):
        lens.table.select("blocks.*.attn.hook_zz", lens.name)


FEW = ["--controls", "--properties", "inertia", "--train", "10", "--test", "2", "--nodes", "2", "--block", "1"]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("attribute_heads", [*FEW, "--limit", "9", "--full", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "mini-wan, sigma" in text and "largest convergence delta" in text
    (path,) = tmp_path.glob("attribute_heads-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    assert results.facts(results.open_result(path))["config"]["nodes"] == 2


def test_a_line_that_does_not_converge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("attribute_heads", [*FEW, "--limit", "1e-9", "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.nc"))
