"""Edits of attention that need no pattern: temperature, even attention, cuts between regions.

Each gives a list of (hook point, function) for `lens.hooks` or an `Intervention`, in memory O(n · width):

- `temperature`: q divided by T is softmax(s / T), exactly (an additive mask is not divided);
- `even`: q = 0 is equal attention to all keys that the mask allows;
- `cut`: softmax over the remaining keys is attention without the others, so z of the cut queries is computed again from
  q, k and v by the fused kernel.

    lens.run_with_hooks(traj, step=20, fwd_hooks=dl.attention.temperature(lens, 3, 0.5, heads=[2]))
    after, before = (slice(3, None), slice(None), slice(None)), (slice(0, 3), slice(None), slice(None))
    dl.Intervention(dl.attention.cut(lens, 3, after, before), at={"block": 3})

`edits.cut` and `ablation.between` do the same cut on the whole pattern, whatever mask or gate there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dit_lens import edits
from dit_lens.arguments import integer, integers, number
from dit_lens.attention.heads import Heads
from dit_lens.attention.looking import PATTERN, check_rows, heads_of
from dit_lens.attention.map_kinds import Tokens, keys_of, queries_of
from dit_lens.axes import Region
from dit_lens.hook_points import QKV, Hook, HookFunction
from dit_lens.lens import DiTLens

PointEdits = list[tuple[str, HookFunction]]
LEAST = 1e-3  # temperature


def temperature(
    lens: DiTLens, block: int, value: float, *, heads: Sequence[int] | None = None, layer: str = "attn"
) -> PointEdits:
    """Attention at another temperature: below 1 it is sharper, above 1 more even.

    Raises:
        KeyError: no such attention. ValueError: a temperature below a thousandth.
    """
    return [(query_point(lens, block, layer), edits.scale(1 / number(value, "temperature", LEAST), heads))]


def even(
    lens: DiTLens,
    block: int,
    *,
    heads: Sequence[int] | None = None,
    tokens: Region | None = None,
    layer: str = "attn",
) -> PointEdits:
    """Equal attention of the chosen queries to all keys that the mask allows.

    Raises:
        KeyError: no such attention.
    """
    return [(query_point(lens, block, layer), edits.zero(heads, tokens))]


def cut(
    lens: DiTLens,
    block: int,
    queries: Tokens,
    keys: Tokens,
    *,
    heads: Sequence[int] | None = None,
    layer: str = "attn",
) -> PointEdits:
    """No attention from some queries to some keys; the rest of each row is scaled to 1 (no key left: z is 0).

    The functions remember q, k and v of one evaluation until z is reached: make new ones for each intervention.

    Args:
        queries, keys: as for `attention.regions`: (frame, row, column), truth values, or "text" as keys.

    Raises:
        KeyError: no such attention. ValueError: (when run) z is not softmax(q k) v, because of a mask or a gate.
    """
    points = operands(lens, block, layer)
    axes = lens.table.points[f"blocks.{block}.{layer}{PATTERN}"].axes
    chosen = None if heads is None else integers(heads, "heads")
    recut = Recut(axes, queries, keys, chosen, points)
    return [*((name, recut.remember) for name in points), (f"blocks.{block}.{layer}.hook_z", recut)]


def query_point(lens: DiTLens, block: int, layer: str) -> str:
    """Where the queries of an attention are read last before the kernel: after rotary, where there is any.

    Raises:
        KeyError: no such attention; says why.
    """
    home = f"blocks.{integer(block, 'block', 0)}.{layer.removesuffix('.img')}"
    lens.table.select([f"blocks.{block}.{layer}{PATTERN}"], lens.name)
    rotated = f"{home}.hook_rot_q"
    return rotated if rotated in lens.table.points else lens.table.select(f"{home}.hook_q", lens.name)[0].name


def operands(lens: DiTLens, block: int, layer: str) -> dict[str, str]:
    """Points of q, k and v -> "q", "k" or "v"; of joint attention video before text.

    Raises:
        KeyError: the model has no such point; says why.
    """
    queries = query_point(lens, block, layer)
    keys = lens.table.points[f"blocks.{block}.{layer}{PATTERN}"].axes.split()[3]
    home = f"blocks.{block}.{layer}"
    streams = [f"blocks.{block}.attn", f"blocks.{block}.text.attn"] if keys.startswith("n+m") else [home]
    kinds = {queries: "q"}
    for stream in streams:
        rotated = f"{stream}.hook_rot_k"
        kinds[rotated if rotated in lens.table.points else f"{stream}.hook_k"] = "k"
        kinds[f"{stream}.hook_v"] = "v"
    lens.table.select(list(kinds), lens.name)
    return kinds


@dataclass(eq=False)
class Recut:
    """A hook function at z that computes it again without some keys, from what `remember` was called with."""

    axes: str
    queries: Tokens
    keys: Tokens
    heads: Sequence[int] | None
    points: Mapping[str, str]
    remembered: dict[tuple[str | None, str], Tensor] = field(default_factory=dict)

    def remember(self, x: Tensor, hook: Hook) -> None:
        """Keeps a query, key or value until z."""
        self.remembered[hook.branch, hook.name] = x

    def __call__(self, x: Tensor, hook: Hook) -> Tensor:
        """Z without the cut keys."""
        parts = {name: self.remembered.pop((hook.branch, name)) for name in self.points}
        q, k, v = (torch.cat([y for name, y in parts.items() if self.points[name] == which], 1) for which in "qkv")
        whole = QKV(q, k, v, None, x)
        check_rows(whole, hook.name)
        heads, new = list(range(q.shape[2])) if self.heads is None else list(self.heads), x.clone()
        for clip in range(len(x)):
            start = 0
            for some in heads_of(whole, replace(hook, axes=self.axes), clip, heads):
                stop = start + len(some.q)
                rows, mixed = self._mixed(some)
                new[clip, rows.nonzero(), torch.tensor(heads[start:stop])] = mixed.movedim(0, 1).to(new)
                start = stop
        return new

    def _mixed(self, heads: Heads) -> tuple[Tensor, Tensor]:
        """Which queries are cut (n,), and their z (h, cut, e)."""
        rows, lost = queries_of(heads, self.queries), keys_of(heads, self.keys)
        if lost.all():
            return rows, torch.zeros_like(heads.q[:, rows])
        left = heads.v[:, ~lost]
        return rows, replace(heads, q=heads.q[:, rows], k=heads.k[:, ~lost], v=left).mixed(left)[0]
