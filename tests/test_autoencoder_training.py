"""mini-vae: a resumed run ends in the same weights; what is saved is a stock, causal, whitened autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from dit_lens.toy.mini_vae import new_autoencoder, whole_clips
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.training.autoencoder import STATE, Config, State, frames_of, run
from dit_lens.toy.training.quality import moving_pixels, reconstruction_quality
from dit_lens.video import to_tensor

TINY = {"quadruplets": 11, "batch_size": 2, "minutes": 60.0, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(Config(out=tmp_path_factory.mktemp("vae") / "whole", steps=4, save_every=2, **TINY))


def load(folder: Path) -> AutoencoderKLWan:
    vae = AutoencoderKLWan.from_pretrained(folder)
    assert isinstance(vae, AutoencoderKLWan)
    return vae.eval()


def latents(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(video, return_dict=False)[0].mode()


def equal(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return a == b


def test_a_resumed_run_ends_in_the_same_weights(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saves = State.save, 0

    def killed(state: State, path: Path) -> None:
        nonlocal saves
        save(state, path)
        saves += 1
        raise KeyboardInterrupt

    config = Config(out=tmp_path / "parts", steps=4, save_every=2, **TINY)
    with monkeypatch.context() as patch:
        patch.setattr(State, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert saves == 1
    halfway = torch.load(config.out / STATE)
    run(config)
    whole, resumed = (torch.load(folder / STATE) for folder in (trained, config.out))
    for name in ("model", "average", "muon", "adamw"):
        assert equal(whole[name], resumed[name]), name
    assert halfway["step"] == 2 and not equal(whole["model"], halfway["model"])


def test_the_state_of_another_recipe_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match="of another run"):
        run(Config(out=trained, steps=4, kl_weight=1.0, **TINY))


def test_every_weight_is_trained(trained: Path) -> None:
    state = torch.load(trained / STATE)
    before = new_autoencoder(Config.seed).state_dict()
    same = {name for name, value in state["model"].items() if torch.equal(value, before[name])}
    assert not same, same


def test_the_saved_folder_is_a_stock_autoencoder(trained: Path) -> None:
    vae = load(trained)
    z = latents(vae, torch.zeros(1, 3, 17, 32, 32))
    assert z.shape == (1, 16, 5, 8, 8)
    with torch.no_grad():
        assert vae.decode(z, return_dict=False)[0].shape == (1, 3, 17, 32, 32)
    assert {"README.md", "training.json", "loss.csv", "samples.png"} <= {file.name for file in trained.iterdir()}
    assert "moving pixels" in (trained / "README.md").read_text()


def test_a_latent_frame_sees_no_later_frames(trained: Path) -> None:
    vae = load(trained)
    video = to_tensor(MiniPhys("test", 1)[0]["A"].frames)[None]
    changed = video.clone()
    changed[:, :, 9:] = -changed[:, :, 9:]
    before, after = latents(vae, video), latents(vae, changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3:] - after[:, :, 3:]).abs().amax(dim=(1, 3, 4)).min() > 0


def test_latents_are_whitened_by_the_config(trained: Path) -> None:
    vae = load(trained)
    mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    z = latents(vae, to_tensor(frames_of(MiniPhys("pretrain", TINY["quadruplets"]))))
    white = (z - mean) / std
    assert torch.allclose(white.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-3)
    assert torch.allclose(white.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-3)
    assert not torch.allclose(z.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=0.1)  # it was not white before


def test_whole_clips_computes_what_chunks_do_and_leaves_no_hooks() -> None:
    vae = new_autoencoder(1)
    video = torch.rand(2, 3, 13, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        z = vae.quant_conv(vae.encoder(video))[:, :16]
        return z, vae.decoder(vae.post_quant_conv(z), first_chunk=True).clamp(-1, 1)

    with torch.no_grad():
        with whole_clips(vae):
            z, rebuilt = whole()
        assert torch.allclose(z, latents(vae, video), atol=1e-5)
        assert torch.allclose(rebuilt, vae.decode(z, return_dict=False)[0], atol=1e-5)
        with pytest.raises(RuntimeError):  # without the hooks frames are not even halved
            whole()
    with pytest.raises(KeyboardInterrupt), whole_clips(vae):
        raise KeyboardInterrupt
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vae.modules())


def test_moving_pixels_are_those_that_leave_their_median() -> None:
    video = torch.zeros(1, 3, 5, 2, 2)
    video[0, 1, 3, 0, 1] = 0.5
    moving = moving_pixels(video)
    assert moving.sum() == 1 and moving[0, 0, 3, 0, 1]
    wrong = torch.where(moving, video + 0.2, video)
    quality = reconstruction_quality(wrong, video)
    assert np.isclose(quality["psnr_moving"], 20.0) and np.isclose(quality["psnr"], 20 + 10 * np.log10(20))
