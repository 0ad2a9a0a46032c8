"""Checkpoints and benchmarks as released: stock diffusers loads the ones, `dit_lens.datasets` reads the others."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from released import checkpoints, tokenizers
from released.intphys import PAIRS
from released.scenes import LOSS, scenes
from tokenizers import Tokenizer
from transformers import LlamaTokenizerFast

import dit_lens as dl

pytest.importorskip("av")

PIPELINES = {
    "wan21": ("WanPipeline", "UniPCMultistepScheduler", {"flow_shift": 3.0, "use_flow_sigmas": True}, (16, 4, 8)),
    "wan22_ti2v": ("WanPipeline", "UniPCMultistepScheduler", {"flow_shift": 5.0, "use_flow_sigmas": True}, (48, 4, 16)),
    "cogvideox_2b": ("CogVideoXPipeline", "CogVideoXDDIMScheduler", {"snr_shift_scale": 3.0}, (16, 4, 8)),
    "cogvideox_5b": ("CogVideoXPipeline", "CogVideoXDPMScheduler", {"snr_shift_scale": 1.0}, (16, 4, 8)),
    "ltx": ("LTXPipeline", "FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1, "max_shift": 2.05}, (128, 8, 32)),
    "hunyuan": ("HunyuanVideoPipeline", "FlowMatchEulerDiscreteScheduler", {"shift": 7.0}, (16, 4, 8)),
}


@pytest.fixture(scope="module")
def opened() -> Callable[[Path], Any]:
    """Stock pipelines, each loaded once."""
    loaded: dict[Path, Any] = {}

    def pipeline(folder: Path) -> Any:
        if folder not in loaded:
            loaded[folder] = DiffusionPipeline.from_pretrained(folder)
            loaded[folder].set_progress_bar_config(disable=True)
        return loaded[folder]

    return pipeline


# Checkpoints.


def test_a_checkpoint_loads_stock_with_the_released_classes_and_settings(
    checkpoint: tuple[str, Path], opened: Callable[[Path], Any]
) -> None:
    name, folder = checkpoint
    kind, scheduler, settings, (channels, in_time, in_space) = PIPELINES[name]
    pipeline = opened(folder)
    assert type(pipeline).__name__ == kind and type(pipeline.scheduler).__name__ == scheduler
    assert {key: pipeline.scheduler.config[key] for key in settings} == settings
    assert bool(pipeline.config.get("expand_timesteps")) == (name == "wan22_ti2v")
    frames, height, width = checkpoints.SMALL_CLIPS[name]
    with torch.no_grad():
        latent = pipeline.vae.encode(torch.zeros(1, 3, frames, height, width)).latent_dist.mode()
    assert latent.shape == (1, channels, 1 + (frames - 1) // in_time, height // in_space, width // in_space)


def test_its_transformer_is_in_shards_and_nothing_of_it_is_idle(
    checkpoint: tuple[str, Path], opened: Callable[[Path], Any]
) -> None:
    _, folder = checkpoint
    index = json.loads((folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= 2
    assert all(parameter.any() for parameter in opened(folder).transformer.parameters())


def test_a_stock_call_of_two_steps_makes_a_clip_that_follows_the_prompt(
    checkpoint: tuple[str, Path], opened: Callable[[Path], Any]
) -> None:
    name, folder = checkpoint
    frames, height, width = checkpoints.SMALL_CLIPS[name]
    size = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": 2, "output_type": "np"}
    first, again, different = (
        opened(folder)(prompt, generator=torch.Generator().manual_seed(0), **size).frames
        for prompt in (checkpoints.PROMPT, checkpoints.PROMPT, "a blue cube falls")
    )
    assert first.shape == (1, frames, height, width, 3) and first.std() > 0.05
    assert np.array_equal(first, again) and np.abs(first - different).max() > 1e-3


def test_the_t5_embedding_is_in_the_file_once_and_in_the_model_tied(
    released_folder: Callable[[str], Path], opened: Callable[[Path], Any]
) -> None:
    for name in ("wan21", "ltx"):
        encoder = opened(released_folder(name)).text_encoder
        assert encoder.shared.weight.data_ptr() == encoder.encoder.embed_tokens.weight.data_ptr()


def test_the_template_of_hunyuan_is_as_many_tokens_as_are_cropped(released_folder: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_file(str(released_folder("hunyuan") / "tokenizer" / "tokenizer.json"))
    template = tokenizers.DEFAULT_PROMPT_TEMPLATE["template"]
    assert len(tokenizer.encode(template.split("{}")[0]).ids) == tokenizers.TEMPLATE_TOKENS == 95
    whole = tokenizer.encode(template.format(checkpoints.PROMPT))
    assert tokenizer.decode(whole.ids[95:], skip_special_tokens=False) == f"{checkpoints.PROMPT}<|eot_id|>"


def test_a_loaded_hunyuan_counts_its_template_as_its_file_does(released_folder: Callable[[str], Path]) -> None:
    folder = released_folder("hunyuan")
    head = tokenizers.DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0]
    stock = LlamaTokenizerFast.from_pretrained(folder / "tokenizer")
    assert len(stock(head).input_ids) != 95  # or there is nothing to mend any more
    loaded = dl.DiTLens.from_pretrained(str(folder)).pipeline.tokenizer
    assert len(loaded(head).input_ids) == 95
    tokenizer = dl.DiTLens.from_pretrained(str(folder), tokenizer=stock).pipeline.tokenizer
    assert tokenizer is stock


def test_sentencepiece_files_are_read_as_the_same_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    from_json = DiffusionPipeline.from_pretrained(checkpoints.write_cogvideox_2b(tmp_path / "json")).tokenizer
    folder = checkpoints.write_cogvideox_2b(tmp_path / "spiece", sentencepiece=True)
    from_sentencepiece = DiffusionPipeline.from_pretrained(folder).tokenizer
    assert from_json(checkpoints.PROMPT).input_ids == from_sentencepiece(checkpoints.PROMPT).input_ids


@pytest.mark.slow
def test_wan_of_released_widths_loads_and_runs(tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(checkpoints.write_wan_13b_shaped(tmp_path, layers=1))
    config = pipeline.transformer.config
    assert (config.num_attention_heads, config.attention_head_dim, config.ffn_dim) == (12, 128, 8960)
    clip = pipeline("a ball", num_frames=5, height=32, width=32, num_inference_steps=1, output_type="np").frames
    assert clip.shape == (1, 5, 32, 32, 3)


# IntPhys.


def frames_of(clip: Path) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.open(path)) for path in sorted((clip / "scene").glob("*.png"))])


def by_role(scene: Any, root: Path) -> dict[str, np.ndarray]:
    home = root / "dev" / scene.block / f"{scene.index + 1:02}"
    return {role: frames_of(home / str(number)) for number, role in enumerate(scene.order, start=1)}


def test_impossible_clips_are_frames_of_the_possible_ones_and_break_where_the_scene_says(intphys_root: Path) -> None:
    kinds = set()
    for scene in scenes():
        clips = by_role(scene, intphys_root)
        for role, start, end in (("C", "A", "B"), ("D", "B", "A")):
            source = np.repeat(start, scene.frames)
            for frame in scene.breaks[role]:
                source[frame:] = np.where(source[frame:] == start, end, start)
            expected = np.stack([clips[name][time] for time, name in enumerate(source)])
            assert np.array_equal(clips[role], expected)
        kinds.add((scene.condition, len(scene.breaks["C"])))
    assert {visibility for (visibility, _), _ in kinds} == {"visible", "occluded"} and {n for _, n in kinds} == {1, 2}


def test_breaks_differ_between_scenes_and_between_the_pairs_of_a_scene(intphys_root: Path) -> None:
    first = []
    for scene in scenes():
        clips = by_role(scene, intphys_root)
        differs = [(clips[a] != clips[b]).any((1, 2, 3)) for a, b in ("AC", "BD")]
        first.append(tuple(int(np.argmax(each)) for each in differs))
        if len(scene.breaks["C"]) == 2:  # from the second break on a pair is alike again
            assert all(not each[max(scene.breaks["C"] + scene.breaks["D"]) :].any() for each in differs)
    assert len(set(first)) >= 6 and any(ac != bd for ac, bd in first)


def test_around_a_hidden_break_all_four_clips_are_the_same(intphys_root: Path) -> None:
    hidden = [scene for scene in scenes() if scene.condition[0] == "occluded"]
    for scene in hidden:
        clips = by_role(scene, intphys_root)
        for frame in {*sum(scene.breaks.values(), ())}:
            around = [clips[role][frame - 1 : frame + 1] for role in "ABCD"]
            assert all(np.array_equal(around[0], each) for each in around[1:])
    assert len(hidden) >= 4


def test_intphys_is_read_with_the_pairs_that_are_published(intphys_root: Path) -> None:
    loaded = {item.id: item for item in dl.datasets.load("intphys", root=intphys_root)}
    assert len(loaded) == len(scenes()) == 12
    with (intphys_root / PAIRS).open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert len(rows) == 2 * len(loaded)
    for row in rows:
        item = loaded[f"intphys/dev/{row['Property']}/{int(row['id']):02}"]
        places = {clip.factors["video"].rsplit("/", 1)[1]: clip for clip in item.clips}
        first, second = (places[str(int(row[key]) + 1)] for key in ("Video1", "Video2"))
        assert {first.role, second.role} in ({"A", "C"}, {"B", "D"})
        assert (first.possible, second.possible) == tuple(row[key] == "1" for key in ("Label1", "Label2"))


def test_intphys_has_the_splits_without_labels_and_without_groups(intphys_root: Path) -> None:
    hidden = dl.datasets.load("intphys", root=intphys_root, split="test")
    assert [clip.possible for item in hidden for clip in item.clips] == [None] * 12
    alone = dl.datasets.load("intphys", root=intphys_root, split="train")
    assert [(len(item.clips), item.clips[0].possible) for item in alone] == [(1, True)] * 3


def test_lossy_copies_are_nearly_the_same_where_they_were_the_same(intphys_lossy_root: Path) -> None:
    scene = next(scene for scene in scenes(size=32, lossy=True) if scene.condition == ("visible", "static"))
    clips = by_role(scene, intphys_lossy_root)
    off = np.abs(clips["A"].astype(int) - clips["C"]).max((1, 2, 3))
    (frame,) = scene.breaks["C"]
    assert off[:frame].min() > 0 and off[:frame].max() <= 2 * LOSS and off[frame:].min() > 2 * LOSS


# Videos.


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_inflevel_is_read_behind_its_priming(inflevel_root: Path) -> None:
    loaded = dl.datasets.load("inflevel", root=inflevel_root)
    assert [item.property for item in loaded] == ["continuity"] * 2 + ["gravity"] * 2 + ["solidity"] * 2
    for item in loaded:
        assert [clip.possible for clip in item.clips] == [True, True, False, False]
        assert {clip.frames.shape for clip in item.clips} == {(21, 54, 96, 3)}


def test_a_folder_of_films_is_read_with_its_table(folder_root: Path) -> None:
    loaded = list(dl.datasets.load("folder", root=folder_root))
    assert [len(item.clips) for item in loaded] == [2, 2, 2, 4, 1] and len(loaded[3].matches) == 4
    assert [len(item.matches) for item in loaded[:3]] == [1, 1, 1] and loaded[4].clips[0].possible is None
    assert {item.clips[0].factors["hidden"] for item in loaded[:4]} == {"visible", "occluded"}


def test_grasp_and_likephys_are_read(grasp_root: Path, likephys_root: Path) -> None:
    pairs = list(dl.datasets.load("grasp", root=grasp_root))
    assert len(pairs) == 6 and {item.matches for item in pairs} == {((0, 1),)}
    groups = list(dl.datasets.load("likephys", root=likephys_root, controls=True))
    assert len(groups) == 4 and {len(item.clips) for item in groups} == {5}
    assert {sum(clip.possible is None for clip in item.clips) for item in groups} == {2}


@pytest.mark.filterwarnings("ignore:IntPhys 2 is")
def test_intphys2_is_read_in_all_its_splits(intphys2_root: Path) -> None:
    for split in ("Debug", "Main", "HeldOut"):
        loaded = list(dl.datasets.load("intphys2", root=intphys2_root, split=split))
        labels = [clip.possible for item in loaded for clip in item.clips]
        assert len(loaded) == 2 and labels.count(None) == (8 if split == "HeldOut" else 0)
        assert all(len(item.matches) == (0 if split == "HeldOut" else 2) for item in loaded)
