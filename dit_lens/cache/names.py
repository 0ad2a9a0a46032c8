"""Short names of activations, after the habits of TransformerLens: ("z", 3), ("z", 3, "cross_attn")."""

from __future__ import annotations

# What follows "hook_" in a sub-layer's point; everything else belongs to the block itself.
ATTENTION_NAMES = ("q", "k", "v", "z", "rot_q", "rot_k", "pattern", "result", "raw_out")
MLP_NAMES = ("pre", "post")
MODULATIONS = ("shift_", "scale_", "gate_")
Key = str | tuple[str, int] | tuple[str, int, str]


def full_name(key: Key, blocks: int) -> str:
    """The full name of a point: blocks.3.attn.hook_z of ("z", 3); negative blocks count from the end.

    Raises:
        KeyError: there is no such block.
    """
    if isinstance(key, str):
        return key
    name, block, *told = key
    if not -blocks <= block < blocks:
        raise KeyError(f"got block {block} · expected {-blocks} to {blocks - 1}")
    layer = "".join(told) or _layer(name)
    return ".".join(filter(None, ["blocks", str(block % blocks), layer, f"hook_{name}"]))


def _layer(name: str) -> str:
    """The layer that a short name is of where none is told."""
    if name in ATTENTION_NAMES:
        return "attn"
    if name in MLP_NAMES:
        return "mlp"
    return "mod" if name.startswith(MODULATIONS) else ""
