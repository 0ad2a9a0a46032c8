"""mini-wan is a stock Wan pipeline, its initialisation a function of the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from dit_lens import models
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.models.loading import sha256
from dit_lens.toy.mini_wan import CONFIG, TEXT_TOKENS, assemble, empty_prompt, new_transformer, save


def weights(seed: int) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in new_transformer(seed).state_dict().values()])


def test_the_seed_and_nothing_else_decides_the_weights() -> None:
    first = weights(0)
    torch.manual_seed(123)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_the_global_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    new_transformer(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_empty_prompt_is_fixed() -> None:
    prompt = empty_prompt()
    torch.manual_seed(123)
    assert torch.equal(empty_prompt(), prompt)
    assert prompt.shape == (1, TEXT_TOKENS, CONFIG["text_dim"])


def test_the_stock_pipeline_generates_a_clip(codec: AutoencoderPatchPCA) -> None:
    pipeline = assemble(new_transformer(0), codec)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline) is WanPipeline and pipeline.text_encoder is None

    def generate(seed: int) -> np.ndarray:
        return pipeline(
            prompt_embeds=empty_prompt(),
            height=32,
            width=32,
            num_frames=17,
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).frames

    assert generate(0).shape == (1, 17, 32, 32, 3)
    assert np.array_equal(generate(0), generate(0))
    assert not np.array_equal(generate(0), generate(1))


def test_a_saved_folder_lists_the_checksum_of_every_file(tmp_path: Path, codec: AutoencoderPatchPCA) -> None:
    save(assemble(new_transformer(0), codec), tmp_path)
    lines = [line.split(maxsplit=1) for line in (tmp_path / models.CHECKSUMS).read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    files = [file for file in tmp_path.rglob("*.*") if file.suffix in (".safetensors", ".json")]
    assert listed == {file.relative_to(tmp_path).as_posix(): sha256(file) for file in files}
    assert sum(name.endswith(".safetensors") for name in listed) == 3
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.pt")]
