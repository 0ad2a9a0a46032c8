"""Training: levels as promised, resuming ends in the same weights, twins see their own world, the folder loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from safetensors.torch import load_file

from dit_lens.lens import DiTLens
from dit_lens.toy.training import world_model
from dit_lens.toy.training.card import continue_from
from dit_lens.toy.training.flow_matching import MODES, STATE, Config, State, draw_levels, draw_mode, flow_loss, velocity
from dit_lens.toy.training.world_model import run

TINY = {"quadruplets": 11, "batch_size": 4, "minutes": 60.0, "device": "cpu", "checkpoints": (1,)}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report on a few scenes is enough here."""
    evaluate = world_model.evaluate
    monkeypatch.setattr(world_model, "evaluate", lambda model, codec, config: evaluate(model, codec, config, 11))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_levels_are_laid_over_frames_as_the_mode_says() -> None:
    whole, prefix, per_frame = (draw_levels(mode, 200, 5, Config(), generator()) for mode in MODES)
    assert (whole == whole[:, :1]).all() and (whole > 0).all()
    known_frames = (prefix == 0).sum(1)
    assert set(known_frames.tolist()) == {1, 2, 3, 4}
    for levels, known in zip(prefix, known_frames, strict=True):
        assert (levels[:known] == 0).all() and (levels[known:] == levels[-1]).all() and levels[-1] > 0
    assert (per_frame.std(1) > 0).all() and (per_frame > 0).all()


def test_modes_are_drawn_as_often_as_they_should() -> None:
    source = generator()
    drawn = [draw_mode(Config(), source) for _ in range(2000)]
    assert drawn.count("prefix") / 2000 == pytest.approx(0.3, abs=0.03)
    assert drawn.count("per_frame") / 2000 == pytest.approx(0.2, abs=0.03)


def test_frames_that_are_given_do_not_count_in_the_loss() -> None:
    clean, levels = torch.zeros(2, 3, 5, 8, 8), torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.5]] * 2)
    inputs: list[torch.Tensor] = []

    def model(noisy: torch.Tensor, timesteps: torch.Tensor, prompt: torch.Tensor, return_dict: bool) -> tuple:
        inputs.extend([noisy, timesteps])
        guess = noisy / 0.5  # right where half is noise
        guess[:, :, :2] = 100.0
        return (guess,)

    assert float(flow_loss(model, clean, levels, generator())) == pytest.approx(0, abs=1e-10)
    noisy, timesteps = inputs
    assert not noisy[:, :, :2].any() and noisy[:, :, 2:].any()
    assert timesteps.shape == (2, 80) and set(timesteps[0, :32].tolist()) == {0.0} and timesteps[0, 32] == 500


def test_one_level_per_clip_is_fed_as_a_pipeline_does() -> None:
    fed: list[torch.Tensor] = []

    def model(noisy: torch.Tensor, timesteps: torch.Tensor, prompt: torch.Tensor, return_dict: bool) -> tuple:
        fed.append(timesteps)
        return (noisy,)

    velocity(model, torch.zeros(2, 3, 5, 8, 8), torch.tensor([[0.25], [0.5]]).expand(2, 5))
    assert fed[0].tolist() == [250.0, 500.0]


def test_a_continuation_keeps_what_it_was_given() -> None:
    latents = torch.randn(2, 3, 5, 8, 8, generator=generator())

    def model(noisy: torch.Tensor, timesteps: torch.Tensor, prompt: torch.Tensor, return_dict: bool) -> tuple:
        return (torch.ones_like(noisy),)

    continued = continue_from(model, latents, 3, generator(1))
    assert torch.equal(continued[:, :, :3], latents[:, :, :3])
    noise = torch.randn(latents.shape, generator=generator(1))
    torch.testing.assert_close(continued[:, :, 3:], noise[:, :, 3:] - 1)


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
    uninterrupted, resumed = (load_file(folder / STATE) for folder in (whole, parts))
    assert uninterrupted.keys() == resumed.keys() and all(
        torch.equal(uninterrupted[key], resumed[key]) for key in uninterrupted
    )


def test_training_leaves_the_attention_of_other_models_alone(tmp_path: Path) -> None:
    before = _AttentionBackendRegistry.get_active_backend()
    run(Config(out=tmp_path, steps=1, **TINY))
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run(Config(out=tmp_path, steps=1, **TINY))
    with pytest.raises(ValueError, match="of another run"):
        run(Config(out=tmp_path, steps=1, muon_rate=1e-3, **TINY))


@pytest.mark.parametrize(("model", "says"), [("mini-wan-null", "know nothing"), ("mini-wan-swap", "complementary")])
def test_a_trained_folder_loads_as_a_lens(tmp_path: Path, model: str, says: str) -> None:
    folder = run(Config(model=model, out=tmp_path / "twin", steps=2, save_every=1, **TINY))
    lens = DiTLens.from_pretrained(folder)
    assert lens.blocks == 6 and lens.conditioning.prompt == ""
    assert says in (folder / "README.md").read_text()
    assert {"samples.png", "continuations.png", "loss.csv"} <= {file.name for file in folder.iterdir()}
    early = DiTLens.from_pretrained(f"{folder}@step1")
    weights = [lens.transformer.state_dict()["proj_out.weight"] for lens in (lens, early)]
    assert not torch.equal(*weights)
    with pytest.raises(ValueError, match="expected a saved checkpoint: 1"):
        DiTLens.from_pretrained(f"{folder}@step7")
