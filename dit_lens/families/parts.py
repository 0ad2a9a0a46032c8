"""What hook points are made of, the same in every family: values as they are, heads, gated writes, attention.

Derived points (what an edit cannot be put in place of, such as a pattern) are written as differences: the model's own
value plus f(edited) - f(read), so that an identity edit changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.hook_points import HookPoint, Site

Operands = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]


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


def section(first: int, behind: int, inside: Part = WHOLE, axis: int = -1) -> Part:
    """A stretch of one axis, from `first` up to `behind`."""

    def put(new: Tensor, raw: Any) -> Any:
        whole = inside.get(raw).clone()
        whole.narrow(axis, first, behind - first).copy_(new)
        return inside.put(whole, raw)

    return Part(lambda raw: inside.get(raw).narrow(axis, first, behind - first), put)


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


def upcast(x: Tensor) -> Tensor:
    """The same in float32, or as it is where it is wider: what sums are worked out in."""
    return x if x.dtype == torch.float64 else x.float()


def point(name: str, axes: str, site: Site, part: Part = WHOLE, before: Sequence[Site] = ()) -> HookPoint:
    """A value at one site; `before` are sites that have to be asked for first, such as an attention's processor."""

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        return part.put(new, values[-1])

    return HookPoint(name, axes, (*before, site), lambda *values: part.get(values[-1]), write)


def read_only(name: str, axes: str, sites: Sequence[Site], read: Callable[..., Tensor]) -> HookPoint:
    """A value that can be looked at but not replaced."""
    return HookPoint(name, axes, tuple(sites), read, None)


def among(whole: HookPoint, told: Site, of: Callable[[Any], slice], letter: str, axis: int = 1) -> HookPoint:
    """A point at some of its tokens only, where text and video share a sequence.

    Args:
        whole: the point over the whole sequence.
        told: a site before it, whose value tells where they lie.
        of: that value -> which tokens.
        letter: theirs, "n" (video) or "m" (text).
        axis: of the tokens.
    """

    def chosen(known: Any) -> tuple[slice, ...]:
        return (*(slice(None),) * axis, of(known))

    def write(new: Tensor, old: Tensor, known: Any, *values: Any) -> Any:
        before = whole.read(*values)
        after = before.clone()
        after[chosen(known)] = new
        assert whole.write is not None
        return whole.write(after, before, *values)

    axes = whole.axes.split()
    axes[axis] = letter
    return replace(
        whole,
        axes=" ".join(axes),
        sites=(told, *whole.sites),
        read=lambda known, *values: whole.read(*values)[chosen(known)],
        write=write if whole.write else None,
    )


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
        return stream.put((upcast(behind) + (new - old)).type_as(behind), values[-1])

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
    home, call, before = f"{attention.name}.hook", attention.call, (attention.processor,)
    q, k = attention.operand("query", 0), attention.operand("key", 1)
    return [
        point(f"{home}_rot_q", f"b {attention.queries} k e", call, q, before),
        point(f"{home}_rot_k", f"b {attention.keys} k e", call, k, before),
    ]


def pattern(attention: Attention) -> HookPoint:
    """`hook_pattern`: softmax(rot_q rot_k^T / sqrt(e) + mask), b k queries keys; written as a difference of z."""
    axes = f"b k {attention.queries} {attention.keys + '2' * (attention.keys == attention.queries)}"
    sites = (attention.processor, attention.call, attention.mixed)
    return mixing(f"{attention.name}.hook_pattern", axes, sites, _operands(attention), attention.inside(WHOLE))


def pattern_law(attention: Attention) -> HookPoint:
    """softmax(rot_q rot_k^T / sqrt(e) + mask) v against the mixing call's own output."""
    return mixing_law(pattern(attention), _operands(attention), attention.inside(WHOLE))


def _operands(attention: Attention) -> Operands:
    """Queries, keys, values and mask as the mixing call is given them."""
    q, k, v = (attention.operand(name, position) for position, name in enumerate(("query", "key", "value")))
    return lambda inside, call: (q.get(call), k.get(call), v.get(call), call[1].get("attn_mask"))


def mixing(name: str, axes: str, sites: Sequence[Site], operands: Operands, z: Part = WHOLE) -> HookPoint:
    """A pattern softmax(q k^T / sqrt(e) + mask), wherever its operands are found; written as a difference of z.

    Args:
        sites: what `operands` needs, in forward order, and last where z is.
        operands: values at the sites but the last -> q (b n k e), k and v (b m k e), mask or None.
        z: which part of the value at the last site is z, as (b, n, k, e).
    """

    def read(*values: Any) -> Tensor:
        q, k, _, mask = operands(*values[:-1])
        logits = einsum(upcast(q), upcast(k), "b n k e, b m k e -> b k n m") / q.shape[-1] ** 0.5
        return attended(masked(logits, mask))

    def write(new: Tensor, old: Tensor, *values: Any) -> Any:
        mixed, v = z.get(values[-1]), upcast(operands(*values[:-1])[2])
        change = einsum(new - old, v, "b k n m, b m k e -> b n k e")
        return z.put((upcast(mixed) + change).type_as(mixed), values[-1])

    return HookPoint(name, axes, tuple(sites), read, write, on_demand=True)


def mixing_law(spelled: HookPoint, operands: Operands, z: Part = WHOLE) -> HookPoint:
    """The pattern times v against z, for a point that `mixing` made."""

    def both(*values: Any) -> Tensor:
        v = upcast(operands(*values[:-1])[2])
        own = einsum(spelled.read(*values), v, "b k n m, b m k e -> b n k e")
        return torch.stack([own, upcast(z.get(values[-1]))])

    name = spelled.name.removesuffix(".hook_pattern")
    return read_only(f"{name}: softmax(q k) v = z", "", spelled.sites, both)


def result_law(name: str, z: Site, out: Site, projection: nn.Linear, heads: int) -> HookPoint:
    """The sum of the heads' results and the bias against the projection's own output."""
    result, _ = results(name, z, out, projection, heads)

    def both(z: Tensor, raw: Tensor) -> Tensor:
        total = upcast(result.read(z, raw)).sum(2)
        return torch.stack([total if projection.bias is None else total + upcast(projection.bias), upcast(raw)])

    return read_only(f"{name}: sum of results + bias = output", "", (z, out), both)


def masked(logits: Float[Tensor, "b k n m"], mask: Tensor | None) -> Float[Tensor, "b k n m"]:
    """Logits under a boolean or additive attention mask, broadcast as in `scaled_dot_product_attention`."""
    if mask is None:
        return logits
    if mask.ndim == 2:
        mask = mask[:, None, None, :]
    return logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + upcast(mask)


def attended(logits: Float[Tensor, "b k n m"]) -> Float[Tensor, "b k n m"]:
    """Softmax over keys; a row that may attend to nothing is 0, as `scaled_dot_product_attention` has it."""
    idle = logits.isneginf().all(-1, keepdim=True)
    return logits.masked_fill(idle, 0).softmax(-1).masked_fill(idle, 0)


def by_head(z: Float[Tensor, "b n ke"], weight: Float[Tensor, "d ke"], heads: int) -> Float[Tensor, "b n k d"]:
    """What each head writes: its slice of the output projection, applied to its mix."""
    slices = rearrange(weight, "d (k e) -> k e d", k=heads)
    return einsum(rearrange(z, "b n (k e) -> b n k e", k=heads), slices.to(z), "b n k e, k e d -> b n k d")


def results(name: str, z: Site, out: Site, projection: nn.Linear, heads: int, token: str = "n") -> list[HookPoint]:
    """`hook_result`, what each head writes before the gate (b n k d), and `hook_raw_out`, the projection's output.

    The sum of the results over heads and the projection's bias make the raw output.
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
