"""What a transformer is told beside latent and time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the transformer is told beside latent and time, of batch 1 or b."""

    tensors: Mapping[str, Tensor]
    prompt: str = ""

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the sha256 over the tensors."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(name.encode() + self.tensors[name].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
