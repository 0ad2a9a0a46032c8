"""Runs a model and looks at its attention on the way: a block's queries, keys and values are gone before the next's.

The function that looks gets some heads of one clip at a time. On a few rows it is checked that softmax(q k) v is what
the model's attention puts out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from einops import rearrange
from torch import Tensor

from dit_lens.arguments import places
from dit_lens.attention.heads import WIDEST, Heads
from dit_lens.axes import TokenGrid
from dit_lens.cache import Anatomy
from dit_lens.hook_points import QKV, Hook
from dit_lens.lens import At, DiTLens
from dit_lens.lens.requests import evaluations_of
from dit_lens.reductions import Named
from dit_lens.running import Evaluation, Request
from dit_lens.trajectory import Trajectory

Look = Callable[[Heads], Mapping[str, Named]]
PATTERN = ".hook_pattern"
NUMBERS = 2**23  # in one tensor of a call of the kernel: 32 MiB in float32
ROWS = 8  # rows that are checked


@dataclass(frozen=True)
class Where:
    """Which attention is looked at.

    Attributes:
        layer: what stands before `hook_pattern` in a block: "attn", "cross_attn", "cross_attn.img" (image keys with
            their own softmax), "text.attn" (queries of text in joint attention), "a2v", "audio.attn", ...
        blocks, heads: all unless given.
    """

    layer: str = "attn"
    blocks: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def points(self, lens: DiTLens) -> dict[int, str]:
        """Names of the patterns by block.

        Raises:
            KeyError: the model has no such attention in a block that is asked for, or in any; says why.
            ValueError: it has no such block.
        """
        asked = places(slice(None) if self.blocks is None else self.blocks, lens.blocks, "block")
        names = {block: f"blocks.{block}.{self.layer}{PATTERN}" for block in asked}
        present = {block: name for block, name in names.items() if name in lens.table.points}
        if self.blocks is not None or not present:  # text of Mochi's last block is not mixed: the others are
            lens.table.select(list(names.values()), lens.name)
        return present


def dataset(lens: DiTLens, path: Any, at: At, inputs: Mapping[str, Any], where: Where, look: Look) -> xr.Dataset:
    """What `look` finds, by (step, clip, block, head, ...); no step axis where an evaluation is on no trajectory.

    Raises:
        KeyError: no such attention. TypeError, ValueError, IndexError: see `run_with_cache`, and `look`.
    """
    evaluations = evaluations_of(lens, path, at, inputs)
    by_step = [_of_step(lens, evaluation, where, look) for evaluation in evaluations]
    steps = [evaluation.step for evaluation in evaluations]
    sigmas = [evaluation.sigma for evaluation in evaluations]
    if None in steps:
        table = by_step[0].assign_coords(sigma=sigmas[0])
    else:
        table = xr.concat(by_step, "step").assign_coords(step=steps, sigma=("step", sigmas))
    ids = list(path.clip_ids) if isinstance(path, Trajectory) else [str(i) for i in range(table.sizes["clip"])]
    return table.assign_coords(clip=ids).assign_attrs(layer=where.layer, model=lens.name)


@torch.no_grad()
def _of_step(lens: DiTLens, evaluation: Evaluation, where: Where, look: Look) -> xr.Dataset:
    """What is seen in one evaluation, by (clip, block, head, ...)."""
    points = where.points(lens)
    anatomy = lens.model.anatomy(evaluation.expert)
    blocks: dict[str, xr.Dataset] = {}

    def visit(qkv: QKV, hook: Hook) -> None:
        check_rows(qkv, hook.name)
        blocks[hook.name] = _of_block(qkv, hook, anatomy, where.heads, look)

    last = f"blocks.{max(points)}.hook_resid_post"
    stop = None if lens.model.hooked else last  # hooks may lie behind
    lens.model.run(evaluation, Request(stop_at=stop, attention=dict.fromkeys(points.values(), visit)))
    if missing := [name for name in points.values() if name not in blocks]:
        raise ValueError(f"got an evaluation that skips {missing[0]} · expected one that runs it")
    return (
        xr.concat([blocks[name] for name in points.values()], "block")
        .assign_coords(block=list(points))
        .transpose("clip", "block", ...)
    )


def _of_block(qkv: QKV, hook: Hook, anatomy: Anatomy | None, heads: Sequence[int] | None, look: Look) -> xr.Dataset:
    """What is seen in one block, by (clip, head, ...)."""
    chosen = places(slice(None) if heads is None else heads, qkv.q.shape[2], "head")
    projection = projections(anatomy, hook.name, qkv)
    by_clip = []
    for clip in range(len(qkv.q)):
        parts = [look(part) for part in heads_of(qkv, hook, clip, chosen, projection)]
        by_clip.append(xr.Dataset({name: _joined([part[name] for part in parts]) for name in parts[0]}))
    return xr.concat(by_clip, "clip").assign_coords(head=chosen)


def _joined(parts: Sequence[Named]) -> xr.DataArray:
    """Arrays of some heads each, as one of all."""
    first = parts[0]
    values = torch.cat([part.values for part in parts], first.dim("head"))
    coords = {axis: list(labels) for axis, labels in first.labels.items()}
    return xr.DataArray(values.cpu().numpy(), dims=first.axes, coords=coords)


def heads_of(
    qkv: QKV, hook: Hook, clip: int, chosen: Sequence[int], projection: Tensor | None = None
) -> Iterator[Heads]:
    """Some heads of one clip at a time, as many as keep the kernel's tensors small."""
    wide = torch.promote_types(qkv.q.dtype, torch.float32)
    tokens = max(qkv.q.shape[1], qkv.k.shape[1])
    step = max(1, NUMBERS // (tokens * max(WIDEST, qkv.q.shape[-1])))
    _, _, queries, keys = hook.axes.split()
    for start in range(0, len(chosen), step):
        some = list(chosen[start : start + step])
        q, k, v = (x[clip, :, some].to(wide).movedim(1, 0).contiguous() for x in (qkv.q, qkv.k, qkv.v))
        slices = None if projection is None else projection[some].to(wide)
        bias = _bias(qkv.mask, clip, some, wide)
        yield Heads(q, k, v, bias, hook.grid, queries.rstrip("2"), keys.rstrip("2"), slices, clip)


def _bias(mask: Tensor | None, clip: int, heads: Sequence[int], dtype: torch.dtype) -> Tensor | None:
    """The additive mask of some heads of a clip, with axes that broadcast to (heads, queries, keys)."""
    if mask is None:
        return None
    part = mask[clip if len(mask) > 1 else 0]
    part = part[list(heads)] if len(part) > 1 else part
    if part.dtype != torch.bool:
        return part.to(dtype)
    return torch.zeros(part.shape, dtype=dtype, device=part.device).masked_fill(~part, -torch.inf)


def projections(anatomy: Anatomy | None, name: str, qkv: QKV) -> Tensor | None:
    """Slices (k, e, d) of the output projection by head; None where there is none to read."""
    home, _, layer = name.removesuffix(PATTERN).removesuffix(".img").rpartition(".")
    write = None if anatomy is None else anatomy.heads.get(f"{home}.hook_{layer}_out")
    if write is None or write.weight.is_meta:
        return None
    heads, width = qkv.q.shape[2:]
    return rearrange(write.weight[:, : heads * width], "d (k e) -> k e d", k=heads).to(qkv.q.device)


def check_rows(qkv: QKV, name: str) -> None:
    """Checks that z is softmax(q k) v under the mask, on ROWS of the rows of one clip.

    Raises:
        ValueError: it is not; the message names the point.
    """
    queries = qkv.q.shape[1]
    rows = torch.linspace(0, queries - 1, min(ROWS, queries)).round().long().to(qkv.q.device)
    wide = torch.promote_types(qkv.q.dtype, torch.float32)
    q, k, v = (x[0].to(wide).movedim(1, 0) for x in (qkv.q[:, rows], qkv.k, qkv.v))
    bias = _bias(qkv.mask, 0, range(qkv.q.shape[2]), wide)
    few = None if bias is None else bias[:, rows] if bias.shape[1] > 1 else bias
    whole = torch.arange(len(rows), device=q.device)
    heads = Heads(q, k, v, few, TokenGrid(1, 1, 1))
    mixed = torch.cat([pattern @ v for _, pattern in heads.rows(whole)], 1)
    z = qkv.z[0, rows].to(wide).movedim(1, 0)
    share = float((mixed - z).abs().max() / z.abs().max().clamp_min(torch.finfo(wide).tiny))
    if not share <= torch.finfo(qkv.q.dtype).eps ** 0.5:
        raise ValueError(
            f"got {name} off by {share:.1e} of what the attention puts out · expected softmax(q k) v under its mask"
            " · take hook_pattern, whose laws lens.verify() checks"
        )
