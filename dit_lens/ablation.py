"""Ablation: the effect of replacing activations of heads, layers or attention by ones without information.

A replacement is what an ablated activation is replaced by:

- `zero`: zeros;
- `mean_of`: the mean over other clips, at each token (Wang et al. 2022);
- `resampled`: another clip's activation, in the same run (causal scrubbing's resample ablation, Chan et al. 2022);
- `random_write`: a random vector, as long at each token as the head's write, is added to the stream: the effect of any
  change of that size, a control for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from dit_lens import edits
from dit_lens.arguments import integers, strings, triple
from dit_lens.axes import Region
from dit_lens.cache.decomposition import head_writes
from dit_lens.hook_points import Hook
from dit_lens.interventions import Intervention, Path, over
from dit_lens.interventions.intervention import PointEdit
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation, Request, count

Replacement = Callable[[DiTLens, Evaluation, str, int | None], PointEdit]
Heads = Sequence[int] | None  # None: all heads
Knockout = Callable[[int, Heads], PointEdit]  # of a block's heads


def zero(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> PointEdit:
    """A replacement that sets a head, or a whole activation, to zero."""
    return point, edits.zero(None if head is None else [head])


def mean_of(means: Mapping[str, Mapping[int, Tensor]]) -> Replacement:
    """A replacement by the mean over clips; take clips that no effect is measured on.

    Args:
        means: by hook point and step, of the activation's shape without its clip axis (see `means_over`).
    """

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> PointEdit:
        if point not in means:
            raise KeyError(f"got means of {', '.join(means)} · expected those of {point} too · see means_over")
        return point, edits.mean(means[point], None if head is None else [head])

    return replace


def resampled(donors: Int[Tensor, " b"]) -> Replacement:
    """A replacement by the activation of another clip of the same run (see `edits.donors`)."""

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> PointEdit:
        heads = None if head is None else [head]
        return point, lambda x, hook: edits.resample(x, donors, heads)(x, hook)

    return replace


def random_write(seed: int) -> Replacement:
    """A replacement that adds to the stream a random direction, as long at each token as the head's write."""
    lengths: dict[str, tuple[Evaluation, Tensor]] = {}

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> PointEdit:
        write = point.replace("attn.hook_z", "hook_attn_out")
        if head is None or write == point:
            raise ValueError(f"got {point} and head {head} · expected a head at a block's attn.hook_z")
        if write not in lengths or lengths[write][0] is not evaluation:
            lengths[write] = evaluation, _write_lengths(lens, evaluation, write)
        return write, partial(_add_random_direction, length=lengths[write][1][:, :, head], seed=seed + head)

    return replace


def ablate_heads(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    replacement: Replacement = zero,
    blocks: Sequence[int] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The effect of ablating each head, one at a time.

    Args:
        path: a trajectory, or evaluations by step.
        metric: as for `patching.patch_heads`; bound to the intact run (`VelocityRemainder()`: change of velocity).
        replacement: what replaces the head.
        blocks: the blocks whose heads are ablated; all by default.

    Returns:
        `effect` (clip, step, block, head) = ablated - intact, and `before` (clip, step), the intact run. Blocks after a
        metric's readout are NaN.

    Raises:
        ValueError: no steps. IndexError: a step the path does not have. TypeError: an object that is no metric.
        KeyError: a block that the model does not have. RuntimeError: hooks are active.
    """
    chosen = range(lens.blocks) if blocks is None else integers(blocks, "blocks")
    lens.table.select([f"blocks.{block}.attn.hook_z" for block in chosen], lens.name)  # before replacements read there
    at = [{"block": block, "head": head} for block, head in product(chosen, range(lens.heads))]

    def edit(evaluation: Evaluation, block: int, head: int) -> PointEdit:
        return replacement(lens, evaluation, f"blocks.{block}.attn.hook_z", head)

    return _ablate(lens, path, steps, metric, at, edit, progress)


def ablate_writes(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    replacement: Replacement = zero,
    writes: Sequence[str] = ("attn_out", "mlp_out"),
    progress: bool = False,
) -> xr.Dataset:
    """The effect of ablating each layer's write to the stream.

    Args:
        writes: short names of what a block adds to the stream.

    Returns:
        As `ablate_heads`, with `effect` (clip, step, write, block).
    """
    at = [{"write": write, "block": block} for write, block in product(strings(writes, "writes"), range(lens.blocks))]

    def edit(evaluation: Evaluation, write: str, block: int) -> PointEdit:
        return replacement(lens, evaluation, f"blocks.{block}.hook_{write}", None)

    return _ablate(lens, path, steps, metric, at, edit, progress)


def between(*pairs: tuple[Region, Region]) -> Knockout:
    """A cut of attention from queries in one region to video keys in another, per pair; the rest is scaled to 1."""

    def knock_out(block: int, heads: Heads) -> PointEdit:
        def cut(x: Tensor, hook: Hook) -> Tensor:
            for queries, keys in pairs:
                x = edits.cut(_keys(x, hook, keys), heads, queries)(x, hook)
            return x

        return f"blocks.{block}.attn.hook_pattern", cut

    return knock_out


def uniform(block: int, heads: Heads) -> PointEdit:
    """An edit that makes every query attend to all keys equally."""
    return f"blocks.{block}.attn.hook_pattern", edits.evenly(heads)


def without_text(block: int, heads: Heads) -> PointEdit:
    """An edit that removes cross-attention to text."""
    return f"blocks.{block}.cross_attn.hook_z", edits.zero(heads)


def without_joint_text(block: int, heads: Heads) -> PointEdit:
    """A cut of joint attention from video queries to text keys; the rest is scaled to 1."""

    def cut(x: Tensor, hook: Hook) -> Tensor:
        return edits.cut(torch.arange(x.shape[-1]) >= hook.grid.tokens, heads)(x, hook)

    return f"blocks.{block}.attn.hook_pattern", cut


def cut_attention(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    cuts: Mapping[str, Knockout],
    *,
    by_head: bool = True,
    progress: bool = False,
) -> xr.Dataset:
    """The effect of cutting attention.

    Args:
        cuts: by name: `between(...)` regions, `uniform`, `without_text`.
        by_head: one head at a time; if False, all heads of a block.

    Returns:
        As `ablate_heads`, with `effect` (clip, step, cut, block, head), or without the last dimension.
    """
    heads: list[dict[str, object]] = [{"head": head} for head in range(lens.heads)] if by_head else [{}]
    at = [{"cut": cut, "block": block, **head} for cut, block, head in product(cuts, range(lens.blocks), heads)]

    def edit(evaluation: Evaluation, cut: str, block: int, head: int | None = None) -> PointEdit:
        return cuts[cut](block, None if head is None else [head])

    return _ablate(lens, path, steps, metric, at, edit, progress)


@torch.no_grad()
def means_over(
    lens: DiTLens, batches: Iterable[Mapping[int, Evaluation]], names: Sequence[str]
) -> dict[str, dict[int, Tensor]]:
    """Mean over clips of activations, by hook point and step: what `mean_of` takes.

    Args:
        batches: evaluations by step; a generator keeps one batch at a time.
    """
    sums: dict[str, dict[int, Tensor]] = {}
    clips: dict[int, int] = {}
    for batch in batches:
        for step, evaluation in batch.items():
            _, cache = lens.model.run(evaluation, Request(list(names)))
            clips[step] = clips.get(step, 0) + count(evaluation)
            for name, x in cache.items():
                total = x.sum(0, dtype=torch.promote_types(x.dtype, torch.float32))
                before = sums.setdefault(name, {}).get(step)
                sums[name][step] = total if before is None else before + total
    return {name: {step: total / clips[step] for step, total in steps.items()} for name, steps in sums.items()}


def _ablate(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    at: Sequence[Mapping[str, object]],
    edit: Callable[..., PointEdit],
    progress: bool,
) -> xr.Dataset:
    """The effect of one edit at each of these coordinates."""

    def ablations(evaluation: Evaluation, source: Run | None) -> list[Intervention]:
        return [Intervention([edit(evaluation, **place)], place) for place in at]

    return over(lens, path, ablations, metric, steps=steps, progress=progress)


def _keys(x: Tensor, hook: Hook, region: Region) -> Tensor:
    """A mask of the video keys of a region; text keys, which come last, are False."""
    keys = torch.zeros(x.shape[-1], dtype=torch.bool)
    keys[: hook.grid.tokens] = hook.grid.mask(*triple(region, "keys"))
    return keys


@torch.no_grad()
def _write_lengths(lens: DiTLens, evaluation: Evaluation, write: str) -> Float[Tensor, "b n k"]:
    """The length of each head's write to the stream at each token."""
    heads = lens.anatomy.heads[write]
    _, cache = lens.model.run(evaluation, Request(heads.needs, stop_at=write))
    return head_writes(cache, heads).norm(dim=-1)


def _add_random_direction(x: Tensor, hook: Hook, length: Float[Tensor, "b n"], seed: int) -> Tensor:
    direction = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return x + length[..., None].to(x) * direction / direction.norm(dim=-1, keepdim=True)
