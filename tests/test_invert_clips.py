"""The analysis of inversion as a command: table, verdicts and figure; clips of a folder; one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from analyses import command
from analyses.invert_clips import Config, files
from dit_lens import fidelity, results
from dit_lens.fidelity import SOLVERS
from dit_lens.lens import DiTLens
from dit_lens.measures import invert_clips as measures
from dit_lens.measures.invert_clips import label_verdict
from dit_lens.probing import Probe, Reads
from dit_lens.studies.inversions import reports
from dit_lens.studies.inversions.labels import label_table
from dit_lens.studies.inversions.probes import inverted
from dit_lens.studies.inversions.reports import watched_heads
from dit_lens.studies.inversions.solvers import in_bfloat16
from dit_lens.toy.miniphys import MiniPhys

TINY = [
    "--model", "mini-wan-random", "--controls", "--train", "5", "--test", "2", "--shown", "1", "--step-counts", "1",
    "--sampler-steps", "2", "--fine", "1", "--probe-scenes", "5", "--read-at", "0",
]  # fmt: skip


def config(*arguments: str) -> Config:
    """Options, checked."""
    return command.parse(Config, "invert_clips", [*TINY, *arguments], "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 20 frames, 48 x 64, as folders of images, and a table of them."""
    home = tmp_path_factory.mktemp("videos") / "mine"
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 48, 64, 3), dtype=np.uint8)
    for name, clip in zip("ab", frames, strict=True):
        (home / name).mkdir(parents=True)
        for i, frame in enumerate(clip):
            Image.fromarray(frame).save(home / name / f"{i:02d}.png")
    (home / "clips.csv").write_text("path,label\na,possible\nb,unknown\n")
    return home


def test_table_verdicts_and_figure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.call("invert_clips", [*TINY, "--folder", str(folder), "--full", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert all(f"{solver}  " in said for solver in SOLVERS)
    assert "mini-wan-random, miniphys (n = 4)" in said and "mini-wan-random, mine (n = 2)" in said
    assert "embedding moved by 10%" in said and "probe (n = 8)" in said
    assert said.count("  Known noise: recovered to") == 2 and said.count("Labels: ") == 2
    (path,) = tmp_path.glob("*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert result.table_evaluations.sel(solver="Euler").values.tolist() == [1] and result.sampler_steps.values == [1]
    moved = result.prompt_noise.sel(prompt=["embedding moved by 10%", "embedding moved by 100%"]).values
    assert 0 < moved[0] < moved[1]
    error = result.table_error.isel(sampler_steps=0)
    assert float(error.sel(solver="implicit Euler")) < 0.01 * float(error.sel(solver="Euler"))


def test_files_become_clips_of_the_data_sets_size_and_a_table_is_no_clip(folder: Path) -> None:
    clip = MiniPhys("test", 1)[0].clips[0]
    clips = files(str(folder), clip)
    assert len(clips) == 2 and {file_clip.frames.shape for file_clip in clips} == {(17, 32, 32, 3)}
    first = np.asarray(Image.open(folder / "a" / "00.png"))
    assert abs(clips[0].frames[0].mean() - first[:, 8:56].mean()) < 2
    large = replace(clip, frames=np.zeros((21, 16, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="with 20 frames"):
        files(str(folder), large)
    assert files(str(folder), replace(clip, frames=large.frames[:5]))[1].frames.shape == (5, 16, 24, 3)


def test_labels_are_scored_alike_in_batches_of_any_size_and_found_where_they_are_planted(lens: DiTLens) -> None:
    scenes = MiniPhys("test", 3)[:]
    reads = Reads("blocks.2.hook_resid_post", 1, 0.5, lens.name)
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    probe = Probe(weight, 0.0, 1.0, reads)
    tables = [label_table(lens, scenes, probe, config("--batch-size", size)) for size in ("1", "3")]
    for name in ("label_auroc", "label_pairwise"):
        assert np.allclose(tables[0][name], tables[1][name]), name
    bright = [
        replace(scene, clips=tuple(
            clip if clip.possible else replace(clip, frames=np.full_like(clip.frames, 255)) for clip in scene.clips
        ))
        for scene in scenes
    ]  # fmt: skip
    planted = label_table(lens, bright, probe, config())
    assert abs(planted.label_auroc.sel(predictor="|x_σ - x_0|") - 0.5) == 0.5
    assert planted.label_clips == 12


def test_patterns_are_watched_where_they_fit(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inverted(lens, MiniPhys("test", 1)[:], config(), 1, "euler")
    assert watched_heads(lens, path) == [(0, 0), (2, 0), (5, 0)]
    monkeypatch.setattr(reports, "PATTERNS", 1e4)
    assert watched_heads(lens, path) == []


def test_bfloat16_is_compared_with_only_where_it_can_be_loaded(
    lens: DiTLens, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(study: Config, name: str = "") -> DiTLens:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Config, "lens", lambda study, name="": study.dtype)
    assert in_bfloat16(lens, config()) == "bfloat16"  # the same study in another dtype
    monkeypatch.setattr(Config, "lens", full)
    assert in_bfloat16(lens, config()) is None and "out of memory" in capsys.readouterr().err
    assert in_bfloat16(lens, config("--offload", "model")) is None and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--path", "noising"], "expected inversion"),
        (["--probe-scenes", "4"], "at least 5 --probe-scenes"),
        (["--step-counts"], "one or more step counts"),
        (["--data", "phyworld=."], "no clips labelled"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(*arguments)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.4, 0.6, "no measure"), (0.6, 0.8, "|v| (0.70 [0.60, 0.80]) SEPARATES"), (0.1, 0.3, "at most 0.30")],
)
def test_the_sentence_on_labels_follows_the_interval(low: float, high: float, says: str) -> None:
    predictors = ["|v|", "probe (for comparison)"]
    sentence = label_verdict(
        xr.Dataset(
            {
                "label_auroc": ("predictor", [(low + high) / 2, 0.95]),
                "label_low": ("predictor", [low, 0.9]),
                "label_high": ("predictor", [high, 1.0]),
            },
            coords={"predictor": predictors},
        )
    )
    assert says in sentence and "probe (for" not in sentence


def test_names_are_those_of_fidelity() -> None:
    assert (measures.CEILING, measures.TO_SOURCE, measures.TO_CEILING) == fidelity.COMPARISONS
    assert (measures.SAMPLED, measures.ENCODED) == fidelity.STARTS and measures.EXTREME == fidelity.EXTREME
