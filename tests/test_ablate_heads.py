"""Ablation of heads from the command line, and scores that tell knowledge that is gone from knowledge that moved."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import ablate_heads, ablations
from dit_lens import datasets, results
from dit_lens.probing import Probe, Reads
from figures import ablate_heads as figure

TINY = [
    "--controls", "mini-wan-random", "--properties", "continuity", "gravity", "--levels", "4", "--step", "2",
    "--train", "10", "--test", "4", "--batch-size", "5",
]  # fmt: skip


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["ablate_heads", *arguments])
    analyses.command.main(
        ablate_heads.Config, ablate_heads.run, ablate_heads.table, figure.draw, "ablate_heads", ablate_heads.__doc__
    )


def test_a_table_and_a_figure_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(TINY, monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert "mini-wan-random, whole: fixed" in told and "random write" in told and "n = 4" in told
    assert (tmp_path / "out" / "ablate_heads.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "ablate_heads.nc")
    assert list(result.replacement.values) == ["none", *ablate_heads.REPLACEMENTS]
    blocks = int(result.readout) + 1
    assert result.counts.sizes["block"] == blocks and result.counts.sizes["head"] == 4
    whole = result.counts.sel(replacement="none")
    assert (whole.isel(block=0, head=0) == whole).all()
    assert (result.counts.sel(part="of", score=["fixed", "refitted"]) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replacements", "zeros"], "did you mean 'zero'"),
        (["--train", "3"], "at least 10"),
    ],
)
def test_bad_input_says_what_to_do(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call([*TINY, *arguments], monkeypatch, tmp_path)
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_moved_knowledge_fails_the_fixed_probe_alone_and_lost_knowledge_both() -> None:
    splits = [list(datasets.load("miniphys", split=s, quadruplets=n)) for s, n in (("train", 60), ("test", 60))]
    random, sign = np.random.default_rng(0), np.array([1.0, 1.0, -1.0, -1.0])

    def clips(axis: int | None) -> np.ndarray:
        x = random.normal(size=(60, 4, 6))
        if axis is not None:
            x[..., axis] += 2 * sign
        return x

    probe = Probe(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), 0.0, 1.0, Reads("blocks.2.hook_resid_post", 2, 0.5, "none"))
    accuracy = {}
    for name, axis in (("whole", 0), ("moved", 3), ("lost", None)):
        scores = ablations.scores(probe, clips(axis), clips(axis), splits)
        good, of = scores.sum(-1).T
        accuracy[name] = dict(zip(ablations.SCORES, good / of, strict=True))
    assert accuracy["whole"]["fixed"] > 0.9 and accuracy["whole"]["refitted"] > 0.9
    assert abs(accuracy["moved"]["fixed"] - 0.5) < 0.1 < 0.9 < accuracy["moved"]["refitted"]
    assert abs(accuracy["lost"]["fixed"] - 0.5) < 0.1 and abs(accuracy["lost"]["refitted"] - 0.5) < 0.1
    assert accuracy["whole"]["colour"] < 0.4


def test_a_loss_is_what_the_whole_model_has_more() -> None:
    counts = np.zeros((2, 1, 2, 4, 1, 2))
    counts[:, 0, 1] = 1
    counts[0, 0, 0] = 0.75
    counts[1, 0, 0, :, 0] = [0.25, 0.75]
    result = xr.Dataset(
        {"counts": (("replacement", "score", "part", "quadruplet", "block", "head"), counts)},
        coords={"replacement": ["none", "zero"], "score": ["fixed"], "part": ["good", "of"], "quadruplet": range(4)},
    )
    assert ablations.loss(result).values.ravel().tolist() == [0.5, 0.0]
    estimate, low, high = ablations.loss_interval(result.isel(score=0, block=0, head=0))
    assert float(estimate) == float(low) == float(high) == 0.5
