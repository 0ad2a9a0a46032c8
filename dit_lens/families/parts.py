"""Functions that build hook points for all families: raw values, heads, gated writes, attention patterns, results.

Derived points, which the model has no tensor of (such as a pattern), are written as differences: the model's own value
plus f(edited) - f(read), so that an identity edit changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.hook_points import QKV, HookPoint, Site

Operands = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True)
class Part:
    """The part of a raw value that is an activation: `get` (raw) returns it, `put` (new, raw) replaces it."""

    get: Callable[[Any], Tensor]
    put: Callable[[Tensor, Any], Any]


WHOLE = Part(lambda raw: raw, lambda new, raw: new)


def item(index: int) -> Part:
    """The part of a tuple at an index."""

    def put(new: Tensor, raw: Sequence[Any]) -> tuple:
        return tuple(new if i == index % len(raw) else value for i, value in enumerate(raw))

    return Part(lambda raw: raw[index], put)


def argument(name: str, position: int | None = None) -> Part:
    """The part of a call's (args, kwargs) that is an argument, passed by name or by position."""

    def get(inputs: tuple) -> Tensor:
        args, kwargs = inputs
        return kwargs[name] if name in kwargs or position is None else args[position]

    def put(new: Tensor, inputs: tuple) -> tuple:
        args, kwargs = inputs
        if name in kwargs or position is None:
            return args, {**kwargs, name: new}
        return item(position).put(new, args), kwargs

    return Part(get, put)


def tokens(of: Callable[[Tensor], slice], inside: Part = WHOLE, axis: int = 1) -> Part:
    """The part of a joint sequence of text and video that is some of its tokens."""

    def get(raw: Any) -> Tensor:
        whole = inside.get(raw)
        return whole[(slice(None),) * axis + (of(whole),)]

    def put(new: Tensor, raw: Any) -> Any:
        whole = inside.get(raw).clone()
        whole[(slice(None),) * axis + (of(whole),)] = new
        return inside.put(whole, raw)

    return Part(get, put)


def section(start: int, stop: int, inside: Part = WHOLE, axis: int = -1) -> Part:
    """The slice `start:stop` of one axis."""

    def put(new: Tensor, raw: Any) -> Any:
        whole = inside.get(raw).clone()
        whole.narrow(axis, start, stop - start).copy_(new)
        return inside.put(whole, raw)

    return Part(lambda raw: inside.get(raw).narrow(axis, start, stop - start), put)


def split_heads(heads: int, inside: Part = WHOLE) -> Part:
    """The last axis, of width heads x e, as two axes k and e."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b n (k e) -> b n k e", k=heads),
        lambda new, raw: inside.put(rearrange(new, "b n k e -> b n (k e)"), raw),
    )


def heads_first(inside: Part = WHOLE) -> Part:
    """Tensors with heads before tokens, as `scaled_dot_product_attention` takes them, as (b, n, k, e)."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b k n e -> b n k e"),
        lambda new, raw: inside.put(rearrange(new, "b n k e -> b k n e"), raw),
    )


def upcast(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is; the dtype in which sums are computed."""
    return x if x.dtype == torch.float64 else x.float()


def point(name: str, axes: str, site: Site, part: Part = WHOLE, before: Sequence[Site] = ()) -> HookPoint:
    """The hook point of a value at one site; `before` are sites to read first, such as an attention's processor."""

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        return part.put(new, values[-1])

    return HookPoint(name, axes, (*before, site), lambda *values: part.get(values[-1]), write)


def read_only(name: str, axes: str, sites: Sequence[Site], read: Callable[..., Tensor]) -> HookPoint:
    """A hook point that can be read but not written."""
    return HookPoint(name, axes, tuple(sites), read, None)


def among(whole: HookPoint, source: Site, of: Callable[[Any], slice], letter: str, axis: int = 1) -> HookPoint:
    """The part of a hook point at video or text tokens only, where both share a sequence.

    Args:
        whole: the point over the joint sequence.
        source: an earlier site whose value determines the tokens (the inputs of a block).
        of: that value -> the slice of tokens.
        letter: the letter of these tokens, "n" (video) or "m" (text).
        axis: the index of the token axis.
    """

    def index(source_value: Any) -> tuple[slice, ...]:
        return (*(slice(None),) * axis, of(source_value))

    def write(new: Tensor, old: Tensor, source_value: Any, *values: Any) -> Any:
        before = whole.read(*values)
        after = before.clone()
        after[index(source_value)] = new
        assert whole.write is not None
        return whole.write(after, before, *values)

    def qkv(source_value: Any, *values: Any) -> QKV:
        assert whole.qkv is not None
        return whole.qkv(*values).of_queries(of(source_value))

    axes = whole.axes.split()
    axes[axis] = letter
    return replace(
        whole,
        axes=" ".join(axes),
        sites=(source, *whole.sites),
        read=lambda source_value, *values: whole.read(*values)[index(source_value)],
        write=write if whole.write else None,
        qkv=qkv if whole.qkv else None,
    )


def added(
    name: str,
    sites: Sequence[Site],
    read: Callable[..., Tensor],
    after: Site,
    stream: Part = WHOLE,
    axes: str = "b n d",
) -> HookPoint:
    """The hook point of a sub-layer's write to the stream, gate included; an edit changes the stream after it.

    Example of an edit: the stream is 1.0, the sub-layer's output 3.0 and its gate 0.5. The write is read as
    0.5·3.0 = 1.5 and the stream after it is 2.5. An edit that sets the write to 0.4 does not touch output or gate: it
    adds 0.4 - 1.5 = -1.1 to the stream, which becomes 1.4. Setting it to 1.5 adds exactly 0.

    Args:
        sites: the sites that `read` needs, in forward order.
        after: the site of the stream after the addition.
        stream: the part of the value there that is the stream.
    """

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        after_write = stream.get(values[-1])
        return stream.put((upcast(after_write) + (new - old)).type_as(after_write), values[-1])

    return HookPoint(name, axes, (*sites, after), lambda *values: read(*values[:-1]), write)


@dataclass(frozen=True)
class Attention:
    """The names and the module of one attention of a block.

    Attributes:
        name: the prefix of its hook point names, such as "blocks.3.attn".
        path: module path.
        module: the attention module, for the weights of its output projection.
        heads: the number of heads.
        queries, keys: letters of their axes, "n" (video) or "m" (text), or "n+m" in joint attention.
        inside: wraps a part for the layout of the attention function's tensors (identity for b n k e).
    """

    name: str
    path: str
    module: nn.Module
    heads: int
    queries: str = "n"
    keys: str = "n"
    inside: Callable[[Part], Part] = lambda part: part

    @property
    def processor(self) -> Site:
        """The site of the attention processor."""
        return Site(self.path, "processor")

    @property
    def call(self) -> Site:
        """The site of the inputs of the attention function."""
        return Site(self.path, "attention_inputs")

    @property
    def mixed(self) -> Site:
        """The site of the output of the attention function."""
        return Site(self.path, "attention_output")

    def operand(self, name: str, position: int) -> Part:
        """Query, key or value of the attention function, as (b, n, k, e)."""
        return self.inside(argument(name, position))


def rotated(attention: Attention) -> list[HookPoint]:
    """`hook_rot_q` and `hook_rot_k`: queries and keys as the attention function takes them, after rotary."""
    home, call, before = f"{attention.name}.hook", attention.call, (attention.processor,)
    q, k = attention.operand("query", 0), attention.operand("key", 1)
    return [
        point(f"{home}_rot_q", f"b {attention.queries} k e", call, q, before),
        point(f"{home}_rot_k", f"b {attention.keys} k e", call, k, before),
    ]


def pattern(attention: Attention) -> HookPoint:
    """`hook_pattern`: softmax(rot_q rot_k^T / sqrt(e) + mask), b k queries keys; an edit changes z."""
    axes = f"b k {attention.queries} {attention.keys + '2' * (attention.keys == attention.queries)}"
    sites = (attention.processor, attention.call, attention.mixed)
    return mixing(f"{attention.name}.hook_pattern", axes, sites, _operands(attention), attention.inside(WHOLE))


def pattern_law(attention: Attention) -> HookPoint:
    """The law that softmax(rot_q rot_k^T / sqrt(e) + mask) v equals the output of the attention function."""
    return mixing_law(pattern(attention), _operands(attention), attention.inside(WHOLE))


def _operands(attention: Attention) -> Operands:
    """Queries, keys, values and mask from the inputs of the attention function."""
    q, k, v = (attention.operand(name, position) for position, name in enumerate(("query", "key", "value")))
    return lambda inside, call: (q.get(call), k.get(call), v.get(call), call[1].get("attn_mask"))


def mixing(name: str, axes: str, sites: Sequence[Site], operands: Operands, z: Part = WHOLE) -> HookPoint:
    """The hook point of a pattern softmax(q k^T / sqrt(e) + mask); an edit is written as a change of z.

    Example: one query with pattern (0.75, 0.25) over values 4 and 8 has z = 5. An edit to the pattern (0, 1) adds
    (0 - 0.75)·4 + (1 - 0.25)·8 = 3 to the model's own z, which becomes 8.

    Args:
        sites: the sites that `operands` needs, in forward order, and last that of z.
        operands: values at all sites but the last -> q (b n k e), k and v (b m k e), mask or None.
        z: the part of the value at the last site that is z, as (b, n, k, e).
    """

    def read(*values: Any) -> Tensor:
        q, k, _, mask = operands(*values[:-1])
        logits = einsum(upcast(q), upcast(k), "b n k e, b m k e -> b k n m") / q.shape[-1] ** 0.5
        return attended(masked(logits, mask))

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        mixed, v = z.get(values[-1]), upcast(operands(*values[:-1])[2])
        change = einsum(new - old, v, "b k n m, b m k e -> b n k e")
        return z.put((upcast(mixed) + change).type_as(mixed), values[-1])

    def qkv(*values: Any) -> QKV:
        q, k, v, mask = operands(*values[:-1])
        return QKV(q, k, v, of_four_axes(mask), z.get(values[-1]))

    return HookPoint(name, axes, tuple(sites), read, write, on_demand=True, qkv=qkv)


def mixing_law(spelled: HookPoint, operands: Operands, z: Part = WHOLE) -> HookPoint:
    """The law that the pattern times v equals z, for a hook point from `mixing`."""

    def both(*values: Any) -> Tensor:
        v = upcast(operands(*values[:-1])[2])
        expected = einsum(spelled.read(*values), v, "b k n m, b m k e -> b n k e")
        return torch.stack([expected, upcast(z.get(values[-1]))])

    name = spelled.name.removesuffix(".hook_pattern")
    return read_only(f"{name}: softmax(q k) v = z", "", spelled.sites, both)


def result_law(name: str, z: Site, out: Site, projection: nn.Linear, heads: int) -> HookPoint:
    """The law that the sum of the heads' results plus the bias equals the projection's output."""
    result, _ = results(name, z, out, projection, heads)

    def both(z: Tensor, raw: Tensor) -> Tensor:
        total = upcast(result.read(z, raw)).sum(2)
        return torch.stack([total if projection.bias is None else total + upcast(projection.bias), upcast(raw)])

    return read_only(f"{name}: sum of results + bias = output", "", (z, out), both)


def masked(logits: Float[Tensor, "b k n m"], mask: Tensor | None) -> Float[Tensor, "b k n m"]:
    """Logits under a boolean or additive attention mask, broadcast as in `scaled_dot_product_attention`."""
    mask = of_four_axes(mask)
    if mask is None:
        return logits
    return logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + upcast(mask)


def of_four_axes(mask: Tensor | None) -> Tensor | None:
    """A mask with axes for clips, heads, queries and keys; of two axes, they are those of clips and keys."""
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask[:, None, None, :]
    return mask[(None,) * (4 - mask.ndim)]


def attended(logits: Float[Tensor, "b k n m"]) -> Float[Tensor, "b k n m"]:
    """Softmax over keys; a fully masked row is 0, as in `scaled_dot_product_attention`."""
    fully_masked = logits.isneginf().all(-1, keepdim=True)
    return logits.masked_fill(fully_masked, 0).softmax(-1).masked_fill(fully_masked, 0)


def by_head(z: Float[Tensor, "b n ke"], weight: Float[Tensor, "d ke"], heads: int) -> Float[Tensor, "b n k d"]:
    """What each head writes: its slice of the output projection applied to its z."""
    slices = rearrange(weight, "d (k e) -> k e d", k=heads)
    return einsum(rearrange(z, "b n (k e) -> b n k e", k=heads), slices.to(z), "b n k e, k e d -> b n k d")


def results(name: str, z: Site, out: Site, projection: nn.Linear, heads: int, token: str = "n") -> list[HookPoint]:
    """`hook_result`, what each head writes before the gate (b n k d), and `hook_raw_out`, the projection's output.

    The sum of the results over heads plus the projection's bias is the raw output.
    """
    result = HookPoint(
        f"{name}.hook_result",
        f"b {token} k d",
        (z, out),
        lambda z, raw: by_head(z, projection.weight, heads),
        lambda new, old, z, raw: (upcast(raw) + (upcast(new) - upcast(old)).sum(2)).type_as(raw),
        on_demand=True,
    )
    return [result, point(f"{name}.hook_raw_out", f"b {token} d", out)]
