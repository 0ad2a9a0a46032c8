"""What a transformer is told beside latent and time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the transformer is told beside latent and time, of batch 1 or b."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    prompt: str = ""

    def of_clips(self, clips: slice) -> Conditioning:
        """The part that belongs to some of the clips; a batch of 1 serves them all."""
        parts = {name: tensor if len(tensor) == 1 else tensor[clips] for name, tensor in self.tensors.items()}
        return Conditioning(parts, self.prompt)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
        """On a device, in a dtype; masks and other integers keep theirs."""
        moved = {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in self.tensors.items()}
        return Conditioning(moved, self.prompt)

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the sha256 over the tensors."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].float().cpu()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]
