"""Prompts: encoded once, kept on disk, told with guidance; the text encoder may then go."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dit_lens.conditioning import EMPTY, Conditioning, Guidance, Told
from dit_lens.inversion.loaded import Loaded

CACHE = "DIT_LENS_CACHE"  # the environment variable that names the folder
SAMPLED = 16  # values of a tensor of weights that tell it from another


class Prompted(Loaded):
    """The part of `DiTLens` that tells a model of prompts."""

    _text_key: str | None = None  # of a text encoder that was dropped

    def encode_prompt(self, prompt: str) -> Conditioning:
        """What the model is told of a prompt, made by the text encoder once and kept in `cache_folder` from then on.

        A lens without text encoder knows the prompt of its own conditioning only.

        Raises:
            ValueError: the pipeline has no text encoder, or it was dropped before this prompt was ever encoded.
        """
        key = self._text_key or text_key(self.pipeline, self.family.NAME)
        if key is None:
            alone = prompt == self.conditioning.prompt
            return self.conditioning if alone else self.family.encode_prompt(self.pipeline, prompt)
        return self._encoded(key, prompt)

    def _empty_prompt(self) -> Conditioning:
        """What the model is told where nothing is said, before a lens has a conditioning of its own."""
        key = text_key(self.pipeline, self.family.NAME)
        return self.family.encode_prompt(self.pipeline, EMPTY) if key is None else self._encoded(key, EMPTY)

    def _encoded(self, key: str, prompt: str) -> Conditioning:
        """A prompt from the disk, or encoded and put there."""
        path = cache_folder() / "prompts" / f"{_digest(key, prompt)}.safetensors"
        if path.is_file():
            return Conditioning.open(path)
        if self._text_key:
            raise ValueError(
                f"got prompt {prompt!r} after the text encoder was dropped, and none like it in {path.parent}"
                " · expected one that was encoded before · load the model anew, or encode_prompt before dropping"
            )
        made = self.family.encode_prompt(self.pipeline, prompt)
        made.save(path)
        return made

    def drop_text_encoder(self) -> tuple[str, ...]:
        """Frees the text encoders' memory and names them; prompts in the cache can still be told.

        The pipeline itself can no longer be called with a prompt; `generate` with a `Conditioning` it can.

        Raises:
            ValueError: there is none.
        """
        self._text_key = self._text_key or text_key(self.pipeline, self.family.NAME)
        present = tuple(name for name in text_parts(self.pipeline) if name.startswith("text_encoder"))
        if not present:
            raise ValueError(f"got {self.name} without a text encoder · expected one to drop")
        for name in present:
            setattr(self.pipeline, name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return present

    def _tell(self, prompt: str | Conditioning | None, guidance: float | Guidance | None, otherwise: Told) -> Told:
        """What is told of a prompt under guidance, each as it was otherwise where it is None.

        Raises:
            ValueError: guidance below 1, or away from what the model is told itself.
        """
        told = otherwise.conditioning if prompt is None else prompt
        if isinstance(told, str):  # what is told of an image stays
            told = Conditioning({**otherwise.conditioning.tensors, **self.encode_prompt(told).tensors}, told)
        guidance = otherwise.guidance if guidance is None else guidance
        if guidance is None or getattr(guidance, "scale", guidance) == 1:
            return Told(told)
        given = guidance if isinstance(guidance, Guidance) else Guidance(guidance, self.encode_prompt(EMPTY))
        both = Told(told, given)
        if both.branch("cond").hash == both.branch("uncond").hash:
            raise ValueError(
                f"got guidance {given.scale:g} away from what the model is told itself ({told.prompt!r}) · expected two"
                " prompts · prompt=, or Guidance(scale, negative)"
            )
        return both


def cache_folder() -> Path:
    """Where what is slow to make is kept: the folder that DIT_LENS_CACHE names, or ~/.cache/dit_lens."""
    named = os.environ.get(CACHE)
    return Path(named) if named else Path.home() / ".cache" / "dit_lens"


def text_parts(pipeline: Any) -> dict[str, Any]:
    """The parts of a pipeline that make what is told of a prompt."""
    kinds = ("text_encoder", "tokenizer", "connectors")
    return {name: part for name, part in pipeline.components.items() if part is not None and name.startswith(kinds)}


def text_key(pipeline: Any, family: str) -> str | None:
    """Tells pipelines apart that encode prompts otherwise: by id, configs and weights; None without text encoder."""
    parts = text_parts(pipeline)
    if not any(name.startswith("text_encoder") for name in parts):
        return None
    told = {name: [type(part).__name__, _config(part), weights_digest(part)] for name, part in parts.items()}
    return _digest(type(pipeline).__name__, family, str(pipeline.config.get("_name_or_path")), json.dumps(told))


def weights_digest(part: Any) -> str:
    """Tells weights apart by shape, dtype and some values of each tensor; of an offloaded one nothing can be read."""
    digest = hashlib.sha256()
    for name, tensor in part.named_parameters() if isinstance(part, nn.Module) else ():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if not tensor.is_meta:
            flat = tensor.detach().flatten()
            digest.update(flat[:: len(flat) // SAMPLED + 1].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _config(part: Any) -> str:
    """What a part was made with; of tokenizers their special tokens and size."""
    config = getattr(part, "config", None)
    if config is None:
        return f"{getattr(part, 'vocab_size', None)} {getattr(part, 'special_tokens_map', None)}"
    return str(config.to_json_string() if hasattr(config, "to_json_string") else dict(config))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
