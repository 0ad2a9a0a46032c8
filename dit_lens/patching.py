"""Activation patching: the effect of activations of a clean run in a corrupted run, by head, layer, region or path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import xarray as xr

from dit_lens import edits
from dit_lens.arguments import strings
from dit_lens.axes import Region
from dit_lens.interventions import Intervention, Path, named, over
from dit_lens.interventions.effects import can_move
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation

EVERYWHERE: Mapping[str, Region] = {"all": (slice(None), slice(None), slice(None))}
Cell = tuple[dict[str, object], str, list[int] | None, Region | None]  # coordinates, hook point, heads, tokens


def patch_heads(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    regions: Mapping[str, Region] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The effect of each head: its z from the clean run is patched into the corrupted run, at the same step.

    Clip i of `clean` is patched into clip i of `corrupted`.

    Args:
        clean, corrupted: trajectories, or evaluations by step.
        steps: the steps at which to patch.
        metric: `probe.logit`, `VelocityProjection()`, or any function as `Readout(function, points)`; or several by
            name, whose variables are then `effect_NAME` and so on.
        regions: (frame, row, column) of video tokens by name, integers or slices: z is patched only there.

    Returns:
        `effect` (clip, step, block, head) = patched - corrupted, with a dimension `region` before the block where
        regions were given; `total` (clip, step) = clean - corrupted, and
        `before` (clip, step), the corrupted run. Recovery is the ratio of the means of effect and total. Blocks after
        a metric's readout are NaN.

    Raises:
        ValueError: runs that do not pair up, or no steps. IndexError: a step that the runs do not have.
        TypeError: an object that is no metric. RuntimeError: hooks are active.
    """
    cells: list[Cell] = []
    for name, block, head in product(
        [None] if regions is None else _names(regions), range(lens.blocks), range(lens.heads)
    ):
        at = {} if name is None else {"region": name}
        tokens = None if regions is None or name is None else regions[name]
        cells.append(({**at, "block": block, "head": head}, f"blocks.{block}.attn.hook_z", [head], tokens))
    return _patch(lens, clean, corrupted, steps, metric, cells, progress)


def patch_attention(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    parts: Sequence[str] = ("q", "k", "v", "pattern", "z"),
    progress: bool = False,
) -> xr.Dataset:
    """The effect of each part of a head: queries, keys, values, pattern or z from the clean run, one at a time.

    Args:
        parts: short names of attention hook points.

    Returns:
        As `patch_heads`, with `effect` (clip, step, part, block, head).
    """
    cells: list[Cell] = [
        ({"part": part, "block": block, "head": head}, f"blocks.{block}.attn.hook_{part}", [head], None)
        for part, block, head in product(strings(parts, "parts"), range(lens.blocks), range(lens.heads))
    ]
    return _patch(lens, clean, corrupted, steps, metric, cells, progress)


def patch_residual(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    regions: Mapping[str, Region] = EVERYWHERE,
    point: str = "resid_pre",
    progress: bool = False,
) -> xr.Dataset:
    """The effect of the residual stream: the tokens of a region before a block, from the clean run.

    Args:
        regions: (frame, row, column) of video tokens by name, integers or slices (see `frames_of`).
        point: which stream of a block: "resid_pre", "resid_mid_attn" or the like, or "resid_post".

    Returns:
        As `patch_heads`, with `effect` (clip, step, block, region).
    """
    cells: list[Cell] = [
        ({"block": block, "region": name}, f"blocks.{block}.hook_{point}", None, regions[name])
        for block, name in product(range(lens.blocks), _names(regions))
    ]
    return _patch(lens, clean, corrupted, steps, metric, cells, progress)


def patch_writes(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    *,
    writes: Sequence[str] = ("attn_out", "mlp_out"),
    regions: Mapping[str, Region] = EVERYWHERE,
    progress: bool = False,
) -> xr.Dataset:
    """The effect of each layer: its gated write to the stream, from the clean run.

    Args:
        writes: short names of what a block adds to the stream.
        regions: as in `patch_residual`.

    Returns:
        As `patch_heads`, with `effect` (clip, step, write, block, region).
    """
    cells: list[Cell] = [
        ({"write": write, "block": block, "region": name}, f"blocks.{block}.hook_{write}", None, regions[name])
        for write, block, name in product(strings(writes, "writes"), range(lens.blocks), _names(regions))
    ]
    return _patch(lens, clean, corrupted, steps, metric, cells, progress)


def frames_of(count: int) -> dict[str, Region]:
    """One region for each latent frame, by its number."""
    return {str(frame): (frame, slice(None), slice(None)) for frame in range(count)}


def _names(regions: Mapping[str, Region]) -> list[str]:
    """The names of regions.

    Raises:
        TypeError: regions without names.
    """
    if not isinstance(regions, Mapping):
        raise TypeError(f"got regions {regions!r} · expected them by name, such as frames_of(5)")
    return strings(regions, "names of regions")


def _patch(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric | Mapping[str, Metric],
    cells: Sequence[Cell],
    progress: bool,
) -> xr.Dataset:
    """The effect of each cell's activation from the clean run.

    Raises:
        KeyError: a hook point that the model does not have, or a pattern.
    """
    for name in dict.fromkeys(point for _, point, _, _ in cells):
        if name not in lens.table.points:
            several = len(lens.table.select([name], lens.name))
            raise KeyError(f"got {name!r}, a pattern of {several} points · expected one point to patch, by its name")
    # Where no edit can change a metric, the clean run is not read: it would have to run up to that point.
    placeholders = [Intervention.single(point, edits.zero(heads), **at) for at, point, heads, _ in cells]
    live_cells = [
        any(can_move(lens, intervention, metric) for metric in named(metric).values()) for intervention in placeholders
    ]

    def patches(evaluation: Evaluation, source: Run | None) -> list[Intervention]:
        assert source is not None
        return [
            Intervention.single(point, edits.patch(source.cache[point], heads, tokens), **at) if live else placeholder
            for (at, point, heads, tokens), live, placeholder in zip(cells, live_cells, placeholders, strict=True)
        ]

    points = {point for (_, point, _, _), live in zip(cells, live_cells, strict=True) if live}
    return over(lens, corrupted, patches, metric, steps=steps, clean=clean, reads=sorted(points), progress=progress)
