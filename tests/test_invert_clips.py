"""The analysis of inversion from the command line: table, verdicts and figure; clips from files; one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import analyses.command
import figures.output
from analyses import invert_clips
from analyses.invert_clips import files
from analyses.invert_clips_table import label_verdict
from dit_lens import results
from dit_lens.fidelity import SOLVERS
from figures import invert_clips as figure

TINY = [
    "--train",
    "10",
    "--test",
    "2",
    "--clips",
    "1",
    "--levels",
    "2",
    "--steps",
    "3",
    "--fine",
    "3",
    "--few_train",
    "5",
    "--few_test",
    "2",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips of 20 frames, 48 x 64, as folders of images."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 48, 64, 3), dtype=np.uint8)
    for name, clip in zip("ab", frames, strict=True):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / "mine" / name / f"{i:02d}.png")
    return tmp_path / "mine"


def test_table_verdicts_and_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(analyses.command, "DATA", tmp_path / "data")
    monkeypatch.setattr(figures.output, "OUT", tmp_path / "out")
    arguments = ["--model", "mini-wan-random", "--controls", "--folder", str(folder), *TINY]
    monkeypatch.setattr(sys, "argv", ["invert_clips", *arguments])
    analyses.command.main(
        invert_clips.Config, invert_clips.run, invert_clips.table, figure.draw, "invert_clips", invert_clips.__doc__
    )
    told = capsys.readouterr().out
    assert all(f"{solver}  " in told for solver in SOLVERS)
    assert "mini-wan-random, miniphys (n = 4)" in told and "mini-wan-random, mine (n = 2)" in told
    assert "embedding moved by 10%" in told and "probe (n = 8)" in told
    assert told.count("  Known noise: recovered to") == 2 and "Labels: " in told
    assert (tmp_path / "out" / "invert_clips.pdf").stat().st_size > 5000
    made = results.open_result(tmp_path / "data" / "invert_clips.nc")
    assert made.table_evaluations.sel(solver="Euler").values.tolist() == [2]
    assert (made.table_drift > 0).all() and made.table_drift.max() < 0.2 and " n/a " not in told
    moved = made.prompt_noise.sel(prompt=["embedding moved by 10%", "embedding moved by 100%"]).values
    assert 0 < moved[0] < moved[1]
    error = made.table_error.isel(levels=0)
    assert float(error.sel(solver="implicit Euler")) < 0.01 * float(error.sel(solver="Euler"))


def test_files_become_clips_of_the_data_sets_size(folder: Path) -> None:
    clips = files(folder, np.zeros((17, 32, 32, 3), np.uint8))
    assert clips.shape == (2, 17, 32, 32, 3) and clips.dtype == np.uint8
    first = np.asarray(Image.open(folder / "a" / "01.png"))  # 00 is cut off as a curtain
    assert abs(clips[0, 0].mean() - first[:, 8:56].mean()) < 2
    with pytest.raises(ValueError, match="expected at least 19"):
        files(folder, np.zeros((19, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("low", "high", "says"), [(0.4, 0.6, "no measure"), (0.6, 0.8, "|v| TELL"), (0.1, 0.3, "at most 0.30")]
)
def test_the_sentence_on_labels_follows_the_interval(low: float, high: float, says: str) -> None:
    predictors = ["|v|", "probe (for comparison)"]
    told = label_verdict(
        xr.Dataset(
            {
                "label_auroc": ("predictor", [(low + high) / 2, 0.95]),
                "label_low": ("predictor", [low, 0.9]),
                "label_high": ("predictor", [high, 1.0]),
            },
            coords={"predictor": predictors},
        )
    )
    assert says in told and "probe (for" not in told
