"""A folder that is not whole is refused before anything is read, and the message names what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from saved_pipelines import saved
from small_models import build

from dit_lens import DiTLens
from dit_lens.inversion.prompts import CACHE
from dit_lens.models.checking import check_checkpoint, check_tensors

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture(autouse=True)
def nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    for kind in (WanTransformer3DModel, AutoencoderKLWan):
        monkeypatch.setattr(kind, "from_pretrained", read)


def sharded(folder: Path) -> None:
    """The transformer's weights in several files and an index."""
    shutil.rmtree(folder / "transformer")
    build("wan").save_pretrained(folder / "transformer", max_shard_size="20KB")
    assert len([*(folder / "transformer").glob("*-of-*.safetensors")]) > 2


def test_a_whole_folder_is_read(folder: Path) -> None:
    check_checkpoint(folder)
    with pytest.raises(AssertionError, match="weights were read"):
        DiTLens.from_pretrained(folder)
    sharded(folder)
    check_checkpoint(folder)
    with pytest.raises(AssertionError, match="weights were read"):
        DiTLens.from_pretrained(folder)


@pytest.mark.parametrize(
    "missing",
    [
        "tokenizer", "tokenizer/tokenizer_config.json", "transformer", "transformer/config.json", "scheduler", "vae",
        "vae/config.json", "text_encoder", "text_encoder/config.json", WEIGHTS, "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)  # fmt: skip
def test_every_part_that_the_index_names_has_to_be_there(folder: Path, missing: str) -> None:
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=rf"got (no file )?{path}.*(expected every part|missing or damaged)"):
        DiTLens.from_pretrained(folder)


def test_a_tokenizer_without_words_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=rf"got {folder / 'tokenizer'} without a vocabulary"):
        DiTLens.from_pretrained(folder)


def last_shard(folder: Path) -> Path:
    return sorted((folder / "transformer").glob("*-of-*.safetensors"))[-1]


def test_a_missing_or_short_shard_and_a_missing_index_are_named(folder: Path) -> None:
    sharded(folder)
    shard, index = last_shard(folder), folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    content, listed = shard.read_bytes(), index.read_text()
    shard.unlink()
    with pytest.raises(ValueError, match=f"got {shard}, which is missing"):
        DiTLens.from_pretrained(folder)
    shard.write_bytes(content[:-8])
    with pytest.raises(ValueError, match=f"got {shard}, which is missing or damaged"):
        DiTLens.from_pretrained(folder)
    shard.write_bytes(content)
    index.unlink()
    with pytest.raises(ValueError, match=f"got {index}, which is missing"):
        DiTLens.from_pretrained(folder)
    index.write_text(listed[:50])
    with pytest.raises(ValueError, match=f"got {index}, which is not JSON"):
        DiTLens.from_pretrained(folder)


def fewer_layers(folder: Path) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_layers": 2}))


def lost_tensor(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["blocks.1.attn1.to_q.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def other_shape(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["proj_out.bias"] = weights["proj_out.bias"][:-1].clone()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_layers, r"with \d+ tensors not the model's \(blocks\.2\..*, \.\.\.\)"),
        (lost_tensor, r"with 1 tensors missing \(blocks\.1\.attn1\.to_q\.weight\)"),
        (other_shape, r"with 1 tensors of another shape \(proj_out\.bias\)"),
    ],
)
def test_tensors_that_are_not_those_of_the_config_are_listed(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(ValueError, match=rf"got weights of {folder / 'transformer'} {message}"):
        DiTLens.from_pretrained(folder)


def test_tensors_of_another_model_are_told_from_its_own(folder: Path) -> None:
    check_tensors(build("wan"), [folder / WEIGHTS], "it")
    with pytest.raises(ValueError, match="tensors missing"):
        check_tensors(build("cogvideox"), [folder / WEIGHTS], "it")


def test_parts_that_are_not_going_to_be_read_need_not_be_there(folder: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    check_checkpoint(folder, without=("text_encoder", "tokenizer"))
    (folder / WEIGHTS).unlink()
    check_checkpoint(folder, ("text_encoder", "tokenizer"), weightless=("transformer",))
    with pytest.raises(ValueError, match="missing"):
        check_checkpoint(folder, ("text_encoder", "tokenizer"))
