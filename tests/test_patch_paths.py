"""Paths of plausibility: what label effects of paths add up to, the division of scenes, circuits; table and figure."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fixed_readers import random_probe, reader_with
from spliced import pair_of

from analyses.command import call
from analyses.patch_paths import Bench, Config
from dit_lens import circuits as paths_of
from dit_lens import patching, results
from dit_lens.capture import NoisePath
from dit_lens.clips import Scene
from dit_lens.datasets.recordings import Outline
from dit_lens.datasets.scenes import Scenes, labelled_pairs
from dit_lens.lens import DiTLens
from dit_lens.measures.patch_paths import edges_of, flat, parts_of, shares
from dit_lens.measures.patching import label_effect_of_pairs
from dit_lens.studies.exchanges import Runs
from dit_lens.studies.scenes import divided
from dit_lens.toy.miniphys import MiniPhys

TINY = Config(properties=("inertia",), train=5, test=4, top=3, draws=3, batch_size=4, read_at=(14,))
SENDERS = [*(f"0.{head}" for head in range(4)), "mlp 0", *(f"1.{head}" for head in range(4)), "mlp 1"]
EDGES = list(product(SENDERS, ["readout", "mlp 0", "1.2.v"]))


class Listed(list[Scene]):
    """Scenes in memory, as a data set."""

    def outline(self, index: int) -> Outline:
        scene = self[index]
        return Outline(scene.id, scene.property, tuple(clip.possible for clip in scene.clips), scene.matches)


@pytest.fixture(scope="module")
def test() -> Scenes:
    return labelled_pairs(MiniPhys("test", 4, ("inertia",)))


@pytest.fixture(scope="module")
def bench(lens: DiTLens) -> Bench:
    return Bench(TINY, reader_with(lens, random_probe(1, 14), NoisePath("continuation", 20)))


@pytest.fixture(scope="module")
def effects(bench: Bench, test: Scenes) -> xr.Dataset:
    return bench.paths(test, EDGES)


def test_every_pair_and_path_is_measured_and_a_clip_with_itself_is_zero(effects: xr.Dataset) -> None:
    assert dict(effects.effect_logit.sizes) == {"scene": 4, "pair": 9, "sender": 10, "receiver": 3}
    forward = effects.effect_logit.notnull().all(["scene", "pair"])
    assert forward.sel(receiver="readout").all() and int(forward.sel(receiver="mlp 0").sum()) == 4
    assert list(effects.sender.values[forward.sel(receiver="1.2.v").values]) == ["0.0", "0.1", "0.2", "0.3", "mlp 0"]
    values = effects.effect_logit.fillna(0)
    assert not values.sel(pair="A→A").any() and float(np.abs(values.sel(pair="A→C")).max()) > 1e-4
    assert flat(label_effect_of_pairs(effects)).sizes == {"scene": 4, "path": 10 + 4 + 5}


def test_single_pairs_have_two_directions_and_a_circuit(bench: Bench, test: Scenes, effects: xr.Dataset) -> None:
    """Pairs that part at the frame of their scenes have the effects of A→C and C→A there, and donors of their own."""
    single = Bench(replace(TINY, data="folder=."), bench.reader)
    pairs = labelled_pairs(Listed(pair_of(scene, 9) for scene in test))
    alone = single.paths(pairs, EDGES)
    assert dict(zip(alone.pair.values, alone.sign.values, strict=True)) == {"A→C": 1, "C→A": -1, "A→A": 0}
    assert np.isfinite(label_effect_of_pairs(alone).sel(receiver="readout")).all()
    assert alone.total_logit.sel(pair="A→C").values == pytest.approx(
        -alone.total_logit.sel(pair="C→A").values, abs=1e-5
    )
    tested = single.circuits(divided(pairs)[1], alone)
    assert list(tested.role.values) == ["A", "C"] and tested.sizes["report_scene"] == 2
    assert float(np.abs(tested.value - tested.whole).max()) > 1e-4


def test_the_last_mlp_sends_the_readout_all_that_patching_it_does(
    bench: Bench, test: Scenes, effects: xr.Dataset
) -> None:
    """An earlier one reaches it by others too."""
    reader = bench.reader

    def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
        return patching.patch_writes(
            reader.lens, clean, corrupted, reader.steps, reader.probe.logit, writes=["mlp_out"]
        )

    whole = bench.over_pairs(test, measure, "MLPs").effect_logit.squeeze(["write", "region"], drop=True)
    direct = effects.effect_logit.sel(receiver="readout")
    np.testing.assert_allclose(direct.sel(sender="mlp 1"), whole.sel(block=1), rtol=1e-3, atol=1e-5)
    assert float(np.abs(direct.sel(sender="mlp 0") - whole.sel(block=0)).max()) > 1e-3


def test_no_scene_both_ranks_and_reports(test: Scenes) -> None:
    ranking, report = ({scene.id for scene in half} for half in divided(test))
    assert not ranking & report and ranking | report == {scene.id for scene in test} and len(ranking) == 2


def test_a_circuit_comes_from_the_ranking_scenes_alone(bench: Bench, test: Scenes, effects: xr.Dataset) -> None:
    ranking, report = divided(test)
    tested = bench.circuits(report, effects)
    mean = label_effect_of_pairs(effects.sel(scene=[scene.id for scene in ranking])).mean("scene")
    sizes = flat(mean.expand_dims("scene")).squeeze("scene").to_series().abs().sort_values(ascending=False)
    assert edges_of(tested) == list(sizes.index[:3])
    assert dict(tested.value.sizes) == {"role": 4, "report_scene": 2, "circuit": 4, "resampled": 2}
    assert parts_of(edges_of(tested)) == paths_of.parts_of(edges_of(tested))
    value, whole = shares(tested.assign(probe_spread=("model", [1.0])))
    assert list(value.scene) == [scene.id for scene in report] and float(np.abs(value - whole).max()) > 1e-4


def test_a_screen_ranks_all_paths_on_the_ranking_scenes(bench: Bench, test: Scenes, effects: xr.Dataset) -> None:
    ranking, _ = divided(test)
    edges, screen = Bench(replace(TINY, screened=5, sample=6), bench.reader).chosen(ranking)
    assert dict(screen.estimate.sizes) == {"sender": 10, "receiver": 1 + 2 + 4 * 3}
    assert int(screen.verified.sum()) == 5 and int(screen.sampled.sum()) == 6 and len(set(edges)) == len(edges)
    exact = label_effect_of_pairs(effects.sel(scene=[scene.id for scene in ranking])).mean("scene", skipna=False)
    shared = screen.estimate.sel(receiver=exact.receiver)
    known = exact.notnull().values
    np.testing.assert_array_equal(known, shared.notnull().values)
    assert np.corrcoef(shared.values[known], exact.transpose("sender", "receiver").values[known])[0, 1] > 0.7
    assert {edge for edge in EDGES if bool(screen.verified.sel(sender=edge[0], receiver=edge[1]))} <= set(edges)


FEW = [
    "--properties", "inertia", "--train", "5", "--test", "4", "--draws", "2", "--sampler-steps", "2", "--read-at", "1",
    "--block", "1", "--full",
]  # fmt: skip


def test_table_and_figure_of_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("patch_paths", [*FEW, "--controls", "--screened", "4", "--sample", "5", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "the 4 that gradients rank" in printed and "5 at random; rank agreement" in printed
    (figure,), (file,) = tmp_path.glob("patch_paths-*.pdf"), tmp_path.glob("patch_paths-*.nc")
    assert figure.stat().st_size > 5000
    result = results.open_result(file)
    patched = result.effect_logit.isel(model=0).notnull().all(["scene", "pair"])
    np.testing.assert_array_equal(patched, result.verified.astype(bool) | result.sampled.astype(bool))


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("patch_paths", [*FEW, "--controls", "mini-wan-random", "--heads", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "mini-wan, sigma" in printed and "mini-wan-random, sigma" in printed and "of 2 random circuits" in printed
    assert "a clip patched with itself: 0\n" in printed and "nan" not in printed
    (figure,), (file,) = tmp_path.glob("patch_paths-*.pdf"), tmp_path.glob("patch_paths-*.nc")
    assert figure.stat().st_size > 5000
    effect = results.open_result(file).effect_logit
    control = effect.sel(model="mini-wan-random", receiver="readout").isnull().all(["pair", "sender"])
    assert int(control.sum()) == 2  # the ranking scenes
