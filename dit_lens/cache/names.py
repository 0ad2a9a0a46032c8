"""Short names of activations, as in TransformerLens: ("z", 3), ("z", 3, "cross_attn")."""

from __future__ import annotations

# What follows "hook_" in the names of a sub-layer's points; all other points belong to the block itself.
ATTENTION_NAMES = ("q", "k", "v", "z", "rot_q", "rot_k", "pattern", "result", "raw_out")
MLP_NAMES = ("pre", "post")
MODULATIONS = ("shift_", "scale_", "gate_")
Key = str | tuple[str, int] | tuple[str, int, str]


def full_name(key: Key, blocks: int) -> str:
    """The full name of a point, blocks.3.attn.hook_z for ("z", 3); negative blocks count from the end.

    Raises:
        KeyError: the model has no such block.
    """
    if isinstance(key, str):
        return key
    name, block, *layer_given = key
    if not -blocks <= block < blocks:
        raise KeyError(f"got block {block} · expected {-blocks} to {blocks - 1}")
    layer = "".join(layer_given) or _layer(name)
    return ".".join(filter(None, ["blocks", str(block % blocks), layer, f"hook_{name}"]))


def _layer(name: str) -> str:
    """The default layer of a short name."""
    if name in ATTENTION_NAMES:
        return "attn"
    if name in MLP_NAMES:
        return "mlp"
    return "mod" if name.startswith(MODULATIONS) else ""
