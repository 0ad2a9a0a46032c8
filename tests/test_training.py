"""Training resumes to the same weights, and the null twin's halves are independent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_lens.lens import DiTLens
from dit_lens.training import SPLICE_LATENT, STATE, Config, State, draw_batch, run

TINY = {"quadruplets": 10, "batch_size": 4, "minutes": 60.0, "device": "cpu"}


def test_lawful_batches_hold_whole_clips_and_crossed_ones_halves_of_two() -> None:
    latents = torch.arange(2.0).view(1, 2, 1, 1, 1, 1).expand(1, 2, 1, 5, 1, 1)

    def kinds(crossed: bool) -> set[tuple[float, float]]:
        batch = draw_batch(latents, crossed, 64, torch.Generator().manual_seed(0))[:, 0, :, 0, 0]
        assert (batch[:, :SPLICE_LATENT].std(1) == 0).all() and (batch[:, SPLICE_LATENT:].std(1) == 0).all()
        return {(float(clip[0]), float(clip[-1])) for clip in batch}

    assert kinds(False) == {(0, 0), (1, 1)}
    assert kinds(True) == {(0, 1), (1, 0)}


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(Config(out=tmp_path / "whole", steps=4, save_every=2, **TINY))
    save, saves = State.save, 0

    def killed(state: State, path: Path) -> None:
        nonlocal saves
        save(state, path)
        saves += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(Config(out=tmp_path / "parts", steps=4, save_every=2, **TINY))
    assert saves == 1
    parts = run(Config(out=tmp_path / "parts", steps=4, save_every=2, **TINY))
    one, other = (load_file(folder / STATE) for folder in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_trained_folder_loads_as_a_lens(tmp_path: Path) -> None:
    folder = run(Config(model="mini-wan-null", out=tmp_path / "null", steps=2, **TINY))
    lens = DiTLens.from_pretrained(folder)
    assert lens.blocks == 6 and lens.conditioning.prompt == ""
    assert "know nothing of each other" in (folder / "README.md").read_text()
