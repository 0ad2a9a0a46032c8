"""A digest of how a pipeline encodes prompts, and the file in which an encoded prompt is cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from dit_lens.models.digests import cache_folder
from dit_lens.models.source import TEXT

_digests: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def prompt_file(key: str, prompt: str) -> Path:
    """The cache file of a prompt encoded by a text encoder with this key."""
    return cache_folder() / "prompts" / f"{digest_of(key, prompt)}.safetensors"


def text_parts(pipeline: Any) -> dict[str, Any]:
    """The parts of a pipeline that encode prompts."""
    return {name: part for name, part in pipeline.components.items() if part is not None and name.startswith(TEXT)}


def text_key(pipeline: Any, family: str) -> str | None:
    """A digest of the content of a pipeline's text encoders and tokenizers in memory.

    Every weight counts, and every word and merge of a tokenizer. None if there is no text encoder, or if its weights
    cannot be read (offloaded layer by layer).
    """
    parts = text_parts(pipeline)
    if not any(name.startswith("text_encoder") for name in parts):
        return None
    contents = {name: _content(part) for name, part in parts.items()}
    if None in contents.values():
        return None
    return digest_of(type(pipeline).__name__, family, json.dumps(contents))


def _content(part: Any) -> list[str] | None:
    if isinstance(part, nn.Module):
        weights = weights_digest(part)
        return None if weights is None else [type(part).__name__, _config(part), weights]
    backend: Any = getattr(part, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):  # padding and truncation are those of its last call
        spelled = {name: v for name, v in json.loads(backend.to_str()).items() if name not in ("padding", "truncation")}
    else:
        spelled = dict(sorted(part.get_vocab().items())) if hasattr(part, "get_vocab") else {}
    limits = [getattr(part, name, None) for name in ("special_tokens_map", "model_max_length", "padding_side")]
    return [type(part).__name__, digest_of(json.dumps(spelled)), str(limits)]


def weights_digest(part: nn.Module) -> str | None:
    """A digest of all parameters and buffers; None where some are on the meta device.

    It is computed again only if a tensor was written to or replaced.
    """
    tensors = dict(sorted({**dict(part.named_parameters()), **dict(part.named_buffers())}.items()))
    if any(tensor.is_meta for tensor in tensors.values()):
        return None
    state = tuple((name, t.data_ptr(), None if t.is_inference() else t._version) for name, t in tensors.items())
    cached = _digests.get(part)
    if cached is not None and cached[0] == state:
        return cached[1]
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        flat = tensor.detach().contiguous().reshape(-1).cpu()
        digest.update(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
    _digests[part] = state, digest.hexdigest()
    return digest.hexdigest()


def _config(part: Any) -> str:
    config = getattr(part, "config", None)
    if config is None:
        return ""
    return str(config.to_json_string() if hasattr(config, "to_json_string") else dict(config))


def digest_of(*parts: str) -> str:
    """A digest of several strings, as 32 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
