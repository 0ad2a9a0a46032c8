"""Activation patching: what an activation of one run brings into another; named questions over sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import xarray as xr
from tqdm import tqdm

from dit_lens import edits
from dit_lens.edits import Tokens
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.sweeps import Change, Path, change_each, clip_ids_of, evaluations, named, sweep, tabulate
from dit_lens.sweeps.changes import check_pair, reaches, refuse_hooks, run

EVERYWHERE: Mapping[str, Tokens] = {"all": (slice(None), slice(None), slice(None))}
Address = tuple[str, Sequence[int] | None, Tokens | None]


def patch_heads(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    regions: Mapping[str, Tokens] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """What each head carries: its z from the clean run is put into the corrupted run, at the same step.

    Clip i of `clean` is patched into clip i of `corrupted`.

    Args:
        clean, corrupted: trajectories, or evaluations by step.
        steps: at which steps.
        metric: `probe.logit`, `VelocityProjection()`, or any function as `Readout(function, points)`; or several by
            name, whose variables are then `effect_NAME` and so on.
        regions: (frame, row, column) of video tokens by name, integers or slices: z is put there alone.

    Returns:
        `effect` (clip, step, block, head) = patched - corrupted, with a dimension `region` before the block where
        regions were given; `total` (clip, step) = clean - corrupted, and
        `before` (clip, step), the corrupted run. Recovery is the ratio of the means of effect and total. Blocks behind
        a metric's readout are NaN.

    Raises:
        ValueError: runs that do not pair up, or no steps. IndexError: a step they do not have.
        TypeError: something that is no metric. RuntimeError: hooks are active.
    """
    dims = {"block": range(lens.blocks), "head": range(lens.heads)}
    if regions is None:
        return _patch(lens, clean, corrupted, steps, metric, dims, _head, progress)

    def place(region: str, block: int, head: int) -> Address:
        return *_head(block, head)[:2], regions[region]

    return _patch(lens, clean, corrupted, steps, metric, {"region": list(regions), **dims}, place, progress)


def patch_attention(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    parts: Sequence[str] = ("q", "k", "v", "pattern", "z"),
    progress: bool = False,
) -> xr.Dataset:
    """By which part a head carries it: its queries, keys, values, pattern or z from the clean run, one at a time.

    Args:
        parts: short names of attention hook points.

    Returns:
        As `patch_heads`, with `effect` (clip, step, part, block, head).
    """
    dims = {"part": list(parts), "block": range(lens.blocks), "head": range(lens.heads)}
    return _patch(lens, clean, corrupted, steps, metric, dims, _head, progress)


def patch_residual(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    regions: Mapping[str, Tokens] = EVERYWHERE,
    point: str = "resid_pre",
    progress: bool = False,
) -> xr.Dataset:
    """Where in the stream it lies: the tokens of a region that enter a block, from the clean run.

    Args:
        regions: (frame, row, column) of video tokens by name, integers or slices (see `frames_of`).
        point: which stream of a block: "resid_pre", "resid_mid_attn" or the like, or "resid_post".

    Returns:
        As `patch_heads`, with `effect` (clip, step, block, region).
    """
    dims = {"block": range(lens.blocks), "region": list(regions)}

    def place(block: int, region: str) -> Address:
        return f"blocks.{block}.hook_{point}", None, regions[region]

    return _patch(lens, clean, corrupted, steps, metric, dims, place, progress)


def patch_writes(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    writes: Sequence[str] = ("attn_out", "mlp_out"),
    regions: Mapping[str, Tokens] = EVERYWHERE,
    progress: bool = False,
) -> xr.Dataset:
    """What a layer adds: its gated write to the stream from the clean run.

    Args:
        writes: short names of what a block adds to the stream.
        regions: as in `patch_residual`.

    Returns:
        As `patch_heads`, with `effect` (clip, step, write, block, region).
    """
    dims = {"write": list(writes), "block": range(lens.blocks), "region": list(regions)}

    def place(write: str, block: int, region: str) -> Address:
        return f"blocks.{block}.hook_{write}", None, regions[region]

    return _patch(lens, clean, corrupted, steps, metric, dims, place, progress)


def frames_of(count: int) -> dict[str, Tokens]:
    """Each latent frame as a region."""
    return {str(frame): (frame, slice(None), slice(None)) for frame in range(count)}


def _head(block: int, head: int, part: str = "z") -> Address:
    return f"blocks.{block}.attn.hook_{part}", [head], None


def _patch(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    dims: Mapping[str, Sequence[object]],
    place: Callable[..., Address],
    progress: bool,
) -> xr.Dataset:
    """Effects of each address's activation from the clean run."""
    refuse_hooks(lens)
    metrics, given, found = named(metric), evaluations(lens, clean, steps), {}
    own = evaluations(lens, corrupted, steps)
    # Where no metric can see a change, nothing is taken from the clean run, which would have to be run up to there.
    all_changes = change_each(dims, lambda **at: Change(place(**at)[0], edits.zero()))
    points = {one.point for one in all_changes if any(reaches(lens, one, metric) for metric in metrics.values())}
    for step in tqdm(steps, desc="patching", unit="step", disable=not progress):
        check_pair(given[step], own[step])
        with torch.no_grad():
            source = run(lens, given[step], metrics.values(), points)

        def change(source: Mapping[str, torch.Tensor] = source.cache, **at: object) -> Change:
            point, heads, tokens = place(**at)
            return Change(point, edits.patch(source[point], heads, tokens) if point in source else edits.zero(heads))

        found[step] = sweep(lens, own[step], change_each(dims, change), metrics, source)
    table = tabulate(found, dims, own).assign_coords(clip=clip_ids_of(corrupted))
    return table.assign_coords(donor=("clip", clip_ids_of(clean)))
