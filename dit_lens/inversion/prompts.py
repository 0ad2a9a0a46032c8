"""Prompts as conditioning: encoded once and cached on disk, so that text encoders are loaded for that alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import SafetensorError

from dit_lens.arguments import number
from dit_lens.conditioning import EMPTY, Conditioning, Conditions, Guidance
from dit_lens.families.family import Family
from dit_lens.models.digests import CACHE, cache_folder, is_kept, warn_unwritable
from dit_lens.models.parts import Parts
from dit_lens.models.text_keys import prompt_file

__all__ = ["CACHE", "Prompt", "Prompts", "cache_folder"]
Prompt = str | Sequence[str] | Conditioning


class Prompts:
    """The prompts of one model.

    Args:
        parts: the pipeline, with its text encoders or where to load them from.
        family: how its prompts are encoded.
        name: how errors call the model.

    Attributes:
        conditioning: that of the lens; None before the lens has any.
    """

    def __init__(self, parts: Parts, family: Family, name: str):
        self.parts, self.family, self.name = parts, family, name
        self.conditioning: Conditioning | None = None

    def encode(self, prompt: str) -> Conditioning:
        """The conditioning of a prompt, encoded once and cached on disk (see `cache_folder`).

        A lens that was loaded by name loads its text encoder for a prompt that is not in the cache, and drops it
        again. A lens without text encoder knows the prompt of its own conditioning only.

        Raises:
            ValueError: the pipeline has no text encoder, or it was dropped or left out before this prompt was ever
                encoded.
        """
        key, default = self.parts.text_key(self.family.name), self.conditioning
        if key is not None:
            return self._cached(key, prompt)
        if default is not None and prompt == default.prompt and not self.can_encode:
            return default
        with self.parts.text_encoders() as pipeline:
            return self.family.encode_prompt(pipeline, prompt)

    @property
    def can_encode(self) -> bool:
        """Whether a new prompt can be encoded: the text encoder is there, or can be loaded."""
        return self.parts.can_encode_prompts

    def _cached(self, key: str, prompt: str) -> Conditioning:
        """A prompt from the disk, or encoded and written there."""
        path, default = prompt_file(key, prompt), self.conditioning
        if is_kept(path):
            return Conditioning.open(path)
        if not self.can_encode:
            if default is not None and default.prompt == prompt and self.parts.source is not None:
                return default
            raise ValueError(
                f"got prompt {prompt!r} after the text encoder was dropped or left out, and none like it in"
                f" {path.parent} · expected one that was encoded before · load the model again with its text encoder,"
                " or give a Conditioning"
            )
        with self.parts.text_encoders() as pipeline:
            conditioning = self.family.encode_prompt(pipeline, prompt)
        try:
            conditioning.save(path)
        except (OSError, SafetensorError) as error:
            warn_unwritable(error)
        return conditioning

    def encode_several(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of several clips, one prompt for each.

        Raises:
            ValueError: no prompts, or of several lengths, which make no batch.
        """
        parts = [self.encode(prompt) for prompt in prompts]
        shapes = {str([tuple(tensor.shape[1:]) for tensor in part.tensors.values()]) for part in parts}
        if len(shapes) != 1:
            raise ValueError(
                f"got {len(prompts)} prompts of {len(shapes)} shapes · expected one for each clip, encoded to the same"
                " length · invert clips of other prompts by themselves"
            )
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        return Conditioning(tensors, " | ".join(prompts))

    def drop_text_encoder(self) -> tuple[str, ...]:
        """Frees the text encoders' memory and names them; prompts in the cache are still known.

        A lens that was loaded by name loads them again for a new prompt. The pipeline itself can no longer be called
        with a prompt; `generate` can.

        Raises:
            ValueError: there is none.
        """
        present = self.parts.drop_text_encoders(self.family.name)
        if not present and not self.can_encode:
            raise ValueError(f"got {self.name} without a text encoder · expected one to drop")
        return present

    def conditions(self, prompt: Prompt | None, guidance: float | Guidance | None, default: Conditions) -> Conditions:
        """The conditioning of a prompt under guidance; what is None is as in the default.

        Raises:
            ValueError: guidance below 1, or away from the very prompt.
            TypeError: a prompt of another type.
        """
        conditioning = default.conditioning if prompt is None else prompt
        if not isinstance(conditioning, Conditioning):
            conditioning = self._encoded(conditioning)  # what a first frame is conditioned on stays
            tensors = {**default.conditioning.tensors, **conditioning.tensors}
            conditioning = Conditioning(tensors, conditioning.prompt)
        guidance = default.guidance if guidance is None else guidance
        if guidance is not None and not isinstance(guidance, Guidance):
            guidance = number(guidance, "guidance")
        if guidance is None or getattr(guidance, "scale", guidance) == 1:
            return Conditions(conditioning)
        if not isinstance(guidance, Guidance):
            guidance = Guidance(guidance, self.encode(EMPTY))
        both = Conditions(conditioning, guidance)
        if both.branch("cond").hash == both.branch("uncond").hash:
            raise ValueError(
                f"got guidance {guidance.scale:g} away from the prompt itself ({conditioning.prompt!r}) · expected two"
                " prompts · prompt=, or Guidance(scale, negative)"
            )
        return both

    def _encoded(self, prompt: object) -> Conditioning:
        if isinstance(prompt, str):
            return self.encode(prompt)
        if isinstance(prompt, list | tuple) and all(isinstance(part, str) for part in prompt):
            return self.encode_several(prompt)
        raise TypeError(f"got prompt={prompt!r} · expected a string, a list with one for each clip, or a Conditioning")
