"""Loading: what was saved comes back bit for bit, what is damaged is refused by name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from torch import nn

from dit_lens import models
from dit_lens.families.wan import encode_prompt
from dit_lens.lens import DiTLens
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.models.loading import check_checkpoint, load_pipeline
from dit_lens.toy.mini_wan import assemble, new_transformer, save
from dit_lens.toy.mini_wan import empty_prompt as mini_wan_prompt

WEIGHTS = ["transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"]
FILES = [*WEIGHTS, models.EMPTY_PROMPT]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, codec: AutoencoderPatchPCA) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pristine"
    save(assemble(new_transformer(0), codec), folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def bundled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's own folder of weights, with one model in it."""
    folder.rename(folder.parent / "mini-wan")
    monkeypatch.setattr(models, "BUNDLED_FOLDER", folder.parent)
    return folder.parent


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


# Round trips.


def test_a_saved_pipeline_comes_back_bit_for_bit(pristine: Path, codec: AutoencoderPatchPCA) -> None:
    pipeline, conditioning = load_pipeline(pristine)
    assert type(pipeline) is WanPipeline and type(pipeline.vae) is AutoencoderPatchPCA
    assert equal(pipeline.transformer, new_transformer(0)) and not equal(pipeline.transformer, new_transformer(1))
    assert equal(pipeline.vae, codec)
    assert list(pipeline.vae.config.latents_std) == list(codec.config.latents_std)
    assert pipeline.scheduler.config.shift == 1.0
    assert conditioning is not None
    assert torch.equal(conditioning.tensors["encoder_hidden_states"], mini_wan_prompt())


def test_a_lens_on_the_folder_is_the_lens_that_was_saved(pristine: Path, lens: DiTLens) -> None:
    loaded = DiTLens.from_pretrained(pristine)
    latent = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    here, _ = lens.run_with_cache(latent=latent, timestep=500.0, names_filter="hook_velocity")
    there, _ = loaded.run_with_cache(latent=latent, timestep=500.0, names_filter="hook_velocity")
    assert torch.equal(here, there) and here.abs().max() > 0


def test_a_folder_without_empty_prompt_gives_no_conditioning(folder: Path) -> None:
    (folder / models.EMPTY_PROMPT).unlink()
    (folder / models.CHECKSUMS).unlink()
    _, conditioning = load_pipeline(folder)
    assert conditioning is None


def test_the_random_twin_has_the_codec_of_mini_wan_and_the_weights_of_its_seed(bundled: Path) -> None:
    trained, _ = load_pipeline("mini-wan")
    random, conditioning = load_pipeline("mini-wan-random", seed=3)
    assert equal(random.transformer, new_transformer(3)) and not equal(trained.transformer, new_transformer(3))
    assert equal(random.vae, trained.vae)
    assert conditioning is not None


# Names.


def test_an_unknown_model_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got model 'mini-wam' · expected one of mini-wan, .* you mean 'mini-wan'"):
        load_pipeline("mini-wam")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(ValueError, match=f"got model '{name}' · expected one of"):
        load_pipeline(name)


def test_a_folder_that_is_no_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"got folder {tmp_path} .* model_index.json"):
        load_pipeline(tmp_path)


def test_a_bundled_model_without_weights_says_how_to_train_it(bundled: Path) -> None:
    assert models.locate("mini-wan") == models.locate("mini-wan-random") == bundled / "mini-wan"
    with pytest.raises(FileNotFoundError, match=r"dit_lens\.toy\.training --model mini-wan-null"):
        models.locate("mini-wan-null")


# Damage.


def test_a_whole_folder_passes(pristine: Path) -> None:
    check_checkpoint(pristine)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused_by_name(folder: Path, name: str, fraction: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(ValueError, match=f"got {folder / name}, which is missing or damaged"):
        load_pipeline(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_bit_flipped_is_refused_by_name(folder: Path, name: str) -> None:
    flip_a_bit(folder / name)
    with pytest.raises(ValueError, match=f"got {folder / name}, whose sha256 is not the one in {models.CHECKSUMS}"):
        load_pipeline(folder)


def test_the_bit_goes_unseen_without_checksums(folder: Path) -> None:
    flip_a_bit(folder / WEIGHTS[0])
    (folder / models.CHECKSUMS).unlink()
    pipeline, _ = load_pipeline(folder)
    assert not equal(pipeline.transformer, new_transformer(0))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"got {folder / name}, which is missing or damaged"):
        load_pipeline(folder)


# The empty prompt.


def test_a_pipeline_without_text_encoder_has_no_empty_prompt_of_its_own(codec: AutoencoderPatchPCA) -> None:
    with pytest.raises(ValueError, match="got a pipeline without text encoder · expected one, or conditioning="):
        encode_prompt(assemble(new_transformer(0), codec), "")


def test_the_bundled_model_loads_in_a_fresh_process() -> None:
    code = "import dit_lens as dl; lens = dl.DiTLens.from_pretrained('mini-wan'); print(lens.blocks, lens.heads)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6 4"
