"""How long loading and verification take at the shape of Wan 2.1 T2V-1.3B: `python -m benchmarks.loading`.

Prints a table in Markdown: seconds to load without verification, seconds that verification adds, and its share of the
whole. A folder of random weights in the released shape is written first and removed at the end (2.9 GB in bfloat16,
5.7 GB in float32). Weights are memory-mapped and read at their first use: what loads first also reads them from the
disk unless the system holds them, and what verification takes at the first use of a block includes reading it. So
every round loads it again, and the last column has the time of a second verification, whose weights are all there.

`--layers 3` for a quick look; `--folder` to measure a folder that is there already.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

from dit_lens import Conditioning, DiTLens

TEXT_WIDTH = 4096
INDEX = {
    "_class_name": "WanPipeline", "_diffusers_version": "0.33.0",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": [None, None], "tokenizer": [None, None], "transformer_2": [None, None],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Loading and verification of a large model.

    Attributes:
        layers: transformer blocks; the release has 30.
        dtypes: of the weights in memory and on disk.
        rounds: how often it is loaded and verified.
        folder: a diffusers folder to measure; one is written unless given.
    """

    layers: int = 30
    dtypes: tuple[str, ...] = ("bfloat16",)
    rounds: int = 3
    folder: Path | None = None


@contextmanager
def written(layers: int, dtype: torch.dtype) -> Iterator[Path]:
    """A folder of a Wan 2.1 T2V-1.3B of so many layers, without a text encoder."""
    with TemporaryDirectory() as name:
        folder, previous_dtype = Path(name), torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            transformer = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=layers)
        finally:
            torch.set_default_dtype(previous_dtype)
        transformer.save_pretrained(folder / "transformer", max_shard_size="2GB")
        AutoencoderKLWan(base_dim=8).save_pretrained(folder / "vae")
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        scheduler.save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(json.dumps(INDEX))
        yield folder


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def row(folder: Path, dtype: str) -> str:
    """One round: a line of the table."""
    text = Conditioning({"encoder_hidden_states": torch.zeros(1, 8, TEXT_WIDTH)})
    options: dict[str, Any] = {"dtype": dtype, "text_encoder": None, "conditioning": text, "verify": False}
    load, lens = seconds(lambda: DiTLens.from_pretrained(folder, **options))
    verify, _ = seconds(lambda: lens.verify(every_block=False))
    again, _ = seconds(lambda: lens.verify(every_block=False))
    size = sum(weight.numel() for weight in lens.transformer.parameters()) / 1e9
    share = verify / (load + verify)
    return f"| {size:.2f} B, {lens.blocks} blocks | {dtype} | {load:.2f} | {verify:.2f} | {share:.0%} | {again:.2f} |"


def main(config: Config) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    print("| model | dtype | load s | verify s | share of the whole | verify again s |\n|---|---|---|---|---|---|")
    for dtype in config.dtypes:
        place = nullcontext(config.folder) if config.folder else written(config.layers, getattr(torch, dtype))
        with place as folder:
            for _ in range(config.rounds):
                print(row(folder, dtype), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
