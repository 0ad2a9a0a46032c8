"""mini-wan: a Wan video DiT small enough for a laptop, as a stock diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dit_lens.models import CHECKSUMS, EMPTY_PROMPT
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.models.digests import sha256

CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 128,
    "ffn_dim": 512,
    "num_layers": 6,
    "rope_max_seq_len": 32,
}
TEXT_TOKENS = 4


def new_transformer(seed: int = 0) -> WanTransformer3DModel:
    """A randomly initialised mini-wan transformer; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanTransformer3DModel(**CONFIG).eval()


def empty_prompt() -> Float[Tensor, "1 m text_dim"]:
    """The fixed embedding of the empty prompt, in place of a text encoder."""
    return torch.randn(1, TEXT_TOKENS, CONFIG["text_dim"], generator=torch.Generator().manual_seed(0))


def assemble(transformer: WanTransformer3DModel, codec: AutoencoderPatchPCA) -> WanPipeline:
    """A stock `WanPipeline` without a text encoder (call it with `prompt_embeds=empty_prompt()`)."""
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": codec}
    return WanPipeline(
        **parts,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=transformer,
    )


def save(pipeline: WanPipeline, folder: Path) -> None:
    """Writes the pipeline and the empty-prompt embedding as a diffusers folder (safetensors only)."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_file({"prompt_embeds": empty_prompt()}, folder / EMPTY_PROMPT)
    write_checksums(folder)


def write_checksums(folder: Path) -> None:
    """Writes the sha256 of every file that loading reads into the checksum file."""
    folders = ("checkpoints", "scheduler", "transformer", "vae")
    parts = [file for part in folders for file in sorted((folder / part).glob("*.*"))]
    files = [folder / "model_index.json", folder / EMPTY_PROMPT, *parts]
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}" for file in files]
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n")
