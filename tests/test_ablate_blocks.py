"""Blocks taken away, at once and along the way alike; effects told apart by label; the analysis from outside."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import ablate_blocks
from analyses.ablate_blocks_changes import REPLACEMENTS, WRITES, Absent, Known, known, writes_of
from analyses.ablate_blocks_table import label_odd, surprise, threshold
from dit_lens import ablation, results
from dit_lens.capture import Route, travel
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request
from dit_lens.sweeps import Change, sweep
from figures import ablate_blocks as figure

STEP, BLOCK = 2, 1
TINY = [
    "--controls", "--properties", "inertia", "gravity", "--levels", "4", "--step", "2", "--way", "1",
    "--train", "10", "--test", "4", "--batch-size", "5", "--replacements", "mean", "--writes", "all",
]  # fmt: skip


@pytest.fixture(scope="module")
def fed(lens: DiTLens) -> dict[int, Evaluation]:
    path = travel(lens, batch(), Route(levels=4), until=STEP)
    return {step: lens.evaluation(path, step) for step in (1, STEP)}


def batch() -> list[Quadruplet]:
    return MiniPhys("test", 3, ["gravity"])[:]


@pytest.fixture(scope="module")
def own(lens: DiTLens, fed: dict[int, Evaluation]) -> Known:
    means = ablation.means_over(lens, [fed], [w for b in range(lens.blocks) for w in writes_of(lens, b)])
    return known(lens, fed, batch(), means, (0.5, 0))


def summed(point: str) -> Readout:
    return Readout(lambda velocity, cache: cache[point].flatten(1)[:, ::7].sum(1), (point,))


@pytest.mark.parametrize(("replacement", "write"), [*product(REPLACEMENTS, WRITES)])
def test_away_at_once_is_away_under_hooks(
    replacement: str, write: str, lens: DiTLens, fed: dict[int, Evaluation], own: Known
) -> None:
    end, writes = "blocks.4.hook_resid_post", writes_of(lens, BLOCK)
    assert [name.rpartition("_")[0] for name in writes] == [f"blocks.1.hook_{w}" for w in ("attn", "cross_attn", "mlp")]
    cell, metric = Absent(replacement, write, BLOCK), summed(end)  # type: ignore[arg-type]
    fast = sweep(lens, fed[STEP], [cell.at_once(writes, own, STEP)], {"": metric})
    with lens.hooks([(change.point, change.edit) for change in cell.along(writes, own)]):
        moved = read_at(lens, fed[STEP], end)
    torch.testing.assert_close(fast.effect[""][:, 0], moved - fast.before[""], rtol=1e-4, atol=1e-3)
    assert fast.effect[""].abs().mean() > 0.05


def read_at(lens: DiTLens, evaluation: Evaluation, point: str) -> torch.Tensor:
    with torch.no_grad():
        velocity, cache = lens.model.run(evaluation, Request([point]))
    return summed(point)(velocity, cache)


def test_a_random_write_is_as_long_as_the_blocks_own(lens: DiTLens, fed: dict[int, Evaluation], own: Known) -> None:
    pre, post = (own.own[f"blocks.{BLOCK}.hook_resid_{end}"][STEP] for end in ("pre", "post"))
    seen: list[torch.Tensor] = []
    (change,) = Absent("random write", "all", BLOCK).along(writes_of(lens, BLOCK), own)
    with lens.hooks([(change.point, change.edit), (change.point, lambda x, hook: seen.append(x))]):
        read_at(lens, fed[STEP], change.point)
    torch.testing.assert_close((seen[0] - post).norm(dim=-1), (post - pre).norm(dim=-1), rtol=1e-4, atol=1e-4)


def test_a_block_that_writes_nothing_is_not_missed(lens: DiTLens, fed: dict[int, Evaluation], own: Known) -> None:
    """Its writes are taken away before: to take them away again does nothing; with another block it does."""
    gone = [Change(write, lambda x, hook: torch.zeros_like(x)) for write in writes_of(lens, BLOCK)]
    cell = Absent("zero", "all", BLOCK), Absent("zero", "all", 3)
    once = [[(c.point, c.edit) for c in gone], [(c.point, c.edit) for c in cell[0].along(writes_of(lens, BLOCK), own)]]
    end = "blocks.4.hook_resid_post"
    values = []
    for hooks in (once[0], [*once[0], *once[1]], [(c.point, c.edit) for c in cell[1].along(writes_of(lens, 3), own)]):
        with lens.hooks(hooks):
            values.append(read_at(lens, fed[STEP], end))
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-4)
    assert (values[2] - values[0]).abs().min() > 0.1


def planted(effect: float) -> xr.Dataset:
    """Logits to which block 1 is needed by `effect`, block 0 by content alone and block 2 not at all; errors alike."""
    random, n = np.random.default_rng(0), 12
    sign = np.array([1.0, 1.0, -1.0, -1.0])
    logit = np.zeros((1, 2, 1, 3, n, 4)) + 0.4 * sign
    logit[:, 1, :, 0] += random.normal(size=(n, 1)) + 0.05 * random.normal(size=(n, 4))
    logit[:, 1, :, 1] -= effect * sign * random.uniform(0.5, 1.5, size=(n, 1))
    logit[:, 1, :, 2] += 0.05 * random.normal(size=(n, 4))
    dims = ("reading", "replacement", "write", "block", "quadruplet", "role")
    coords = {"role": list("ABCD"), "replacement": ["none", "mean"]}
    return xr.Dataset({"logit": (dims, logit), "error": (dims[1:], 1 - 0.1 * logit[0])}, coords=coords)


def test_what_a_label_needs_is_told_from_content() -> None:
    odd = label_odd(planted(0.3))
    assert odd.sel(replacement="none").values == pytest.approx(0.8)
    mean = odd.sel(replacement="mean").mean("quadruplet").values.ravel()
    assert mean[1] == pytest.approx(-0.6, abs=0.15) and abs(mean[0]) < 0.05 and abs(mean[2]) < 0.05
    t, beyond = threshold(odd.drop_sel(replacement="none"))
    assert (np.abs(t.values.ravel()) > beyond).tolist() == [False, True, False] and 2 < beyond < 5
    t, beyond = threshold(label_odd(planted(0.0)).drop_sel(replacement="none"))
    assert (np.abs(np.nan_to_num(t.values)) < beyond).all()


def test_a_block_that_tells_the_label_surprises_less_without() -> None:
    top, bottom = surprise(planted(0.3))
    value = (top.sum("quadruplet") / bottom.sum("quadruplet")).values
    assert value[0] == pytest.approx(100 * 0.08 / 0.96)
    assert value[1, 0, 1] == pytest.approx(-100 * 0.06 / 0.96, rel=0.25) and abs(value[1, 0, [0, 2]]).max() < 1


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["ablate_blocks", *arguments])
    run = ablate_blocks.run, ablate_blocks.table, figure.draw
    analyses.command.main(ablate_blocks.Config, *run, "ablate_blocks", ablate_blocks.__doc__)


def test_a_table_and_a_figure_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(TINY, monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert "n = 4 test quadruplets" in told and "on the way, label-odd effect" in told and "surprise" in told
    assert (tmp_path / "out" / "ablate_blocks.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "ablate_blocks.nc")
    assert list(result.reading.values) == ["half given", "at the readout", "on the way", "both"]
    odd = label_odd(result).drop_sel(replacement="none").isel(quadruplet=0)
    for reading in ("half given", "at the readout"):  # blocks behind the readout can do something on the way alone
        behind = odd.sel(reading=reading).isel(model=0, replacement=0, write=0).isnull()
        assert behind.values.tolist() == [b > int(result.readout.isel(model=0).sel(reading=reading)) for b in range(6)]
    assert not odd.sel(reading=["on the way", "both"]).isnull().any()
    counts = result.counts.sel(part="of", score="fixed").isel(block=0)
    assert (counts == 1).all()
    assert not result.counts.sel(reading="half given", score="refitted").isel(block=0).isnull().any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--train", "3"], "at least 10"),
        (["--way", "2"], "on the way to 2"),
        (["--replacements"], "expected of zero, mean"),
    ],
)
def test_bad_input_says_what_to_do(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call([*TINY, *arguments], monkeypatch, tmp_path)
    assert ended.value.code == 2 and says in capsys.readouterr().err
