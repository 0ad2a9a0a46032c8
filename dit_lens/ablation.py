"""Ablation: what is missing where an activation is taken away; named questions over sweeps.

A replacement says what takes the place of what is taken away:

- `zero`: nothing;
- `mean_of`: the mean over other clips, at each token (Wang et al. 2022);
- `resampled`: another clip's activation, in the same run (causal scrubbing's resample ablation, Chan et al. 2022);
- `random_write`: a write in a random direction, as long at each token as the head's own: what a change of that size
  does whatever it carries, the control of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from dit_lens import edits
from dit_lens.cache.decomposition import head_writes
from dit_lens.edits import Tokens
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.running import Evaluation, Request
from dit_lens.sweeps import Change, Effects, Path, change_each, clip_ids_of, evaluations, named, sweep, tabulate

Replacement = Callable[[DiTLens, Evaluation, str, int | None], Change]
Heads = Sequence[int] | None  # all unless given
Knockout = Callable[[int, Heads], Change]  # of a block's heads


def zero(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> Change:
    """A head, or a whole activation, set to zero."""
    return Change(point, edits.zero(None if head is None else [head]))


def mean_of(means: Mapping[str, Mapping[int, Tensor]]) -> Replacement:
    """Set to the mean over clips that nothing is measured on.

    Args:
        means: by hook point and step, of the activation's shape without its clip axis (see `means_over`).
    """

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> Change:
        if point not in means:
            raise KeyError(f"got means of {', '.join(means)} · expected those of {point} too · see means_over")
        return Change(point, edits.mean(means[point], None if head is None else [head]))

    return replace


def resampled(donors: Int[Tensor, " b"]) -> Replacement:
    """Taken from another clip of the same run (`edits.donors` says from which)."""

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> Change:
        heads = None if head is None else [head]
        return Change(point, lambda x, hook: edits.resample(x, donors, heads)(x, hook))

    return replace


def random_write(seed: int) -> Replacement:
    """A random direction for each token, as long as what the head writes to the stream there, added to the stream."""
    known: dict[str, tuple[Evaluation, Tensor]] = {}

    def replace(lens: DiTLens, evaluation: Evaluation, point: str, head: int | None) -> Change:
        write = point.replace("attn.hook_z", "hook_attn_out")
        if head is None or write == point:
            raise ValueError(f"got {point} and head {head} · expected a head at a block's attn.hook_z")
        if write not in known or known[write][0] is not evaluation:
            known[write] = evaluation, _write_lengths(lens, evaluation, write)
        return Change(write, partial(_as_long_as, length=known[write][1][:, :, head], seed=seed + head))

    return replace


def ablate_heads(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    replacement: Replacement = zero,
    blocks: Sequence[int] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """What each head is needed for: metrics without it, one head at a time.

    Args:
        path: a trajectory, or evaluations by step.
        metric: as for `patching.patch_heads`; bound to the whole run (`VelocityRemainder()` is how far it moves).
        replacement: what takes the head's place.
        blocks: whose heads; all unless given.

    Returns:
        `effect` (clip, step, block, head) = ablated - whole, and `before` (clip, step), the whole run. Blocks behind a
        metric's readout are NaN.

    Raises:
        ValueError: no steps. IndexError: a step the path does not have. TypeError: something that is no metric.
        RuntimeError: hooks are active.
    """
    dims = {"block": range(lens.blocks) if blocks is None else blocks, "head": range(lens.heads)}

    def change(evaluation: Evaluation, block: int, head: int) -> Change:
        return replacement(lens, evaluation, f"blocks.{block}.attn.hook_z", head)

    return _ablate(lens, path, steps, metric, dims, change, progress)


def ablate_writes(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    replacement: Replacement = zero,
    writes: Sequence[str] = ("attn_out", "mlp_out"),
    progress: bool = False,
) -> xr.Dataset:
    """What each layer is needed for: metrics without its write to the stream.

    Args:
        writes: short names of what a block adds to the stream.

    Returns:
        As `ablate_heads`, with `effect` (clip, step, write, block).
    """
    dims = {"write": list(writes), "block": range(lens.blocks)}

    def change(evaluation: Evaluation, write: str, block: int) -> Change:
        return replacement(lens, evaluation, f"blocks.{block}.hook_{write}", None)

    return _ablate(lens, path, steps, metric, dims, change, progress)


def between(*pairs: tuple[Tokens, Tokens]) -> Knockout:
    """Queries in one region see no video keys in another, for each (queries, keys); what is left is scaled to 1."""

    def knock_out(block: int, heads: Heads) -> Change:
        def cut(x: Tensor, hook: Hook) -> Tensor:
            for queries, keys in pairs:
                x = edits.cut(_keys(x, hook, keys), heads, queries)(x, hook)
            return x

        return Change(f"blocks.{block}.attn.hook_pattern", cut)

    return knock_out


def uniform(block: int, heads: Heads) -> Change:
    """Every query attends to all keys alike."""
    return Change(f"blocks.{block}.attn.hook_pattern", edits.evenly(heads))


def without_text(block: int, heads: Heads) -> Change:
    """Nothing comes from cross-attention to text."""
    return Change(f"blocks.{block}.cross_attn.hook_z", edits.zero(heads))


def cut_attention(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    cuts: Mapping[str, Knockout],
    by_head: bool = True,
    progress: bool = False,
) -> xr.Dataset:
    """Which attention is needed: metrics where heads do not see what they did.

    Args:
        cuts: by name: `between(...)` regions, `uniform`, `without_text`.
        by_head: one head at a time; or all of a block.

    Returns:
        As `ablate_heads`, with `effect` (clip, step, cut, block, head), or without the last dimension.
    """
    dims = {"cut": list(cuts), "block": range(lens.blocks)} | ({"head": range(lens.heads)} if by_head else {})

    def change(evaluation: Evaluation, cut: str, block: int, head: int | None = None) -> Change:
        return cuts[cut](block, None if head is None else [head])

    return _ablate(lens, path, steps, metric, dims, change, progress)


@torch.no_grad()
def means_over(
    lens: DiTLens, batches: Sequence[Mapping[int, Evaluation]], names: Sequence[str]
) -> dict[str, dict[int, Tensor]]:
    """Mean over clips of activations, by hook point and step: what `mean_of` takes.

    Args:
        batches: evaluations by step, each batch of as many clips.
    """
    means: dict[str, dict[int, Tensor]] = {}
    for batch in batches:
        for step, evaluation in batch.items():
            _, cache = lens.model.run(evaluation, Request(list(names)))
            for name, x in cache.items():
                by_step = means.setdefault(name, {})
                by_step[step] = by_step.get(step, torch.zeros_like(x[0])) + x.mean(0) / len(batches)
    return means


def _ablate(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    dims: Mapping[str, Sequence[object]],
    change: Callable[..., Change],
    progress: bool,
) -> xr.Dataset:
    metrics, fed = named(metric), evaluations(lens, path, steps)
    found: dict[int, Effects] = {}
    for step in tqdm(steps, desc="ablating", unit="step", disable=not progress):
        found[step] = sweep(lens, fed[step], change_each(dims, partial(change, fed[step])), metrics)
    return tabulate(found, dims, fed).assign_coords(clip=clip_ids_of(path))


def _keys(x: Tensor, hook: Hook, region: Tokens) -> Tensor:
    """The video keys of a region; text keys, which come last, are not among them."""
    keys = torch.zeros(x.shape[-1], dtype=torch.bool)
    keys[: hook.grid.tokens] = hook.grid.mask(*region)
    return keys


@torch.no_grad()
def _write_lengths(lens: DiTLens, evaluation: Evaluation, write: str) -> Float[Tensor, "b n k"]:
    """How long each head's write to the stream is at each token."""
    heads = lens.anatomy.heads[write]
    _, cache = lens.model.run(evaluation, Request(heads.needs, stop_at=write))
    return head_writes(cache, heads).norm(dim=-1)


def _as_long_as(x: Tensor, hook: Hook, length: Float[Tensor, "b n"], seed: int) -> Tensor:
    direction = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return x + length[..., None].to(x) * direction / direction.norm(dim=-1, keepdim=True)
