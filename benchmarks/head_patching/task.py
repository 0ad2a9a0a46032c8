"""What every way is given, and what it makes of streams at the readout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_lens.probing import Probe


@dataclass(frozen=True, eq=False)
class Task:
    """A stock Wan, two calls of it of one clip each, and a probe on what a block puts out.

    Attributes:
        transformer: left as diffusers made it; a way that instruments one takes a copy.
        clean, corrupted: keyword arguments.
        readout: the block.
    """

    transformer: Any
    clean: Mapping[str, Any]
    corrupted: Mapping[str, Any]
    readout: int
    probe: Probe

    @property
    def heads(self) -> int:
        """In a block."""
        return self.transformer.config.num_attention_heads

    @property
    def width(self) -> int:
        """Of a head."""
        return self.transformer.config.attention_head_dim

    @property
    def blocks(self) -> range:
        """Those whose heads can have an effect."""
        return range(self.readout + 1)

    def columns(self, head: int) -> slice:
        """Where a head lies in z."""
        return slice(head * self.width, (head + 1) * self.width)

    def logit(self, stream: Tensor) -> Tensor:
        """(b,) of what the block at the readout puts out."""
        return self.probe.of_activation(stream)

    def effects(self, patched: Callable[[int, int], Tensor], corrupted: Tensor) -> Tensor:
        """Effects (block, head) of the streams at the readout that one head at a time leads to."""
        before = self.logit(corrupted)
        effects = [self.logit(patched(block, head)) - before for block in self.blocks for head in range(self.heads)]
        return torch.cat(effects).view(len(self.blocks), self.heads).cpu()


Runner = Callable[[], Tensor | None]
