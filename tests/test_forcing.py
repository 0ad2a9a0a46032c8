"""Forcing: given frames stay as they are, truth scores best, drift is seen; table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import forcing
from analyses.forcing import COUNTS, Config, ceiling, drifted, scored
from analyses.forcing_scores import by_hiding, drift_scores, scores
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.video import to_tensor
from figures import forcing as figure


@pytest.fixture(scope="module")
def batch() -> list[Quadruplet]:
    return MiniPhys("test", 4, ["colour", "inertia"])[:]


def video(batch: list[Quadruplet], clips: str = "ab") -> torch.Tensor:
    return to_tensor(np.stack([getattr(q, clip).frames for clip in clips for q in batch]))


def test_the_truth_scores_in_full_and_an_impossible_second_half_does_not(batch: list[Quadruplet]) -> None:
    true = scores(scored(video(batch), batch))
    assert (true.found, true.place, true.colour) == (1, 1, 1) and true.error < 0.1 and np.isinf(true.psnr)
    crossed = scored(video(batch, "cd"), batch)
    colour, inertia = (scores(crossed.isel(quadruplet=crossed.property == p)) for p in ("colour", "inertia"))
    assert colour.place == 1 and colour.colour == 0
    assert inertia.found < 0.5 and np.isfinite(inertia.psnr)


def test_only_the_second_half_is_scored(batch: list[Quadruplet]) -> None:
    half = video(batch)
    half[:, :, : batch[0].splice] = 0
    assert scores(scored(half, batch)).equals(scores(scored(video(batch), batch)))
    half[:, :, batch[0].splice :] = 0
    gone = scores(scored(half, batch))
    assert gone.found == 0 and gone.objects == 0 and np.isnan(gone.colour)


def test_the_autoencoder_is_the_ceiling_by_hand(lens: DiTLens, batch: list[Quadruplet]) -> None:
    sums = ceiling(lens, batch)
    again = lens.family.decode(lens.vae, lens.encode([q.a for q in batch]))
    wanted = (again - video(batch, "a")).square()[:, :, batch[0].splice :].sum((1, 2, 3, 4))
    assert sums.sel(role="A", count="squared").values == pytest.approx(wanted.numpy())
    assert sums.sel(count="pixels").values == pytest.approx(8 * 32 * 32 * 3)


def test_hiding_keeps_clips_apart() -> None:
    values = np.ones((4, 2, len(COUNTS)))
    values[:, 1, COUNTS.index("place")] = 0  # clips B are misplaced, and hidden longer
    coordinates = {"hidden": (("quadruplet", "role"), np.tile([5, 7], (4, 1))), "count": list(COUNTS)}
    measured = by_hiding(xr.DataArray(values, coordinates, ("quadruplet", "role", "count")))
    assert {span: int(row.clips) for span, row in measured.items()} == {5: 4, 7: 4}
    assert {span: float(row.place) for span, row in measured.items()} == {5: 1, 7: 0}


def test_drift_is_none_where_the_video_goes_on_and_some_where_it_does_not(
    lens: DiTLens, batch: list[Quadruplet], monkeypatch: pytest.MonkeyPatch
) -> None:
    def still(lens: DiTLens, video: torch.Tensor, rounds: int, *_: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
        end = video[:, :, 9:]
        return [(torch.zeros(4, 16, 2, 8, 8), end), (torch.zeros(4, 16, 2, 8, 8), end + 0.2)]

    monkeypatch.setattr(forcing, "roll_on", still)
    drift = drift_scores(drifted(lens, batch, Config(levels=(0.0,), rounds=2))).isel(level=0)
    same, shifted = (drift.sel(end="middle", statistic="scenery", round=r) for r in (1, 2))
    assert same < 4 and shifted - same > 15  # grey levels; 0.2 of 2 are 25.5
    sharpness = drift.sel(end="middle", statistic="sharpness")
    assert float(sharpness[1]) == pytest.approx(float(sharpness[2]), rel=1e-3)
    assert (drift.sel(statistic="latents", round=[1, 2]) == 0).all() and drift.sel(statistic="latents", round=0).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["forcing", *arguments])
    analyses.command.main(Config, forcing.run, forcing.table, figure.draw, "forcing", forcing.__doc__)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--test", "2", "--rolled", "2", "--rounds", "1", "--steps", "2", "--levels", "0", "0.4"]
    call([*sizes, "--controls", "mini-wan-random"], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert all(name in told for name in ("autoencoder", "mini-wan-random, frames given", "σ_c=0.4", "scenery"))
    assert (tmp_path / "out" / "forcing.pdf").stat().st_size > 5000


@pytest.mark.parametrize("arguments", [["--test", "1"], ["--rounds", "0"], ["--levels"]])
def test_too_little_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(["--controls", "mini-wan-random", *arguments], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "expected 2 quadruplets" in capsys.readouterr().err
