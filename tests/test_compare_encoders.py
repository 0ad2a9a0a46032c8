"""Encoders side by side: planted signals are found, controls stay at chance, what cannot run says why."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
import figures.output
from analyses import compare_encoders
from analyses.compare_encoders import (
    PHYSICS,
    RECOLOURED,
    recolour_scores,
    scored,
    surprise_scores,
)
from analyses.probe_blocks import chosen
from analyses.sources import capture_all, of_frames
from dit_lens import baselines, results
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from figures import compare_encoders as figure

FEW = [
    "--controls",
    "--routes",
    "continuation",
    "--levels",
    "3",
    "--steps",
    "2",
    "--sigmas",
    "0.6",
    "--batch-size",
    "6",
]
SIZES = ["--train", "11", "--test", "11", "--tinted", "5"]
ROWS = ["--encoders", "pixels+moments", "pixels+still", "vjepa2=nowhere", "--surprises", "videomae=random"]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Quadruplet]]:
    return {part: MiniPhys(part, 6, ["colour", "shape"])[:] for part in ("train", "test")}


def darkened(quadruplet: Quadruplet) -> Quadruplet:
    """With impossible clips half as bright."""
    c, d = (replace(clip, frames=clip.frames // 2) for clip in (quadruplet.c, quadruplet.d))
    return replace(quadruplet, c=c, d=d)


def accuracies(line: str, splits: dict[str, list[Quadruplet]]) -> dict[str, float]:
    """Of a baseline, on physics and on tints."""
    baseline = baselines.constant("prompt embedding", np.ones(3)) if line == "prompt" else baselines.load(line)
    source = of_frames(baseline)
    sets = {PHYSICS: splits} | {
        what: {p: [f(q) for q in s] for p, s in splits.items()} for what, f in RECOLOURED.items()
    }
    row = scored({what: capture_all(source, here) for what, here in sets.items()}, source)
    tints = recolour_scores(row).sel(measure="accuracy").squeeze()
    return {PHYSICS: chosen(row).accuracy.item()} | {what: tints[what].item() for what in RECOLOURED}


@pytest.mark.parametrize("line", ["pixels+still", "vjepa2=random+still", "pixels+moments"])
def test_a_planted_signal_is_found_and_a_change_of_light_by_who_compares_halves_alone(
    line: str, splits: dict[str, list[Quadruplet]]
) -> None:
    seen = accuracies(line, {part: [darkened(q) for q in split] for part, split in splits.items()})
    assert seen[PHYSICS] == seen["tint"] == 1.0
    assert seen["tint change"] == 0.5 if line.endswith("still") else seen["tint change"] > 0.8


def test_what_is_the_same_for_all_clips_is_at_chance_on_every_label(splits: dict[str, list[Quadruplet]]) -> None:
    planted = {part: [darkened(q) for q in split] for part, split in splits.items()}
    assert set(accuracies("prompt", planted).values()) == {0.5}


def test_noise_knows_the_spread_of_the_states_and_no_clip(splits: dict[str, list[Quadruplet]]) -> None:
    planted = {part: [darkened(q) for q in split] for part, split in splits.items()}
    source = of_frames(baselines.load("resnet=random", "tokens"))
    seen = {part: source.features(split) for part, split in planted.items()}
    before = seen["train"].copy(deep=True)
    noise = baselines.noise_like(seen, seed=0)
    assert seen["train"].equals(before) and noise["test"].shape == seen["test"].shape
    assert noise["test"].property.equals(seen["test"].property) and noise["test"].possible.equals(seen["test"].possible)
    clips = ("quadruplet", "role")
    for block in range(5):
        of, real = noise["train"].isel(block=block), seen["train"].isel(block=block)
        assert float(of.std(clips).sum() / real.std(clips).sum()) == pytest.approx(1, abs=0.35)
    assert not np.allclose(noise["train"], noise["test"]) and noise["test"].equals(
        baselines.noise_like(seen, 0)["test"]
    )
    many = {"train": seen["train"], "test": xr.concat([seen["test"]] * 30, "quadruplet")}
    labels = many["test"].possible.values.ravel()
    drawn = baselines.noise_like(many, seed=0)["test"].isel(step=0, block=1).values.reshape(len(labels), -1)
    gap = (drawn[labels].mean(0) - drawn[~labels].mean(0)) / np.maximum(drawn.std(0), 1e-9)
    real = many["test"].isel(step=0, block=1).values.reshape(len(labels), -1)
    planted_gap = (real[labels].mean(0) - real[~labels].mean(0)) / np.maximum(real.std(0), 1e-9)
    assert np.abs(gap).max() < 0.3 < np.abs(planted_gap).max()


def test_surprise_scores_by_hand() -> None:
    values = np.array([[[1, 2, 3, 4], [1, 4, 2, 3], [9, 9, 0, 0]], [[4, 3, 2, 1], [1, 4, 2, 3], [0, 0, 9, 9]]], float)
    result = xr.Dataset(
        {
            "surprise": (("scorer", "quadruplet", "role"), values),
            "crossed": ("quadruplet", [True, True, False]),
        },
        {"scorer": ["knows", "thinks the contrary"]},
    )
    scores = surprise_scores(result)
    assert scores.pairwise.values == pytest.approx([0.75, 0.25])
    assert float(scores.d_prime[0]) > 0 > float(scores.d_prime[1])
    assert (scores.low <= scores.pairwise).all() and (scores.pairwise <= scores.high).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["compare_encoders", *arguments])
    module = compare_encoders
    analyses.command.main(module.Config, module.run, module.table, figure.draw, "compare_encoders", module.__doc__)


def test_table_and_figure_and_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call([*FEW, *SIZES, *ROWS], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert (tmp_path / "out" / "compare_encoders.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "compare_encoders.nc")
    names = [str(name) for name in result.source.values]
    assert names == [
        "mini-wan, continuation",
        "mini-wan, latent",
        "prompt embedding",
        "pixels, moments over time",
        "pixels, last frame only",
        "noise matched to mini-wan, continuation",
    ]
    assert all(name in told for name in names) and "n = 11 test quadruplets" in told
    assert "vjepa2=nowhere: no weights at nowhere" in told and "V-JEPA 2.1: transformers has" in told
    scores, tints = chosen(result), recolour_scores(result).sel(measure="accuracy")
    assert float(scores.accuracy.sel(source="prompt embedding")) == 0.5
    assert float(tints["tint change"].sel(source="pixels, last frame only")) == 0.5
    assert float(tints["tint"].sel(source="mini-wan, continuation")) > 0.9
    assert list(result.scorer.values) == ["mini-wan, velocity", "VideoMAE, random"]


def test_a_misspelt_encoder_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call([*FEW, *SIZES, "--encoders", "vidomae=random"], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "did you mean 'videomae'" in capsys.readouterr().err
