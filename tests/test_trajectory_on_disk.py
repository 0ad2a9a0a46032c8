"""Paths that are written step by step are those made in memory, to the bit, and no more than a step stays there."""

from __future__ import annotations

import fcntl
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_pipelines import lens_on, noise, text, wan
from torch import Tensor

from dit_lens import Conditioning, DiTLens, flow
from dit_lens.conditioning import Guidance
from dit_lens.hook_points import Hook
from dit_lens.trajectory import Trajectory
from dit_lens.trajectory.on_disk import opened_lazily

STEPS = 12
AWAY = Guidance(3.0, Conditioning({"encoder_hidden_states": text(7)}))


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(wan())


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.cat([noise(), noise(1), noise(2)])


def same(first: Trajectory, second: Trajectory) -> bool:
    assert first.record is not None and second.record is not None
    return torch.equal(first.latents, second.latents) and first.record.identical(second.record)


def test_a_path_on_disk_is_the_one_in_memory(lens: DiTLens, latents: Tensor, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": STEPS, "solver": "euler", "batch_size": 2, "guidance": AWAY}
    here = lens.invert(latents, **options)
    there = lens.invert(latents, **options, to=tmp_path / "path.h5")
    assert same(here, there) and there.clip_ids == here.clip_ids
    assert (there.schedule.sigmas, there.direction) == (here.schedule.sigmas, "invert")
    assert there.guidance is not None and there.guidance.scale == 3 and there.facts["model"] == "small"
    whole, lazy = Trajectory.open(tmp_path / "path.h5"), opened_lazily(tmp_path / "path.h5")
    assert same(whole, here) and same(lazy, here)
    back = lens.sample(there, to=tmp_path / "back.h5")
    assert same(back, lens.sample(here)) and not torch.equal(back.latents, there.latents)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["back.h5", "path.h5"]


def test_a_path_stopped_early_has_fewer_steps(lens: DiTLens, latents: Tensor, tmp_path: Path) -> None:
    there = lens.invert(latents, STEPS, "euler", until=3, to=tmp_path / "path.h5")
    assert there.latents.shape[0] == 4
    with pytest.raises(IndexError, match="stopped"):
        there.latent(4)


class Spy:
    """Counts latents of steps that are alive while a path is integrated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.alive, self.most, plain = weakref.WeakSet(), 0, flow.integrate

        def integrate(*args: Any) -> Iterator[flow.Step]:
            for step in plain(*args):
                self.alive.add(step.x)
                gc.collect()
                self.most = max(self.most, len(self.alive))
                yield step

        monkeypatch.setattr(flow, "integrate", integrate)


def test_only_a_few_steps_are_alive_at_once(
    lens: DiTLens, latents: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    lens.invert(latents, STEPS, "euler", to=tmp_path / "path.h5")
    assert 0 < spy.most <= 3
    kept = list(flow.integrate(lambda x, sigma: x, latents, [i / STEPS for i in range(STEPS)], "euler"))
    assert spy.most == len(kept) == STEPS  # the spy does see what is kept


def test_a_step_is_read_when_it_is_touched(lens: DiTLens, latents: Tensor, tmp_path: Path) -> None:
    """What changes in the file after it was opened is seen, so that nothing had been read."""
    file = tmp_path / "path.h5"
    lens.invert(latents, 3, "euler", to=file)
    lazy, whole = opened_lazily(file), Trajectory.open(file)
    with h5py.File(file, "r+") as changed:
        values: Any = changed["latents"]
        values[2] = 5
    assert lazy.latent(2).eq(5).all() and not whole.latent(2).eq(5).any()


def test_a_lazy_path_is_a_map_of_its_file_and_cannot_be_written_through(
    lens: DiTLens, latents: Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "path.h5"
    path = lens.invert(latents, 2, "euler", to=file)
    before = file.read_bytes()
    path.latents.zero_()
    assert file.read_bytes() == before and not Trajectory.open(file).latents[0].eq(0).all()


def test_a_path_that_breaks_off_leaves_nothing(
    lens: DiTLens, latents: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "path.h5"
    file.write_text("what lay there before")
    calls = iter(range(9))  # two to a clip: the last one breaks off

    def break_off(x: Tensor, hook: Hook) -> Tensor:
        return x * torch.nan if next(calls) == 4 else x

    with pytest.raises(FloatingPointError), lens.hooks([("hook_velocity", break_off)]):
        lens.invert(latents, 2, "euler", batch_size=1, to=file)
    assert file.read_text() == "what lay there before" and [f.name for f in tmp_path.iterdir()] == ["path.h5"]


def test_a_step_that_was_changed_on_disk_is_named(lens: DiTLens, latents: Tensor, tmp_path: Path) -> None:
    file = tmp_path / "path.h5"
    lens.invert(latents, 3, "euler", to=file)
    with h5py.File(file, "r+") as damaged:
        values: Any = damaged["latents"]
        values[2, 0, 0, 0, 0, 0] += np.float32(1e-3)
    with pytest.raises(ValueError, match="the latents of step 2 have another checksum"):
        Trajectory.open(file)


def test_a_path_saved_whole_is_not_read_lazily(lens: DiTLens, latents: Tensor, tmp_path: Path) -> None:
    file = lens.invert(latents, 2, "euler").save(tmp_path / "path.h5")
    with pytest.raises(ValueError, match="written whole"):
        opened_lazily(file)
    with pytest.raises(FileNotFoundError):
        opened_lazily(tmp_path / "other.h5")


def test_a_file_that_somebody_else_has_open_is_not_told_as_damaged(
    lens: DiTLens, latents: Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "path.h5"
    lens.invert(latents, 2, "euler", to=file)
    with file.open("r+b") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        for opened in (opened_lazily, Trajectory.open):
            with pytest.raises(ValueError, match="another program has it open") as refused:
                opened(file)
            assert "make it again" not in str(refused.value)
    assert same(opened_lazily(file), Trajectory.open(file))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="make it again"):
        opened_lazily(file)
