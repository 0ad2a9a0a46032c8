"""Repair of tokenizers that do not split text as their own file specifies.

transformers 5 rebuilds the tokenizer of a class such as `LlamaTokenizerFast` with that class's own pre-tokenizer:
that of HunyuanVideo, whose tokenizer.json splits bytes as Llama 3 does, then silently loses spaces and line breaks and
miscounts the tokens of the template that HunyuanVideo cuts off. `AutoTokenizer` reads the file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from dit_lens.models.facts import read_json

BYTES = "ByteLevel"


def mend_tokenizers(pipeline: Any, folder: Path, passed: Collection[str] = ()) -> tuple[str, ...]:
    """Reloads a pipeline's tokenizers that should split bytes but do not; returns their names.

    Args:
        pipeline: as diffusers loaded it.
        folder: the checkpoint's.
        passed: parts that the caller provided, which stay unchanged.
    """
    read = {name: part for name, part in pipeline.components.items() if name not in passed}
    mended = tuple(name for name, part in read.items() if _lost_bytes(part, folder / name))
    for name in mended:
        pipeline.register_modules(**{name: PreTrainedTokenizerFast.from_pretrained(folder / name)})
    return mended


def _lost_bytes(part: Any, folder: Path) -> bool:
    backend, file = getattr(part, "backend_tokenizer", None), folder / "tokenizer.json"
    if backend is None or not file.is_file():
        return False
    return BYTES in str(read_json(file).get("pre_tokenizer")) and BYTES not in str(backend.pre_tokenizer)
