"""Prompts: encoded once, found on disk again by what made them, told of a path; the text encoder may go."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_pipelines import lens_on, noise, text, wan
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from dit_lens import Conditioning, DiTLens
from dit_lens.conditioning import EMPTY, NEUTRAL, Guidance
from dit_lens.inversion.prompts import CACHE, cache_folder
from dit_lens.models import digests
from dit_lens.models.text_keys import text_key
from dit_lens.trajectory import Trajectory

TEXT = "encoder_hidden_states"


def text_parts(seed: int = 0) -> dict[str, Any]:
    """A real text encoder of width 16 and a tokenizer of a few words."""
    torch.manual_seed(seed)
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "video", "ball", "rolls"])}
    split = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    size: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 8}
    return {"text_encoder": UMT5EncoderModel(UMT5Config(**size)).eval(), "tokenizer": tokenizer}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path))
    return tmp_path


@pytest.fixture
def lens() -> DiTLens:
    return DiTLens(wan(**text_parts()), "small", verify=False)


@pytest.fixture
def encoded(lens: DiTLens) -> Iterator[list[int]]:
    """An entry for every call of the text encoder."""
    calls: list[int] = []
    handle = lens.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def same(a: Conditioning, b: Conditioning) -> bool:
    return a.prompt == b.prompt and torch.equal(a.tensors[TEXT], b.tensors[TEXT])


def test_a_prompt_is_encoded_once_and_comes_back_bit_for_bit(lens: DiTLens, encoded: list, folder: Path) -> None:
    stock = lens.family.encode_prompt(lens.pipeline, "a ball rolls")
    encoded.clear()
    first, second = lens.encode_prompt("a ball rolls"), lens.encode_prompt("a ball rolls")
    assert len(encoded) == 1 and same(first, second) and same(first, stock)
    assert not same(first, lens.encode_prompt("a video")) and len(encoded) == 2
    assert len(list(folder.rglob("*.safetensors"))) == 3 and not list(folder.rglob("*.partial"))


def test_another_text_encoder_of_the_same_config_is_asked_itself(lens: DiTLens, encoded: list) -> None:
    mine = lens.encode_prompt("a ball")
    different = DiTLens(wan(**text_parts(seed=1)), "small", verify=False)
    twin = DiTLens(wan(**text_parts()), "small", verify=False)
    assert not same(mine, different.encode_prompt("a ball"))
    encoded.clear()
    twins: list[int] = []
    with_hook = twin.pipeline.text_encoder.register_forward_hook(lambda *_: twins.append(1))
    assert same(mine, twin.encode_prompt("a ball")) and not twins
    with_hook.remove()


def test_the_empty_prompt_of_a_second_lens_is_not_encoded_again(lens: DiTLens) -> None:
    twin, calls = wan(**text_parts()), []
    handle = twin.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    assert same(DiTLens(twin, "small", verify=False).conditioning, lens.conditioning) and not calls
    handle.remove()


def test_a_path_is_told_of_its_prompt(lens: DiTLens, tmp_path: Path) -> None:
    empty, neutral = (lens.invert(noise(), 2, "euler", prompt=prompt) for prompt in (EMPTY, NEUTRAL))
    default = lens.invert(noise(), 2, "euler")
    explicit = lens.invert(noise(), 2, "euler", prompt=lens.encode_prompt(NEUTRAL))
    assert torch.equal(empty.latents, default.latents) and torch.equal(neutral.latents, explicit.latents)
    assert not torch.allclose(empty.latents[-1], neutral.latents[-1], atol=1e-4)
    again = Trajectory.open(neutral.save(tmp_path / "path.h5"))
    assert again.conditioning.prompt == NEUTRAL and again.facts["prompt"] == NEUTRAL
    assert again.facts["prompt_hash"] == neutral.conditioning.hash != lens.conditioning.hash
    assert torch.equal(lens.sample(again).latents, lens.sample(neutral).latents)
    assert torch.equal(lens.sample(again, prompt=EMPTY).latents, lens.sample(again, prompt=empty.conditioning).latents)
    assert not torch.equal(lens.sample(again, prompt=EMPTY).latents, lens.sample(again).latents)


def test_a_scale_alone_guides_away_from_the_empty_prompt(lens: DiTLens) -> None:
    short = lens.invert(noise(), 2, "euler", prompt="a ball", guidance=3.0)
    long = lens.invert(noise(), 2, "euler", prompt="a ball", guidance=Guidance(3.0, lens.encode_prompt("")))
    assert torch.equal(short.latents, long.latents)
    towards_video = lens.invert(
        noise(), 2, "euler", prompt="a ball", guidance=Guidance(3.0, lens.encode_prompt("a video"))
    )
    assert not torch.equal(short.latents, towards_video.latents)


def test_a_dropped_text_encoder_is_missed_only_by_prompts_that_are_new(lens: DiTLens, encoded: list) -> None:
    known = lens.encode_prompt("a ball")
    assert lens.prompts.drop_text_encoder() == ("text_encoder",) and lens.pipeline.text_encoder is None
    assert same(lens.encode_prompt("a ball"), known)
    path = lens.invert(noise(), 2, "euler", prompt="a ball")
    assert torch.equal(path.latents, lens.invert(noise(), 2, "euler", prompt=known).latents)
    with pytest.raises(ValueError, match=r"got prompt 'a video' after the text encoder was dropped"):
        lens.encode_prompt("a video")
    with pytest.raises(ValueError, match="without a text encoder"):
        lens.prompts.drop_text_encoder()


def test_dropping_frees_the_weights(lens: DiTLens) -> None:
    import weakref

    weights = weakref.ref(lens.pipeline.text_encoder)
    assert weights() is not None
    lens.prompts.drop_text_encoder()
    assert weights() is None


def test_without_a_text_encoder_only_its_own_prompt_is_known() -> None:
    bare = lens_on(wan())
    assert bare.encode_prompt("") is bare.conditioning
    with pytest.raises(ValueError, match="without text encoder"):
        bare.encode_prompt("a ball")
    conditioning = Conditioning({TEXT: text(3)}, "a ball")
    assert bare.invert(noise(), 2, "euler", prompt=conditioning).conditioning is conditioning


def test_what_is_told_of_a_first_frame_stays(lens: DiTLens) -> None:
    first: Tensor = torch.randn(1, 4, 1, 4, 4)
    with_frame = Conditioning({**lens.conditioning.tensors, "first_frame": first})
    both = DiTLens(wan(**text_parts()), "small", with_frame, verify=False)
    path = both.invert(noise(), 2, "euler", prompt="a ball", guidance=2.0)
    assert torch.equal(path.conditions.branch("uncond").tensors["first_frame"], first)
    assert all(torch.equal(latent[:, :, :1], first) for latent in path.latents)


def test_a_damaged_entry_is_named(lens: DiTLens, folder: Path) -> None:
    before = {*folder.rglob("*.safetensors")}
    lens.encode_prompt("a ball")
    (entry,) = {*folder.rglob("*.safetensors")} - before
    entry.write_bytes(entry.read_bytes()[:20])
    with pytest.raises(ValueError, match=rf"got .*{entry.name}, which cannot be read"):
        lens.encode_prompt("a ball")


@pytest.fixture
def without_rights() -> Iterator[None]:
    """Folders' modes mean something, as they do not to the superuser."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_folder_that_may_not_be_used_is_gone_without(
    folder: Path, mode: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither read, where it is closed, nor written; one warning."""
    monkeypatch.setattr(digests, "_warned", set())
    closed = folder / "closed"
    closed.mkdir(mode=mode)
    monkeypatch.setenv(CACHE, str(closed))
    pipeline = wan(**text_parts())
    request.getfixturevalue("without_rights")
    with pytest.warns(UserWarning, match="which cannot be written") as warned:
        lens = DiTLens(pipeline, "small", verify=False)
        assert same(lens.encode_prompt("a ball"), lens.encode_prompt("a ball"))
    assert len(warned) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts["text_encoder"].shared.weight[3].add_(1e-3),  # one row, which few prompts use
        lambda parts: setattr(parts["tokenizer"].backend_tokenizer, "normalizer", normalizers.Lowercase()),
        lambda parts: parts["tokenizer"].add_tokens(["ball2"]),
    ],
)
def test_text_models_of_one_size_and_another_content_are_told_apart(change: Any) -> None:
    def key(changed: bool) -> str | None:
        parts = text_parts()
        if changed:
            with torch.no_grad():
                change(parts)
        return text_key(wan(**parts), "wan")

    assert key(False) == key(False) is not None and key(True) != key(False)


def test_a_user_without_a_home_has_a_folder_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError, match="home"):
        Path.home()
    assert cache_folder().name == f"dit_lens-{os.getuid()}"


def test_the_folder_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert cache_folder() == folder
    monkeypatch.delenv(CACHE)
    assert cache_folder() == Path.home() / ".cache" / "dit_lens"
