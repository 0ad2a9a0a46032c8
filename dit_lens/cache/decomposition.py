"""The contribution of each head and layer to a stream, to a linear readout of it, and to the velocity, as exact sums.

All functions take a mapping of activations by name, whose leading axes "..." are clips, or steps and clips, and an
`Anatomy`. They compute in float32 or float64.

Example of head attribution through the final norm: one token of width 2 whose stream x = (3, 1) is the sum of an
embedding (1, 1) and a head's write (2, 0). A LayerNorm gives (x - mean) / std = ((3, 1) - 2) / 1 = (1, -1). With the
divisor 1 frozen, the norm is linear: (1, 1) becomes (0, 0), and (2, 0) becomes (2, 0) - 1 = (1, -1), with sum (1, -1).
Along the direction (1, 0), the head's share of the readout 1 is all of it, and the embedding's is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from dit_lens.cache.anatomy import Anatomy, FinalLayer, HeadWrite, Norm, block_of, is_stream, layer_of

Activations = Mapping[str, Tensor]
Components = dict[tuple[int, str], Tensor]


def precise(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# What heads write.


def head_writes(cache: Activations, write: HeadWrite) -> Float[Tensor, "... n k d"]:
    """The write of each head to the stream, gate included."""
    z = torch.stack(list(_mixes(cache, write).values())).sum(0)
    slices = rearrange(_weight(write, z), "d (k e) -> k e d", k=z.shape[-2])
    raw, gate = einsum(z, slices, "... n k e, k e d -> ... n k d"), _gate(cache, write, z)
    return raw if gate is None else raw * gate.unsqueeze(-2)


def write_of_heads(cache: Activations, write: HeadWrite) -> Float[Tensor, "... n d"]:
    """The write of attention to the stream, computed from its heads: gate · (Σ_k W_k z_k + bias)."""
    z = torch.stack(list(_mixes(cache, write).values())).sum(0)
    weight, gate = _weight(write, z), _gate(cache, write, z)
    raw = rearrange(z, "... k e -> ... (k e)") @ weight.T
    if write.bias is not None and not _parallel(write, weight):
        raw = raw + write.bias.to(z)
    return raw if gate is None else raw * gate


def head_readouts(
    cache: Activations, write: HeadWrite, direction: Float[Tensor, "*n d"]
) -> tuple[dict[str, Float[Tensor, "... n k"]], Float[Tensor, "... n"]]:
    """The inner product of each head's write with a direction, by the keys it attends to, and that of the bias.

    The direction, (d,) or (..., n, d), is multiplied by gate and projection first, so that no head's write of width d
    is computed. Example with one head, z = 2, W = (1, 3)ᵀ, gate (0.5, 1) and direction (1, 1): gate · direction =
    (0.5, 1), times W is 3.5, times z is 7; the head's write is (0.5·2, 1·6) = (1, 6), and its inner product is 7 too.
    """
    mixes = _mixes(cache, write)
    z = mixes[""]
    weight, gate = _weight(write, z), _gate(cache, write, z)
    toward = direction.to(z) if gate is None else direction.to(z) * gate
    by_head = rearrange(toward @ weight, "... (k e) -> ... k e", k=z.shape[-2])
    heads = {source: torch.linalg.vecdot(mix, by_head) for source, mix in mixes.items()}
    bias = z.new_tensor(0.0) if write.bias is None or _parallel(write, weight) else toward @ write.bias.to(z)
    return heads, bias.expand(z.shape[:-2])


def _mixes(cache: Activations, write: HeadWrite) -> dict[str, Float[Tensor, "... n k e"]]:
    return {source: precise(cache[name]) for source, name in write.z.items()}


def _weight(write: HeadWrite, z: Float[Tensor, "... n k e"]) -> Float[Tensor, "d ke"]:
    """The part of the projection's weight that multiplies the heads' z."""
    width = z.shape[-1] * z.shape[-2]
    if z.ndim < 4 or width > write.weight.shape[1]:
        raise ValueError(
            f"got {write.z['']} of shape {tuple(z.shape)} for a projection of width {write.weight.shape[1]} · expected"
            " (b, n, heads, width of a head) · cache it whole, without `reduce`"
        )
    return write.weight[:, :width].to(z)


def _parallel(write: HeadWrite, weight: Float[Tensor, "d ke"]) -> bool:
    """Whether the projection has the MLP's hidden layer as input too; its bias then counts as the MLP's."""
    return write.weight.shape[1] > weight.shape[1]


def _gate(cache: Activations, write: HeadWrite, z: Tensor) -> Float[Tensor, "... n d"] | None:
    """The factor of the projection's output, for all tokens or for each: the gate, and a frozen RMS norm if any.

    In Mochi, the output (3, 4) has the mean square 12.5. The norm divides by 12.5 ** 0.5 = 3.54, and with gates of
    tanh 0.5 the factor is 0.5 / 3.54 = 0.141 for every head.
    """
    if write.gate is None:
        return None
    gate = precise(cache[write.gate])
    gate = gate.unsqueeze(-2) if gate.ndim == z.ndim - 2 else gate
    if write.raw is None:
        return gate.to(z)
    raw = precise(cache[write.raw])
    return gate.tanh() * (raw.square().mean(-1, keepdim=True) + write.epsilon).rsqrt()


# The parts of a readout of a stream.


def components(
    cache: Activations, anatomy: Anatomy, point: str, direction: Float[Tensor, "*n d"]
) -> tuple[Float[Tensor, "... n"], Components]:
    """The shares of the embedding and of each head and layer in `stream · direction`, by token.

    Returns:
        The embedding's share (zero for a write), and all others by (block, label): "attn.0", "attn.bias", "mlp";
        "cross_attn.img.0" is the share of head 0 from image keys, where these have their own softmax.
    """
    embedding, shares = None, {}
    for name in anatomy.terms(point):
        if is_stream(name):
            embedding = _along(cache[name], direction)
        elif name not in anatomy.heads:
            shares[block_of(name), layer_of(name)] = _along(cache[name], direction)
        else:
            heads, bias = head_readouts(cache, anatomy.heads[name], direction)
            for source, values in heads.items():
                for head, value in enumerate(values.unbind(-1)):
                    shares[block_of(name), ".".join(filter(None, (layer_of(name), source, str(head))))] = value
            shares[block_of(name), f"{layer_of(name)}.bias"] = bias
    if embedding is None:
        embedding = torch.zeros_like(next(iter(shares.values())))
    return embedding, shares


def _along(values: Tensor, direction: Tensor) -> Float[Tensor, "... n"]:
    values = precise(values)
    return torch.linalg.vecdot(values, direction.to(values))


# The final layer with frozen norm statistics.


@dataclass(frozen=True, eq=False)
class Frozen:
    """The final layer as an affine map of the stream: the divisors of its norms, and its modulation, are constants.

    Attributes:
        layer: the weights.
        scales: 1 / standard deviation for each norm, (..., n, 1).
        shift, scale: (..., 1 or n, d).
    """

    layer: FinalLayer
    scales: tuple[Tensor, ...]
    shift: Tensor
    scale: Tensor

    @classmethod
    def of(cls, cache: Activations, layer: FinalLayer, point: str) -> Frozen:
        """The final layer frozen at the activations of a cache; `point` is the stream that it reads."""
        x, scales = precise(cache[point]), []
        shift, scale = (precise(cache[f"final.mod.hook_{name}"]) for name in ("shift", "scale"))
        if shift.ndim < x.ndim:
            shift, scale = shift.unsqueeze(-2), scale.unsqueeze(-2)
        for norm in layer.norms:
            scales.append((x.var(-1, correction=0, keepdim=True) + norm.epsilon).rsqrt())
            x = _shifted(norm, _normed(norm, x, scales[-1]))
        return cls(layer, tuple(scales), shift.to(x), scale.to(x))

    def part(self, x: Float[Tensor, "... n d"], axis: int | None = None) -> Float[Tensor, "... n d"]:
        """The image of a term of the stream, without constants; `axis` is the stack axis of a stack of terms."""
        for norm, scale in zip(self.layer.norms, self.scales, strict=True):
            x = _normed(norm, precise(x), scale if axis is None else scale.unsqueeze(axis))
        return x * (1 + (self.scale if axis is None else self.scale.unsqueeze(axis)))

    def constant(self) -> Float[Tensor, "... n d"]:
        """The image of a zero stream: biases and shift."""
        x = torch.zeros_like(self.scales[0] * self.scale)
        for norm, scale in zip(self.layer.norms, self.scales, strict=True):
            x = _shifted(norm, _normed(norm, x, scale))
        return x * (1 + self.scale) + self.shift

    def toward(self, direction: Float[Tensor, "... n d"]) -> Float[Tensor, "... n d"]:
        """The direction in the stream for a direction after norms and modulation: the adjoint of `part`."""
        direction = direction * (1 + self.scale)
        for norm, scale in zip(reversed(self.layer.norms), reversed(self.scales), strict=True):
            direction = direction * scale if norm.weight is None else direction * scale * norm.weight.to(direction)
            direction = direction - direction.mean(-1, keepdim=True)
        return direction


def _normed(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) * scale
    return x if norm.weight is None else x * norm.weight.to(x)


def _shifted(norm: Norm, x: Tensor) -> Tensor:
    return x if norm.bias is None else x + norm.bias.to(x)


def tokens_of(direction: Float[Tensor, "... c f h w"], layer: FinalLayer) -> Float[Tensor, "... n p"]:
    """A direction in velocity space in the layout of the final projection's output: tokens of patches."""
    p, q, r = layer.patch
    return rearrange(direction, f"... c (f p) (h q) (w r) -> ... (f h w) ({layer.token})", p=p, q=q, r=r)


def velocity_readout(
    cache: Activations, frozen: Frozen, direction: Float[Tensor, "... c f h w"]
) -> tuple[Float[Tensor, "... n d"], Float[Tensor, "..."]]:
    """A direction in the stream and a constant, so that <velocity, direction> = Σ_n stream · direction + constant."""
    layer = frozen.layer
    slope, offset = precise(cache["final.hook_slope"]), precise(cache["final.hook_offset"])
    in_patches = tokens_of(direction * slope, layer)
    after_norms = in_patches @ layer.weight.to(in_patches)
    constant = (offset * direction).flatten(-4).sum(-1) + (after_norms * frozen.constant()).flatten(-2).sum(-1)
    if layer.bias is not None:
        constant = constant + (in_patches @ layer.bias.to(in_patches)).sum(-1)
    return frozen.toward(after_norms), constant
