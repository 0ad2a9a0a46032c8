"""What a model is and which clips it takes whole, known from configs alone, is what its classes do."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
)
from saved_pipelines import saved
from small_models import SMALL, build
from small_pipelines import lens_on, noise, wan

from dit_lens import DiTLens, families, models
from dit_lens.clips import Clip
from dit_lens.conditioning import Conditioning
from dit_lens.families import allegro
from dit_lens.models.facts import SINGLE_LAYERS, TRANSFORMERS, describe, read_header
from dit_lens.models.path_support import PATHS, path_support
from dit_lens.models.sizes import PATCHES, Numbers, check_latent, compression_of, sizes_of
from dit_lens.running import HookedTransformer

WIDTHS: Any = (8, 8, 8, 8)


def defaults(kind: str) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(getattr(diffusers, kind).__init__).parameters.items()}


# Facts.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved") / "model")


def test_facts_of_a_folder_are_those_of_the_loaded_model(folder: Path) -> None:
    facts, lens = describe(folder), DiTLens.from_pretrained(folder, verify=False)
    assert facts.folder == folder and facts.family == lens.family.name and facts.layers == lens.blocks
    assert facts.heads == lens.heads and facts.width == lens.heads * 12
    assert facts.parameters == sum(p.numel() for p in lens.transformer.parameters())
    assert (facts.pipeline, facts.transformer, facts.autoencoder) == (
        "WanPipeline", "WanTransformer3DModel", "AutoencoderKLWan",
    )  # fmt: skip
    assert facts.sizes == lens.sizes and (facts.temporal, facts.spatial) == (4, 8)
    assert facts.frame_rule == "4k+1" and facts.spatial_multiple == (16, 16)
    assert facts.text_encoders == ("text_encoder",)


@pytest.mark.parametrize(
    "name", ["mini-wan", "mini-wan-random", "mini-wan@random", "mini-wan@step500", "mini-wan-null"]
)
def test_bundled_names_are_described(name: str) -> None:
    facts = describe(name)
    assert (facts.name, facts.family, facts.layers, facts.heads, facts.width) == (name, "wan", 6, 4, 128)
    assert facts.parameters == 1761728 and facts.frame_rule == "4k+1" and facts.spatial_multiple == (8, 8)


def test_describing_needs_neither_torch_nor_diffusers_and_no_time() -> None:
    code = (
        "import sys, time; start = time.time(); from dit_lens.models.facts import describe; describe('mini-wan');"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules], time.time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, seconds = done.stdout.rsplit(" ", 1)
    assert modules == "[]" and float(seconds) < 1  # 0.05 on an idle machine


def test_tables_are_those_of_the_classes() -> None:
    """A family that is added, or a default that a new diffusers changes, shows here."""
    assert {family.transformer.__name__: family.name for family in families.FAMILIES} == {
        kind: entry[0] for kind, entry in TRANSFORMERS.items()
    }
    for kind, (_, layers, heads, width) in TRANSFORMERS.items():
        options = defaults(kind)
        assert (options["num_layers"], options["num_attention_heads"], options["attention_head_dim"]) == (
            layers,
            heads,
            width,
        )
        assert options.get("num_single_layers", 0) == SINGLE_LAYERS.get(kind, 0)
        side = options["patch_size"]
        stock = (options.get("patch_size_t") or 1, side, side) if isinstance(side, int) else side
        assert PATCHES[kind] == stock
    assert all(path_support("continuation", name).reason for name in {entry[0] for entry in TRANSFORMERS.values()})


def test_what_is_no_video_model_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="a StableDiffusionPipeline, without a supported video transformer"):
        describe(tmp_path)
    with pytest.raises(ValueError, match=r"got model 'mini-wam' .* did you mean 'mini-wan'"):
        describe("mini-wam")
    with pytest.raises(ValueError, match=r"model_index.json, which is not JSON"):
        (tmp_path / "model_index.json").write_text("{")
        describe(tmp_path)


def test_headers_are_those_of_the_files_and_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    shutil.copy(models.locate("mini-wan") / "vae" / "diffusion_pytorch_model.safetensors", file)
    from safetensors.torch import load_file

    assert read_header(file) == {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
    data = file.read_bytes()
    for content in (b"", data[:4], data[:40], data[:-1], data + b"more", b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="which is missing or damaged"):
            read_header(file)


# Sizes.


def small_autoencoders() -> dict[str, Any]:
    torch.manual_seed(0)
    deep: Any = {"block_out_channels": WIDTHS, "layers_per_block": 1, "norm_num_groups": 2}
    ltx: Any = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5, "latent_channels": 4}
    moments: Any = {"latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4}
    return {
        "wan": AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, dim_mult=[1, 1, 1, 1]),
        "wan_ti2v": AutoencoderKLWan(
            base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
            patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16,
        ),
        "ltx": AutoencoderKLLTXVideo(block_out_channels=WIDTHS, decoder_block_out_channels=WIDTHS, **ltx),
        "hunyuan": AutoencoderKLHunyuanVideo(latent_channels=4, mid_block_add_attention=False, **deep),
        "hunyuan15": AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(32,) * 5, layers_per_block=1),  # type: ignore[arg-type]
        "cogvideox": AutoencoderKLCogVideoX(
            latent_channels=4, down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4, **deep,
        ),
        "mochi": AutoencoderKLMochi(
            latent_channels=4, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5, **moments,
        ),  # type: ignore[arg-type]
        "cosmos": AutoencoderKLCosmos(
            latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,), resolution=64, num_layers=1, **moments,
        ),
    }  # fmt: skip


AUTOENCODERS = ["wan", "wan_ti2v", "ltx", "hunyuan", "hunyuan15", "cogvideox", "mochi", "cosmos"]
TRANSFORMER = {"wan_ti2v": "wan"}


def shape_after(vae: Any, frames: int, height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the latent, and of what it is decoded to."""
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, frames, height, width)).latent_dist.mode()
        again = vae.decode(z).sample
    return tuple(z.shape[2:]), tuple(again.shape[2:])


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_what_fits_comes_back_whole_and_what_is_refused_does_not(name: str) -> None:
    vae = small_autoencoders()[name].eval()
    family = build(TRANSFORMER.get(name, name))
    sizes = sizes_of(type(vae).__name__, vae.config, type(family).__name__, family.config)
    assert sizes is not None
    frames, height, width = sizes.frames.first + sizes.frames.step, sizes.height.step, 2 * sizes.width.step
    sizes.check_frames(frames)
    sizes.check_size(height, width)
    latent, video = shape_after(vae, frames, height, width)
    assert video == (frames, height, width) and latent == sizes.latent(frames, height, width)
    with pytest.raises(ValueError, match=rf"got {frames + 2} frames · expected .*\({frames} or"):
        sizes.check_frames(frames + 2)
    try:  # the control: what is refused does not come back whole
        assert shape_after(vae, frames + 2, height, width)[1][0] != frames + 2
    except (RuntimeError, AssertionError, ValueError) as error:
        assert "!=" not in str(error) or isinstance(error, RuntimeError)


@pytest.mark.parametrize("kind", [AutoencoderKLLTX2Video, AutoencoderKLLTXVideo, AutoencoderKLWan, AutoencoderKLMochi])
def test_compression_without_a_config_is_the_class_s_default(kind: Any) -> None:
    options = {name: value for name, value in defaults(kind.__name__).items() if name != "self"}
    assert compression_of(kind.__name__, {}) == compression_of(kind.__name__, options) is not None
    assert compression_of("AutoencoderOfNobody", {}) is None


def test_allegro_is_encoded_in_tiles_and_takes_only_what_they_cover() -> None:
    torch.manual_seed(0)
    small: Any = {"block_out_channels": WIDTHS, "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 128}
    vae: Any = AutoencoderKLAllegro(latent_channels=4, **small).eval()
    config, kinds = build("allegro").config, ("AutoencoderKLAllegro", "AllegroTransformer3DModel")
    released, sizes = (sizes_of(kinds[0], vae_config, kinds[1], config) for vae_config in ({}, vae.config))
    assert released is not None and sizes is not None and released.frames == Numbers(24, 16)
    assert released.latent(88, 720, 1280) == (22, 90, 160)  # as it is used
    for refused in ((25, 320, 320), (24, 336, 320), (24, 320, 400)):
        with pytest.raises(ValueError, match=r"got .* · expected"):
            released.latent(*refused)
    with torch.no_grad():
        video = torch.rand(2, 3, 24, 128, 128)
        latent = allegro.encode(vae, video)
        alone = allegro.encode(vae, video[1:])
        again = allegro.decode(vae, alone)
    assert tuple(latent.shape[2:]) == sizes.latent(24, 128, 128) and again.shape == video[1:].shape
    assert latent.flatten(2).std(2).min() > 0 and torch.equal(latent[1:], alone)


def test_models_of_two_frames_to_a_token_take_numbers_of_frames_that_make_pairs() -> None:
    config = build("cogvideox_15_i2v").config
    sizes = sizes_of("AutoencoderKLCogVideoX", {}, "CogVideoXTransformer3DModel", config)
    assert sizes is not None and str(sizes.frames) == "8k+5" and sizes.latent(13, 16, 16)[0] == 4


def test_numbers_know_their_nearest() -> None:
    odd = Numbers(1, 4)
    assert [odd.nearest(n) for n in (-3, 0, 1, 2, 5, 16)] == [(1,), (1,), (1,), (1, 5), (5,), (13, 17)]
    assert 13 in odd and 16 not in odd and -3 not in odd and str(Numbers(16, 16)) == "multiples of 16"


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [
        (16, (32, 32), r"got 16 frames · expected 4k\+1 \(13 or 17\)"),
        (4, (32, 32), r"got 4 frames · expected 4k\+1 \(1 or 5\)"),
        (5, (33, 32), r"got frames of 33 x 32 pixels · expected multiples of 16 \(32 or 48 by 32\)"),
        (5, (32, 40), r"got frames of 32 x 40 pixels .*\(32 by 32 or 48\)"),
        (5, (8, 32), r"got frames of 8 x 32 pixels .*\(16 by 32\)"),
    ],
)
def test_a_lens_refuses_what_its_model_would_drop(
    frames: int, size: tuple[int, int], message: str, tmp_path: Path
) -> None:
    from PIL import Image

    lens, video = lens_on(wan()), np.zeros((frames, *size, 3), np.uint8)
    for i, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{i:03}.png")
    for clip in (video, video[None], tmp_path):
        with pytest.raises(ValueError, match=message):
            lens.encode(clip)
        with pytest.raises(ValueError, match=message):
            lens.invert(clip, 1, "euler")
    assert lens.encode(np.zeros((5, 32, 32, 3), np.uint8)).shape == (1, 4, 2, 4, 4)
    with pytest.raises(ValueError, match=message):
        lens.latent_shape(frames, *size)
    assert lens.latent_shape(5, 32, 32) == (1, 4, 2, 4, 4)


def test_what_is_no_batch_of_clips_is_refused_in_words() -> None:
    lens, video = lens_on(wan()), np.zeros((5, 32, 32, 3), np.uint8)

    def clip(frames: np.ndarray) -> Clip:
        return Clip("clip", frames, None, "group", "A", "")

    bad: list[tuple[Any, str]] = [
        (
            [clip(video), clip(np.concatenate([video, video[1:]]))],
            r"clips of shapes \(5, 32, 32, 3\), \(9, 32, 32, 3\)",
        ),
        (video[:0], r"shape \(0, 32, 32, 3\), without a clip"),
        (video[None][:0], r"without a clip"),
        (None, r"got NoneType · expected clips"),
        ([video], r"got a list of ndarray · expected clips"),
        (video[..., :2], r"uint8 of shape .* · expected uint8 \(F, H, W, 3\)"),
        (torch.full((1, 4, 2, 4, 4), float("nan")), r"got float32 latents, not all of them finite"),
        (torch.zeros(1, 4, 2, 4, 4, dtype=torch.int64), r"got int64 latents"),
    ]
    for value, message in bad:
        with pytest.raises((ValueError, TypeError), match=message):
            lens.encode(value)
    assert lens.encode([clip(video), clip(video)]).shape == (2, 4, 2, 4, 4)


def test_a_latent_of_which_rows_would_be_left_out_is_refused() -> None:
    lens = lens_on(wan())
    with pytest.raises(ValueError, match=r"got latents of 2 x 5 x 4 .* multiples of 1 x 2 x 2"):
        lens.run_with_cache(latent=torch.zeros(1, 4, 2, 5, 4), timestep=500.0)
    lens.run_with_cache(latent=noise(), timestep=500.0, names_filter="hook_velocity")
    check_latent((1, 2, 2), 3, 4, 6)


# Paths.


@pytest.mark.parametrize("name", SMALL)
def test_a_level_for_each_frame_can_be_fed_exactly_where_it_is_said(name: str) -> None:
    model = HookedTransformer(build(name), name)
    scaled = model.family.as_fed is not None
    support = path_support("continuation", model.family.name, scaled=scaled)
    latent, conditioning = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    whole = model.evaluation(latent, model.family.to_timestep(0.5), Conditioning(conditioning))
    units = latent.shape[2], model.grid(whole).tokens
    works = []
    for unit in units:
        times = torch.full((len(latent), unit), model.family.to_timestep(0.5))
        times[:, : unit // 2] = model.family.to_timestep(0.2)
        try:
            velocity = model.velocity(model.evaluation(latent, times, Conditioning(conditioning)))
            works.append(not torch.equal(velocity, model.velocity(whole)))
        except (ValueError, AssertionError, RuntimeError, TypeError):  # the last one of shapes in signatures
            works.append(False)
    assert support.possible == (any(works) and not scaled)
    assert bool(support.reason) and not support.trained


def test_who_was_trained_with_a_level_for_each_frame(folder: Path, tmp_path: Path) -> None:
    for name in ("mini-wan", "mini-wan-null", "mini-wan-planted", "mini-wan@random"):
        assert describe(name).supports("continuation") == path_support("continuation", "wan", by_frame=True)
    wan21 = describe(folder).supports("continuation")
    assert wan21.possible and not wan21.trained and "not trained" in wan21.reason
    ti2v = saved(tmp_path / "ti2v", expand_timesteps=True)
    assert describe(ti2v).supports("continuation").trained
    assert all(describe(folder).supports(path).trained for path in PATHS[:2])


def test_a_lens_says_the_same_as_the_facts_of_its_folder(folder: Path) -> None:
    lens = DiTLens.from_pretrained(folder, verify=False)
    mini = DiTLens.from_pretrained("mini-wan", verify=False)
    for path in PATHS:
        assert lens.supports(path) == describe(folder).supports(path)
        assert mini.supports(path) == describe("mini-wan").supports(path)
    assert lens_on(wan(expand_timesteps=True)).supports("continuation").trained
    refused = path_support("continuation", "cogvideox")
    with pytest.raises(ValueError, match=r"got path 'continuation' on cog .* scales the whole latent"):
        refused.check("cog", "continuation")
    with pytest.raises(ValueError, match="got path 'inversoin'"):
        path_support("inversoin", "wan")


def test_describing_is_quick(folder: Path) -> None:
    start = time.perf_counter()
    describe(folder)
    assert time.perf_counter() - start < 0.3
