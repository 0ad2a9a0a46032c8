"""A model is read part by part, in the dtype and on the device that were asked for; large parts only when needed."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, DDPMPipeline, DDPMScheduler, UNet2DModel, WanTransformer3DModel
from saved_pipelines import saved
from small_models import build
from small_pipelines import noise, text, wan
from torch import nn
from transformers import UMT5EncoderModel

from dit_lens import Conditioning, DiTLens
from dit_lens.inversion.prompts import CACHE
from dit_lens.models import digests, loading
from dit_lens.models.loading import Loading
from dit_lens.models.placing import Residency, check_device
from dit_lens.running import HookedTransformer

TEXT = "encoder_hidden_states"
KEPT = ("time_embedder", "scale_shift_table", "norm")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The class of every model whose weights are read, in turn."""
    classes_read: list[str] = []
    for kind in (UMT5EncoderModel, AutoencoderKLWan, WanTransformer3DModel):
        plain = kind.from_pretrained.__func__

        def counting(cls: Any, *args: Any, plain: Any = plain, **kwargs: Any) -> Any:
            classes_read.append(cls.__name__)
            return plain(cls, *args, **kwargs)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(counting))
    return classes_read


def frames(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def load(folder: Path | str, **options: Any) -> DiTLens:
    return DiTLens.from_pretrained(folder, verify=False, **options)


# Which parts are read, and when.


def test_each_part_is_read_when_it_is_needed_and_only_then(pristine: Path, reads: list[str]) -> None:
    lens = load(pristine)
    assert reads == ["WanTransformer3DModel", "UMT5EncoderModel"]  # the empty prompt was never encoded
    reads.clear()
    again = load(pristine)
    path = again.invert(noise(), 2, "euler")
    again.run_with_cache(path, 1, names_filter="blocks.1.hook_resid_post")
    assert reads == ["WanTransformer3DModel"]  # neither text encoder nor autoencoder
    latent = again.encode(frames())
    assert reads[1:] == ["AutoencoderKLWan"]
    again.decode(again.invert(latent, 1, "euler"))
    assert reads[1:] == ["AutoencoderKLWan"]
    again.encode_prompt("a ball")
    again.encode_prompt("a ball")
    lens.encode_prompt("a ball")
    assert reads[2:] == ["UMT5EncoderModel"]


def test_what_is_read_later_is_what_the_stock_pipeline_has(pristine: Path) -> None:
    lens, stock = load(pristine), DiTLens(wan(**_text_parts()), verify=False)
    assert torch.equal(lens.encode_prompt("a ball").tensors[TEXT], stock.encode_prompt("a ball").tensors[TEXT])
    assert torch.equal(lens.encode(frames()), stock.encode(frames()))
    options = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2, "latents": noise()}
    lazy, eager = (
        each.generate("a ball", **options, guidance_scale=3.0, output_type="pt").frames for each in (lens, stock)
    )
    assert torch.equal(lazy, eager)
    bare = lens.generate("a ball", **options, guidance_scale=1.0, output_type="pt").frames
    assert not torch.equal(bare, lazy)


def _text_parts() -> dict[str, Any]:
    from test_prompts import text_parts

    return text_parts()


def test_the_text_encoder_is_dropped_after_use_unless_it_is_kept(pristine: Path, monkeypatch: Any) -> None:
    modules: list[weakref.ref] = []
    plain = loading.PartsLoader.read

    def noting(self: Any, part: str) -> Any:
        module = plain(self, part)
        modules.append(weakref.ref(module))
        return module

    monkeypatch.setattr(loading.PartsLoader, "read", noting)
    lens = load(pristine)
    gc.collect()
    assert len(modules) == 1 and modules[0]() is None and lens.pipeline.text_encoder is None
    keeping = load(pristine, text_encoder="keep")
    modules.clear()
    keeping.encode_prompt("a ball")
    keeping.encode_prompt("rolls")
    assert len(modules) == 1 and keeping.pipeline.text_encoder is modules[0]()
    assert keeping.prompts.drop_text_encoder() == ("text_encoder",)
    gc.collect()
    assert modules[0]() is None


def test_without_text_encoder_prompts_come_from_the_cache_or_are_given(folder: Path, reads: list[str]) -> None:
    with pytest.raises(ValueError, match=r"got text_encoder=None .* empty prompt is not in the cache .* conditioning="):
        load(folder, text_encoder=None)
    assert reads == []  # it says so before anything is read
    lens = load(folder, text_encoder=None, conditioning=Conditioning({TEXT: text(3)}))
    assert torch.equal(lens.conditioning.tensors[TEXT], text(3))
    full = load(folder)
    ball = full.encode_prompt("a ball")
    reads.clear()
    bare = load(folder, text_encoder=None)
    assert torch.equal(bare.conditioning.tensors[TEXT], full.conditioning.tensors[TEXT])
    assert torch.equal(bare.encode_prompt("a ball").tensors[TEXT], ball.tensors[TEXT])
    with pytest.raises(ValueError, match=r"got prompt 'a video' after the text encoder was dropped or left out"):
        bare.encode_prompt("a video")
    call = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2, "latents": noise()}
    guided = [each.generate("a ball", **call, output_type="latent").frames for each in (bare, full)]
    assert torch.equal(*guided)
    assert "UMT5EncoderModel" not in reads[:1] and reads.count("UMT5EncoderModel") == 1  # of `full.generate`
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    load(folder, text_encoder=None, conditioning=ball)  # these files need not be there


def test_a_cache_that_cannot_be_written_is_gone_without(folder: Path, cache: Path, monkeypatch: Any) -> None:
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(digests, "_warned", set())
    with pytest.warns(
        UserWarning, match=r"got cache folder .*, which cannot be written .* continuing without a cache"
    ) as warned:
        lens = load(folder)
        first, second = lens.encode_prompt("a ball"), lens.encode_prompt("a ball")
    assert len([w for w in warned if "cache folder" in str(w.message)]) == 1
    assert torch.equal(first.tensors[TEXT], second.tensors[TEXT])


# The prompt cache is keyed by content.


def changed_row(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["shared.weight"][5] += 0.1
    save_file(weights, file, {"format": "pt"})


def other_words(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    spelled = file.read_text()
    swapped = spelled.replace('"ball": 5', '"ball": 6').replace('"rolls": 6', '"rolls": 5')
    assert swapped != spelled and len(swapped) == len(spelled)
    file.write_text(swapped)


@pytest.mark.parametrize("change", [changed_row, other_words])
def test_another_tokenizer_or_one_changed_embedding_row_is_another_key(folder: Path, change: Any) -> None:
    before, same = load(folder), load(folder)
    key = before.parts.text_key("wan")
    assert key is not None and same.parts.text_key("wan") == key
    ball = before.encode_prompt("a ball")
    change(folder)
    after = load(folder)
    assert after.parts.text_key("wan") != key
    assert not torch.equal(after.encode_prompt("a ball").tensors[TEXT], ball.tensors[TEXT])


def test_of_a_pipeline_in_memory_every_weight_and_word_counts() -> None:
    def key(parts: dict[str, Any]) -> str | None:
        return DiTLens(wan(**parts), "small", Conditioning({TEXT: text()}), verify=False).parts.text_key("wan")

    assert key(_text_parts()) == key(_text_parts())
    parts = _text_parts()
    with torch.no_grad():
        parts["text_encoder"].shared.weight[5, 3] += 1e-3
    words = _text_parts()
    vocabulary = words["tokenizer"].backend_tokenizer.to_str()
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    swapped = vocabulary.replace('"ball":5', '"ball":6').replace('"rolls":6', '"rolls":5')
    assert swapped != vocabulary
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(swapped), **special)
    assert len({key(_text_parts()), key(parts), key(words)}) == 3


def test_a_weight_that_is_written_to_later_changes_the_key() -> None:
    lens = DiTLens(wan(**_text_parts()), "small", verify=False)
    key = lens.parts.text_key("wan")
    assert lens.parts.text_key("wan") == key
    with torch.no_grad():
        lens.pipeline.text_encoder.shared.weight[2, 2] += 1
    assert lens.parts.text_key("wan") != key


# Dtypes.


def dtypes(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("option", [{"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"dtype": torch.bfloat16}])
def test_a_dtype_reaches_the_transformer_and_spares_what_its_class_keeps(pristine: Path, option: dict) -> None:
    lens, stock = load(pristine, **option), WanTransformer3DModel
    expected = dtypes(stock.from_pretrained(pristine, subfolder="transformer", dtype=torch.bfloat16))
    assert dtypes(lens.transformer) == expected
    assert {torch.bfloat16, torch.float32} == set(expected.values())
    assert all(dtype == torch.float32 for name, dtype in expected.items() if any(kept in name for kept in KEPT[:2]))
    assert lens.vae.dtype == torch.float32 and lens.encode_prompt("a ball").tensors[TEXT].dtype == torch.bfloat16
    assert dtypes(load(pristine).transformer) != expected


def test_latents_and_solver_are_float32_whatever_the_model_is(pristine: Path) -> None:
    lens, fed = load(pristine, dtype="bfloat16"), []
    with lens.hooks([("hook_latent", lambda x, hook: fed.append(x.dtype))]):
        path = lens.invert(noise().bfloat16(), 3, "heun")
        sampled = lens.sample(noise().bfloat16(), "euler", 3)
    assert {*fed} == {torch.bfloat16}
    assert path.latents.dtype == sampled.latents.dtype == torch.float32
    assert (
        lens.encode(noise().bfloat16()).dtype == torch.float32 and lens.encode(noise().double()).dtype == torch.float64
    )
    velocity = path.latents[1] - path.latents[0]
    assert not torch.equal(velocity, velocity.bfloat16().float())  # it was not rounded on the way


def test_large_models_are_bfloat16_unless_told_otherwise(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(pristine).transformer.patch_embedding.weight.dtype == torch.float32
    monkeypatch.setattr(loading, "LARGE", 1000)
    lens = load(pristine)
    assert lens.transformer.patch_embedding.weight.dtype == torch.bfloat16 and lens.vae.dtype == torch.float32
    assert lens.encode_prompt("a ball").tensors[TEXT].dtype == torch.bfloat16
    assert load(pristine, dtype="float32").transformer.patch_embedding.weight.dtype == torch.float32
    by_part = load(pristine, dtype={"transformer": "float32", "vae": "bfloat16"})
    assert by_part.transformer.patch_embedding.weight.dtype == torch.float32 and by_part.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat61", "int8", 16])
def test_a_dtype_that_is_none_is_refused(pristine: Path, dtype: Any, reads: list[str]) -> None:
    with pytest.raises(ValueError, match=r"got dtype .* · expected 'bfloat16'"):
        load(pristine, dtype=dtype)
    assert reads == []


# Devices and offload.


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "nonsense"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    pristine: Path, device: str, reads: list[str]
) -> None:
    with pytest.raises(ValueError, match=rf"got device '{device}' · expected one of cpu"):
        load(pristine, device=device)
    assert reads == [] and check_device("cpu") == torch.device("cpu") and check_device(None) is None
    assert load(pristine, device="cpu").transformer.device.type == "cpu"


def test_offload_of_layers_is_refused_by_name_and_so_is_a_device_map_beside_a_device(pristine: Path) -> None:
    with pytest.raises(ValueError, match=r"got offload='sequential' · expected None or 'model'"):
        load(pristine, offload="sequential")
    with pytest.raises(ValueError, match="got device_map='balanced' together with device="):
        load(pristine, device="cpu", device_map="balanced")


def test_offload_changes_nothing_on_a_machine_without_accelerator(pristine: Path) -> None:
    plain, lens = load(pristine), load(pristine, offload="model", device="cpu")
    assert torch.equal(lens.encode(frames()), plain.encode(frames()))
    paths = [each.invert(frames(), 2, "euler") for each in (lens, plain)]
    assert torch.equal(paths[0].latents, paths[1].latents)
    assert torch.equal(lens.decode(paths[0], 1), plain.decode(paths[1], 1))


class Elsewhere(nn.Module):
    """A part that notes where it is moved to, in the place of a device that this machine does not have."""

    def __init__(self, name: str, log: list[str]):
        super().__init__()
        self.weight, self.name, self.log, self.where = nn.Parameter(torch.zeros(1)), name, log, "cpu"

    def to(self, device: Any, *more: Any) -> Any:
        self.where = torch.device(device).type
        self.log.append(f"{self.name} to {self.where}")
        return self


def test_parts_take_turns_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr("dit_lens.models.placing._device", lambda part: torch.device(part.where))
    residency = Residency(torch.device("cuda"))
    transformer, vae = (Elsewhere(name, log) for name in ("transformer", "vae"))
    residency.add(transformer)
    residency.add(vae)
    residency.bring(vae)
    residency.bring(transformer)
    residency.bring(transformer)
    assert log == ["vae to cuda", "vae to cpu", "transformer to cuda"]
    with residency.all_here():
        residency.bring(transformer)  # as evaluations inside a pipeline's call do
        assert transformer.where == vae.where == "cuda"
    assert transformer.where == vae.where == "cpu"
    log.clear()
    Residency(torch.device("cpu")).bring(vae)
    assert log == []


def test_every_evaluation_brings_its_transformer_and_every_encoding_the_autoencoder(
    pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    lens = load(pristine, offload="model", device="cpu")
    monkeypatch.setattr(Residency, "bring", lambda self, *parts: order.extend(type(part).__name__ for part in parts))
    latent = lens.encode(frames())
    assert order == ["AutoencoderKLWan"]
    order.clear()
    path = lens.invert(latent, 2, "euler")
    assert {*order} == {"WanTransformer3DModel"} and len(order) >= 2
    order.clear()
    lens.decode(path)
    assert order == ["AutoencoderKLWan"]
    order.clear()
    with lens.trace(path, 1):
        pass
    assert {*order} == {"WanTransformer3DModel"}


def test_a_device_map_passes_through(pristine: Path, reads: list[str]) -> None:
    lens, plain = load(pristine, device_map="cpu"), load(pristine)
    assert torch.equal(lens.invert(noise(), 2, "euler").latents, plain.invert(noise(), 2, "euler").latents)
    assert torch.equal(lens.encode(frames()), plain.encode(frames()))


# Names, folders, objects.


def test_what_is_no_model_is_refused_in_one_line(pristine: Path) -> None:
    with pytest.raises(TypeError, match=r"got '.*model', the name of a model · .* DiTLens\.from_pretrained"):
        DiTLens(str(pristine))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got a int · expected a diffusers pipeline"):
        DiTLens(3)  # type: ignore[arg-type]
    unet = UNet2DModel(
        8, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        layers_per_block=1, norm_num_groups=2, attention_head_dim=8,
    )  # fmt: skip
    images = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(TypeError, match="got a DDPMPipeline without a transformer"):
        DiTLens(images, "images")
    with pytest.raises(TypeError, match="got a WanPipeline with options of loading"):
        DiTLens.from_pretrained(wan(), dtype="bfloat16")  # type: ignore[arg-type]


def test_a_transformer_alone_and_a_pipeline_are_what_is_meant() -> None:
    transformer = build("wan")
    lens = DiTLens(transformer, verify=False)
    assert lens.transformer is transformer
    pipe = wan(transformer=transformer)
    conditioning = Conditioning({TEXT: text()})
    again = DiTLens.from_pretrained(pipe, verify=False, conditioning=conditioning)  # type: ignore[arg-type]
    assert again.pipeline is pipe
    inputs = {"latent": noise(), "timestep": 400.0}
    first, _ = lens.run_with_cache(**inputs, **conditioning.tensors)
    second, _ = again.run_with_cache(**inputs)
    assert torch.equal(first, second)


def test_without_autoencoder_latents_run_and_pixels_are_refused(pristine: Path) -> None:
    lens = load(pristine, vae=None)
    assert torch.equal(lens.invert(noise(), 2, "euler").latents, load(pristine).invert(noise(), 2, "euler").latents)
    with pytest.raises(ValueError, match="got a model without an autoencoder"):
        lens.encode(frames())


def test_a_list_of_prompts_is_one_for_each_clip(pristine: Path) -> None:
    lens = load(pristine)
    both = torch.cat([noise(0), noise(1)])
    path = lens.invert(both, 2, "euler", prompt=["a ball", "a video"])
    for i, prompt in enumerate(("a ball", "a video")):
        alone = lens.invert(both[i : i + 1], 2, "euler", prompt=prompt)
        torch.testing.assert_close(path.latents[:, i : i + 1], alone.latents)
    swapped = lens.invert(both, 2, "euler", prompt=["a video", "a ball"])
    assert not torch.allclose(swapped.latents, path.latents)
    with pytest.raises(ValueError, match=r"got encoder_hidden_states for 2 clips · expected 1 or 1"):
        lens.invert(noise(), 2, "euler", prompt=["a ball", "a video"])


def test_a_repository_in_the_hub_s_cache_is_read_offline(pristine: Path, tmp_path: Path, monkeypatch: Any) -> None:
    home, commit = tmp_path / "hub", "0" * 40
    snapshot = home / "models--owner--name" / "snapshots" / commit
    shutil.copytree(pristine, snapshot)
    (home / "models--owner--name" / "refs").mkdir()
    (home / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(home))
    lens = load("owner/name", cache_dir=str(home), local_files_only=True)
    assert torch.equal(lens.invert(noise(), 2, "euler").latents, load(pristine).invert(noise(), 2, "euler").latents)
    assert loading.fingerprint("owner/name") == f"owner/name@{commit}"
    (snapshot / "text_encoder" / "model.safetensors").unlink()
    bare = load("owner/name", cache_dir=str(home), local_files_only=True, text_encoder=None)  # the key was noted
    assert torch.equal(bare.conditioning.tensors[TEXT], lens.conditioning.tensors[TEXT])
    with pytest.raises(FileNotFoundError, match=r"got model 'owner/other', which is not in the hub's cache"):
        load("owner/other", cache_dir=str(home), local_files_only=True)


def test_loading_says_what_it_does_not_know() -> None:
    for options, message in (
        ({"weights": "none"}, "got weights 'none'"),
        ({"text_encoder": "drop"}, "text_encoder 'd"),
    ):
        with pytest.raises(ValueError, match=message):
            Loading(**options)


def test_a_hooked_transformer_without_offload_lies_where_it_lies() -> None:
    assert HookedTransformer(build("wan"), "small").device == torch.device("cpu")
