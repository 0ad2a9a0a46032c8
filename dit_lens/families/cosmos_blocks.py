"""Hook points of a Cosmos block: learned positions (Predict 1), self-attention, cross-attention and MLP write in turn.

The local variables `hidden_states_{1,2,3,4}` of `CosmosTransformerBlock.forward` are the stream after each. The norm
before each sub-layer also returns its gate. Text keys have no rotary, so the pattern of cross-attention is computed
from the outputs of `norm_q` and `norm_k`; image keys (Transfer 2.5) have their own softmax and are not used here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dit_lens.families.parts import (
    Attention,
    added,
    argument,
    heads_first,
    mixing,
    mixing_law,
    pattern,
    pattern_law,
    point,
    result_law,
    results,
    rotated,
    section,
    split_heads,
)
from dit_lens.hook_points import HookPoint, Site

# Name of a sub-layer, its norm, its module, and the stream after it.
SUBLAYERS = (
    ("attn", "norm1", "attn1", "hidden_states_2"),
    ("cross_attn", "norm2", "attn2", "hidden_states_3"),
    ("mlp", "norm3", "ff", "hidden_states_4"),
)
MODULATIONS = ("shift", "scale", "gate")
TEMB = argument("temb", 2)


def spelled_block(
    name: str, path: str, block: Any, learned: bool
) -> tuple[list[Site], list[HookPoint], list[HookPoint]]:
    """Sites, points and laws of a block, each in forward order; `name` is "blocks.0", `path` that of the module.

    Args:
        learned: whether learned positions are added first.
    """
    inputs, output, after_positions = Site(path, "inputs"), Site(path, "output"), Site(path, "local", "hidden_states_1")
    sites, laws = [inputs, *([after_positions] if learned else [])], []
    points = [point(f"{name}.hook_resid_pre", "b n d", inputs, argument("hidden_states", 0))]
    if learned:
        points += [
            point(f"{name}.hook_pos_out", "b n d", inputs, argument("extra_pos_emb", 5)),
            point(f"{name}.hook_resid_mid_pos", "b n d", after_positions),
        ]
    for short, norm, module, after in SUBLAYERS:
        norm_inputs, gate = Site(f"{path}.{norm}", "inputs"), Site(f"{path}.{norm}", "output")
        modulated, stream = Site(f"{path}.{norm}.linear_2", "output"), Site(path, "local", after)
        build = {"attn": _self_attention, "cross_attn": _cross_attention, "mlp": _mlp}[short]
        layer_sites, layer_points, layer_laws, raw = build(
            f"{name}.{short}", f"{path}.{module}", block.get_submodule(module)
        )
        sites += [norm_inputs, modulated, gate, *layer_sites, stream]
        points += _modulation(
            f"{name}.mod", short, norm_inputs, modulated, block.get_submodule(norm).linear_2.out_features // 3
        )
        points += [*layer_points, added(f"{name}.hook_{short}_out", (gate, raw), _gated, stream)]
        points += [] if short == "mlp" else [point(f"{name}.hook_resid_mid_{short}", "b n d", stream)]
        laws += layer_laws
    points.append(point(f"{name}.hook_resid_post", "b n d", output))
    return [*sites, output], points, laws


def _gated(norm: tuple, raw: Tensor) -> Tensor:
    """The write of a sub-layer: its output times the gate (b, 1, d) or (b, n, d), the second output of its norm."""
    return norm[1] * raw


def _modulation(name: str, short: str, norm_inputs: Site, site: Site, width: int) -> list[HookPoint]:
    """Shift, scale and gate (b, d), or (b, n, d) with a timestep per frame: the block's own plus the shared part."""

    def spelled(index: int, kind: str) -> HookPoint:
        part = section(index * width, (index + 1) * width)
        return HookPoint(
            f"{name}.hook_{kind}_{short}",
            "b d",
            (norm_inputs, site),
            lambda inputs, raw: part.get(raw + TEMB.get(inputs)),
            lambda new, old, inputs, raw: part.put(part.get(raw) + (new - old), raw),
        )

    return [spelled(index, kind) for index, kind in enumerate(MODULATIONS)]


Spelled = tuple[list[Site], list[HookPoint], list[HookPoint], Site]


def _self_attention(name: str, path: str, module: Any) -> Spelled:
    """Sites, points and laws of self-attention, and the site of its output."""
    attention, named = Attention(name, path, module, module.heads), _attention_sites(path)
    sites = [attention.processor, *named[:3], attention.call, attention.mixed, *named[3:]]
    points = [*_projected(name, named, module.heads, "n"), *rotated(attention), pattern(attention)]
    mixed, laws = _mixed(name, named, module)
    return sites, points + mixed, [pattern_law(attention), *laws], named[-1]


def _cross_attention(name: str, path: str, module: Any) -> Spelled:
    """Sites, points and laws of cross-attention, and the site of its output."""
    named, split, transposed = _attention_sites(path), split_heads(module.heads), heads_first()
    inputs = Site(path, "inputs")

    def operands(inputs: tuple, v: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return transposed.get(q), transposed.get(k), split.get(v), inputs[1].get("attention_mask")

    spelled = mixing(f"{name}.hook_pattern", "b k n m", (inputs, *named[:4]), operands, split)
    mixed, laws = _mixed(name, named, module)
    points = [*_projected(name, named, module.heads, "m"), spelled, *mixed]
    return [inputs, *named], points, [mixing_law(spelled, operands, split), *laws], named[-1]


def _attention_sites(path: str) -> tuple[Site, ...]:
    """Sites of values, queries, keys, z (the input of the output projection) and the projection's output."""
    projected = (Site(f"{path}.{module}", "output") for module in ("to_v", "norm_q", "norm_k"))
    return (*projected, Site(f"{path}.to_out.0", "input"), Site(f"{path}.to_out.0", "output"))


def _projected(name: str, sites: tuple[Site, ...], heads: int, keys: str) -> list[HookPoint]:
    v, q, k, *_ = sites
    return [
        point(f"{name}.hook_v", f"b {keys} k e", v, split_heads(heads)),
        point(f"{name}.hook_q", "b n k e", q, heads_first()),
        point(f"{name}.hook_k", f"b {keys} k e", k, heads_first()),
    ]


def _mixed(name: str, sites: tuple[Site, ...], module: Any) -> tuple[list[HookPoint], list[HookPoint]]:
    """Hook points of z and of the output projection, and the law that ties them."""
    *_, z, out = sites
    ends = name, z, out, module.to_out[0], module.heads
    return [point(f"{name}.hook_z", "b n k e", z, split_heads(module.heads)), *results(*ends)], [result_law(*ends)]


def _mlp(name: str, path: str, module: Any) -> Spelled:
    """Sites and points of the MLP, no laws, and the site of its output."""
    pre, post, out = Site(f"{path}.net.0.proj", "output"), Site(f"{path}.net.2", "input"), Site(path, "output")
    points = [point(f"{name}.hook_pre", "b n d_mlp", pre), point(f"{name}.hook_post", "b n d_mlp", post)]
    return [pre, post, out], points, [], out
