"""The parts of a pipeline, each loaded when it is needed.

Text encoders are large and needed only briefly; an autoencoder may not be needed at all.

    parts = open_model("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")   # transformer, scheduler, tokenizer; 2.6 of 17 GB
    with parts.text_encoders() as pipeline:                  # reads 11 GB ...
        pipeline.encode_prompt("a ball falls")
    parts.vae                                                # ... which are free again; reads 0.5 GB
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dit_lens.models.placing import Residency, free_memory
from dit_lens.models.source import ENCODERS, TEXT, Source
from dit_lens.models.text_keys import text_key

ON_DEMAND, KEEP = "on demand", "keep"
Read = Callable[[str], Any]


class Parts:
    """A pipeline whose autoencoder and text encoders are loaded when they are first needed.

    Args:
        pipeline: as assembled; parts that are not loaded yet are None, the autoencoder is on the meta device. None for
            a transformer alone.
        source: where parts are loaded from; None where the pipeline already holds all of them.
        read: loads a part by its name, onto its device.
        text: "on demand" drops text encoders after each use, "keep" keeps them, None never loads them.
        residency: which parts are on the device.
        text_dtype: of text encoders.
    """

    def __init__(
        self,
        pipeline: Any,
        source: Source | None = None,
        read: Read | None = None,
        text: str | None = KEEP,
        residency: Residency | None = None,
        text_dtype: torch.dtype = torch.float32,
    ):
        self.pipeline, self.source, self.text = pipeline, source, text
        self.residency, self.text_dtype, self._read = residency or Residency(), text_dtype, read
        self.keyed_by_files, self._key, self.refuse_vae = source is not None, None, ""
        for part in pipeline.components.values() if pipeline is not None else ():
            if not _is_outline(part):
                self.residency.add(part)

    @property
    def vae(self) -> Any:
        """The autoencoder on the device, loaded at first use; None for a pipeline without one."""
        if _is_outline(self.pipeline.vae):
            if self._read is None or self.refuse_vae:
                raise ValueError(self.refuse_vae or "got an autoencoder on the meta device · expected its weights")
            self.pipeline.vae = self._read("vae")
            self.residency.add(self.pipeline.vae)
        self.residency.bring(self.pipeline.vae)
        return self.pipeline.vae

    @property
    def whole(self) -> Any:
        """The pipeline with its autoencoder loaded; it has text encoders only where these are kept."""
        if _is_outline(self.pipeline.vae) and not self.refuse_vae:
            _ = self.vae
        return self.pipeline

    @property
    def can_encode_prompts(self) -> bool:
        """Whether a new prompt can be encoded."""
        return bool(self._present()) or bool(self._absent())

    @contextmanager
    def text_encoders(self) -> Iterator[Any]:
        """A context with the pipeline and its text encoders, which are dropped after the block unless they are kept.

        Raises:
            ValueError: a file is missing or damaged; names it.
        """
        absent = self._absent()
        self.residency.bring(*self._present())
        for name in absent:
            assert self._read is not None
            self.pipeline.register_modules(**{name: self._read(name)})
        outline = self.pipeline.vae if _is_outline(getattr(self.pipeline, "vae", None)) else None
        if outline is not None:  # a pipeline infers its device from its parts; its config does not change
            vars(self.pipeline)["vae"] = None
        try:
            yield self.pipeline
        finally:
            if outline is not None:
                vars(self.pipeline)["vae"] = outline
            if self.text != KEEP and absent:
                self._drop(absent)
            else:
                for name in absent:
                    self.residency.add(getattr(self.pipeline, name))

    def text_key(self, family: str) -> str | None:
        """A digest of everything that decides how prompts are encoded; None if there is no text encoder.

        The text encoder of a hub repository may have to be downloaded for it.
        """
        if self._key is not None:
            return self._key
        if self.source is None or not self.keyed_by_files:
            return text_key(self.pipeline, family)
        also = family, str(self.text_dtype)
        key = self.source.text_key(*also)
        if key is None and self._absent():
            self.source.need(tuple(part for part in self.source.index if not part.startswith(TEXT)))
            key = self.source.text_key(*also)
        self._key = key
        return key

    def drop_text_encoders(self, family: str) -> tuple[str, ...]:
        """Frees the text encoders' memory and returns their names; those of a folder are loaded again when needed."""
        present = tuple(name for name in self._present() if name.startswith("text_encoder"))
        if present:
            self._key = self.text_key(family)
        self._drop(present)
        self.text = ON_DEMAND if self._read else self.text
        return present

    def _drop(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.residency.remove(getattr(self.pipeline, name))
            setattr(self.pipeline, name, None)
        free_memory()

    def _present(self) -> dict[str, Any]:
        parts = self.pipeline.components.items()
        return {name: part for name, part in parts if name.startswith(ENCODERS) and part is not None}

    def _absent(self) -> tuple[str, ...]:
        """Names of parts that encode prompts, are not loaded, and can be."""
        if self.source is None or self._read is None or self.text is None:
            return ()
        return tuple(name for name in self.source.parts(ENCODERS) if getattr(self.pipeline, name, None) is None)


def _is_outline(part: Any) -> bool:
    """Whether a part has its config, and no weights yet."""
    return isinstance(part, nn.Module) and any(tensor.is_meta for tensor in part.parameters()) and not _offloaded(part)


def _offloaded(part: nn.Module) -> bool:
    """Whether weights are on the meta device because accelerate moves them to where they are used."""
    return any(hasattr(module, "_hf_hook") for module in part.modules())
