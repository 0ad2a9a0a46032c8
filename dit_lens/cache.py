"""Activations in memory, under the names and habits of TransformerLens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.choices import nearest

# What follows "hook_" in a sub-layer's point; everything else belongs to the block itself.
ATTENTION_NAMES = ("q", "k", "v", "z", "rot_q", "rot_k", "pattern", "result", "raw_out")
MLP_NAMES = ("pre", "post")
MODULATIONS = ("shift_", "scale_", "gate_")


@dataclass(frozen=True, eq=False)
class ActivationCache(Mapping[str, Tensor]):
    """Activations of one run by hook-point name; it holds no model.

    `cache["blocks.3.attn.hook_z"]`, or short: `cache["z", 3]`, `cache["z", 3, "cross_attn"]`,
    `cache["resid_post", -1]`.
    A cache over several steps has a leading step axis s; `steps` names them.
    """

    tensors: Mapping[str, Tensor]
    grid_shape: TokenGrid
    blocks: int
    steps: tuple[int, ...] | None = None

    def __getitem__(self, key: str | tuple[str, int] | tuple[str, int, str]) -> Tensor:
        name = key if isinstance(key, str) else self._full_name(key[0], key[1], *key[2:])
        if name not in self.tensors:
            raise KeyError(
                f"got {name!r} · expected one of the {len(self.tensors)} cached points{nearest(name, self.tensors)}"
                " · widen names_filter"
            )
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        lines = [f"  {name}: {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in self.tensors.items()]
        return "\n".join([f"ActivationCache of {len(self)} points, steps {self.steps}", *lines])

    def grid(self, name: str, block: int) -> Tensor:
        """An activation with its video tokens on their grid: (b, f, h, w, ...), behind a step axis if there is one."""
        tensor = self[name, block]
        if self.steps is None:
            return self.grid_shape.unflatten(tensor)
        return self.grid_shape.unflatten(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

    def _full_name(self, name: str, block: int, layer: str = "") -> str:
        if not -self.blocks <= block < self.blocks:
            raise KeyError(f"got block {block} · expected {-self.blocks} to {self.blocks - 1}")
        if not layer:
            layer = "attn" if name in ATTENTION_NAMES else "mlp" if name in MLP_NAMES else ""
            layer = "mod" if name.startswith(MODULATIONS) else layer
        return ".".join(filter(None, ["blocks", str(block % self.blocks), layer, f"hook_{name}"]))
