"""What hook points are made of, the same in every family: values as they are, heads, gated writes, attention.

Derived points (what an edit cannot be put in place of, such as a pattern) are written as differences: the model's own
value plus f(edited) - f(read), so that an identity edit changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.hook_points import HookPoint, Site

Gate = Callable[..., Tensor]


@dataclass(frozen=True)
class Part:
    """Which part of a raw value an activation is: `get` takes it out, `put` (new, raw) puts another in its place."""

    get: Callable[[Any], Tensor]
    put: Callable[[Tensor, Any], Any]


WHOLE = Part(lambda raw: raw, lambda new, raw: new)


def item(index: int) -> Part:
    """One value of a tuple."""

    def put(new: Tensor, raw: Sequence[Any]) -> tuple:
        return tuple(new if i == index % len(raw) else value for i, value in enumerate(raw))

    return Part(lambda raw: raw[index], put)


def argument(name: str, position: int | None = None) -> Part:
    """An argument of a call, given by name or by position."""

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
    """Some of the tokens of a sequence that holds text and video."""

    def get(raw: Any) -> Tensor:
        whole = inside.get(raw)
        return whole[(slice(None),) * axis + (of(whole),)]

    def put(new: Tensor, raw: Any) -> Any:
        whole = inside.get(raw).clone()
        whole[(slice(None),) * axis + (of(whole),)] = new
        return inside.put(whole, raw)

    return Part(get, put)


def split_heads(heads: int, inside: Part = WHOLE) -> Part:
    """A width of heads x e as two axes."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b n (k e) -> b n k e", k=heads),
        lambda new, raw: inside.put(rearrange(new, "b n k e -> b n (k e)"), raw),
    )


def heads_first(inside: Part = WHOLE) -> Part:
    """Heads before tokens, as `scaled_dot_product_attention` takes them."""
    return Part(
        lambda raw: rearrange(inside.get(raw), "b k n e -> b n k e"),
        lambda new, raw: inside.put(rearrange(new, "b n k e -> b k n e"), raw),
    )


def point(name: str, axes: str, site: Site, part: Part = WHOLE) -> HookPoint:
    """A value at one site."""
    return HookPoint(name, axes, (site,), part.get, lambda new, old, raw: part.put(new, raw))


def read_only(name: str, axes: str, sites: Sequence[Site], read: Callable[..., Tensor]) -> HookPoint:
    """A value that can be looked at but not replaced."""
    return HookPoint(name, axes, tuple(sites), read, None)


def added(
    name: str,
    sites: Sequence[Site],
    read: Callable[..., Tensor],
    after: Site,
    stream: Part = WHOLE,
    axes: str = "b n d",
) -> HookPoint:
    """What a sub-layer adds to the stream, its gate included; an edit is added to the stream behind it.

    Args:
        sites: what `read` needs, in forward order.
        after: where the stream comes out of the addition.
        stream: which part of the value there is the stream.
    """

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        behind = stream.get(values[-1])
        return stream.put((behind.float() + (new - old)).type_as(behind), values[-1])

    return HookPoint(name, axes, (*sites, after), lambda *values: read(*values[:-1]), write)


@dataclass(frozen=True)
class Attention:
    """How one attention of a block is spelled.

    Attributes:
        name: "blocks.3.attn".
        path: module path.
        module: the attention module, for the weights of its output projection.
        heads: how many.
        queries, keys: their axis, "n" (video) or "m" (text), or "n+m" where attention is joint.
        inside: layout of the mixing call's tensors (identity where they are b n k e).
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
        """Inside the attention processor."""
        return Site(self.path, "processor")

    @property
    def call(self) -> Site:
        """Inputs of the mixing call."""
        return Site(self.path, "attention_inputs")

    @property
    def mixed(self) -> Site:
        """Output of the mixing call."""
        return Site(self.path, "attention_output")

    def operand(self, name: str, position: int) -> Part:
        """Query, key, value or mask of the mixing call, as (b, n, k, e)."""
        return self.inside(argument(name, position))


def rotated(attention: Attention) -> list[HookPoint]:
    """`hook_rot_q` and `hook_rot_k`: queries and keys as they meet in the mixing call, rotary included."""
    spelled = (("rot_q", "query", 0, attention.queries), ("rot_k", "key", 1, attention.keys))
    points = []
    for name, operand, position, token in spelled:
        part = attention.operand(operand, position)
        points.append(
            HookPoint(
                f"{attention.name}.hook_{name}",
                f"b {token} k e",
                (attention.processor, attention.call),
                lambda inside, call, part=part: part.get(call),
                lambda new, old, inside, call, part=part: part.put(new, call),
            )
        )
    return points


def pattern(attention: Attention) -> HookPoint:
    """`hook_pattern`: softmax(rot_q rot_k^T / sqrt(e) + mask), b k queries keys; written as a difference of z."""
    query, key, value = (attention.operand(n, i) for i, n in enumerate(("query", "key", "value")))
    out = attention.inside(WHOLE)

    def read(inside: Any, call: tuple, mixed: Any) -> Tensor:
        q, k = query.get(call).float(), key.get(call).float()
        logits = einsum(q, k, "b n k e, b m k e -> b k n m") / q.shape[-1] ** 0.5
        return masked(logits, call[1].get("attn_mask")).softmax(-1)

    def write(new: Tensor, old: Tensor, inside: Any, call: tuple, mixed: Any) -> Any:
        z, v = out.get(mixed), value.get(call).float()
        change = einsum(new - old, v, "b k n m, b m k e -> b n k e")
        return out.put((z.float() + change).type_as(z), mixed)

    axes = f"b k {attention.queries} {attention.keys if attention.keys != attention.queries else attention.keys + '2'}"
    sites = (attention.processor, attention.call, attention.mixed)
    return HookPoint(f"{attention.name}.hook_pattern", axes, sites, read, write, on_demand=True)


def pattern_law(attention: Attention) -> HookPoint:
    """softmax(rot_q rot_k^T / sqrt(e) + mask) v against the mixing call's own output."""
    spelled, value = pattern(attention), attention.operand("value", 2)

    def both(inside: Any, call: tuple, mixed: Any) -> Tensor:
        z = einsum(spelled.read(inside, call, mixed), value.get(call).float(), "b k n m, b m k e -> b n k e")
        return torch.stack([z, attention.inside(WHOLE).get(mixed).float()])

    return read_only(f"{attention.name}: softmax(q k) v = z", "", spelled.sites, both)


def result_law(name: str, z: Site, out: Site, projection: nn.Linear, heads: int) -> HookPoint:
    """The sum of the heads' results and the bias against the projection's own output."""
    result, _ = results(name, z, out, projection, heads)

    def both(z: Tensor, raw: Tensor) -> Tensor:
        total = result.read(z, raw).float().sum(2)
        return torch.stack([total if projection.bias is None else total + projection.bias.float(), raw.float()])

    return read_only(f"{name}: sum of results + bias = output", "", (z, out), both)


def masked(logits: Float[Tensor, "b k n m"], mask: Tensor | None) -> Float[Tensor, "b k n m"]:
    """Logits under a boolean or additive attention mask, broadcast as in `scaled_dot_product_attention`."""
    if mask is None:
        return logits
    if mask.ndim == 2:
        mask = mask[:, None, None, :]
    return logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.float()


def results(name: str, z: Site, out: Site, projection: nn.Linear, heads: int, token: str = "n") -> list[HookPoint]:
    """`hook_result`, what each head writes before the gate (b n k d), and `hook_raw_out`, the projection's output.

    The sum of the results over heads and the projection's bias make the raw output.
    """

    def by_head(z: Tensor) -> Tensor:
        weight = rearrange(projection.weight, "d (k e) -> k e d", k=heads)
        return einsum(rearrange(z, "b n (k e) -> b n k e", k=heads), weight.to(z), "b n k e, k e d -> b n k d")

    result = HookPoint(
        f"{name}.hook_result",
        f"b {token} k d",
        (z, out),
        lambda z, raw: by_head(z),
        lambda new, old, z, raw: (raw.float() + (new.float() - old.float()).sum(2)).type_as(raw),
        on_demand=True,
    )
    return [result, point(f"{name}.hook_raw_out", f"b {token} d", out)]
