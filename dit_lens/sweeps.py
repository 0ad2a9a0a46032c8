"""The sweep engine: the effect of one edit per (block, head), exactly and without running anything twice.

The recipient's forward is run once and the stream that enters each block is kept. An edit in block l restarts there;
all heads of a block share one batch with an unedited reference, so a null edit has an effect of exactly zero; nothing
behind the last point that a metric reads is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, MetricFunction, Run
from dit_lens.running import Request, repeat
from dit_lens.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """Per metric: `effect` (b, l, k) = patched - reference, `total` (b,) = clean - corrupted, `corrupted` (b,).

    Blocks whose heads come too late for a metric are NaN.
    """

    effect: Mapping[str, Float[Tensor, "b l k"]]
    total: Mapping[str, Float[Tensor, " b"]]
    corrupted: Mapping[str, Float[Tensor, " b"]]


@dataclass(frozen=True, eq=False)
class _Pair:
    """A clean and a corrupted run, and the metrics bound to them."""

    clean: Run
    corrupted: Run
    functions: Mapping[str, MetricFunction]

    def measure(self, run: Run) -> dict[str, Tensor]:
        """Every metric of a run."""
        return {name: function(run.velocity, run.cache) for name, function in self.functions.items()}

    def effects(self, effect: Mapping[str, Tensor]) -> HeadEffects:
        """The given effects beside the totals."""
        after, before = self.measure(self.clean), self.measure(self.corrupted)
        total = {name: (after[name] - before[name]).cpu() for name in self.functions}
        return HeadEffects(effect, total, {name: value.cpu() for name, value in before.items()})


@torch.no_grad()
def patch_each_head(
    lens: DiTLens, clean: Trajectory, corrupted: Trajectory, step: int, metrics: Mapping[str, Metric]
) -> HeadEffects:
    """Every head's z from the clean run into the corrupted run at the same step, one head at a time.

    Raises:
        ValueError: the trajectories differ in number of clips or noise levels.
        RuntimeError: hooks are active; they would act on the whole runs but not on those that restart inside.
    """
    if lens.model.hooked:
        raise RuntimeError("got active hooks around a sweep · expected none · leave the `hooks` context first")
    streams = {name for block in range(lens.blocks) for name in lens.table.entering(block)}
    pair = _run_pair(lens, clean, corrupted, step, metrics, {*streams, "blocks.*.attn.hook_z"})
    effect = {name: torch.full((len(clean), lens.blocks, lens.heads), torch.nan) for name in metrics}
    evaluation, copies = repeat(lens.evaluation(corrupted, step), 1 + lens.heads), 1 + lens.heads
    for block in range(lens.blocks):
        edited = f"blocks.{block}.attn.hook_z"
        live = {name: f for name, f in pair.functions.items() if _reaches(lens, edited, metrics[name].points)}
        if not live:
            break
        later = [point for name in live for point in metrics[name].points if not _is_behind(lens, edited, point)]
        stop = None if any(not metrics[name].points for name in live) else _last(lens, [edited, *later])
        change = _one_head_per_copy(pair.clean.cache[edited], pair.corrupted.cache[edited])
        entering = {name: pair.corrupted.cache[name].repeat(copies, 1, 1) for name in lens.table.entering(block)}
        velocity, cache = lens.run_suffix(evaluation, block, entering, {edited: change}, Request(later, stop_at=stop))
        for name, function in live.items():
            reference, *patched = (
                function(v, {**pair.corrupted.cache, **c}) for v, c in _copies(velocity, cache, copies)
            )
            effect[name][:, block] = torch.stack([value - reference for value in patched], dim=1).cpu()
    return pair.effects(effect)


@torch.no_grad()
def patch_each_head_literally(
    lens: DiTLens, clean: Trajectory, corrupted: Trajectory, step: int, metrics: Mapping[str, Metric]
) -> HeadEffects:
    """The same by one full forward per head: slow, and what `patch_each_head` is tested against."""
    pair = _run_pair(lens, clean, corrupted, step, metrics, {"blocks.*.attn.hook_z"})
    points = {point for metric in metrics.values() for point in metric.points}
    before = pair.measure(pair.corrupted)
    effect = {name: torch.full((len(clean), lens.blocks, lens.heads), torch.nan) for name in metrics}
    for block in range(lens.blocks):
        edited = f"blocks.{block}.attn.hook_z"
        source = pair.clean.cache[edited]
        for head in range(lens.heads):

            def take(z: Tensor, hook: Hook, head: int = head, source: Tensor = source) -> Tensor:
                return torch.cat([z[:, :, :head], source[:, :, head : head + 1], z[:, :, head + 1 :]], dim=2)

            with lens.hooks([(edited, take)]):
                after = pair.measure(_cached_run(lens, corrupted, step, points))
            for name, metric in metrics.items():
                if _reaches(lens, edited, metric.points):
                    effect[name][:, block, head] = (after[name] - before[name]).cpu()
    return pair.effects(effect)


def _run_pair(
    lens: DiTLens,
    clean: Trajectory,
    corrupted: Trajectory,
    step: int,
    metrics: Mapping[str, Metric],
    names: set[str],
) -> _Pair:
    if len(clean) != len(corrupted) or clean.schedule.sigmas != corrupted.schedule.sigmas:
        raise ValueError(
            f"got {len(clean)} clean and {len(corrupted)} corrupted clips on {len(clean.schedule)} and"
            f" {len(corrupted.schedule)} steps · expected pairs on the same noise levels"
        )
    wanted = names.union(*(metric.points for metric in metrics.values()))
    runs = _cached_run(lens, clean, step, wanted), _cached_run(lens, corrupted, step, wanted)
    return _Pair(*runs, {name: metric.bind(*runs) for name, metric in metrics.items()})


def _cached_run(lens: DiTLens, trajectory: Trajectory, step: int, names: Iterable[str]) -> Run:
    velocity, cache = lens.run_with_cache(trajectory, step=step, names_filter=sorted(names))
    assert velocity is not None
    return Run(velocity, cache)


def _last(lens: DiTLens, names: Iterable[str]) -> str:
    """The last of some hook points in forward order."""
    return lens.table.select(list(names), lens.name)[-1].name


def _is_behind(lens: DiTLens, point: str, other: str) -> bool:
    return point != other and _last(lens, [point, other]) == point


def _reaches(lens: DiTLens, edited: str, points: tuple[str, ...]) -> bool:
    """Whether a change at `edited` can move a metric of these points (none: of the velocity)."""
    return not points or any(not _is_behind(lens, edited, point) for point in points)


def _one_head_per_copy(clean: Float[Tensor, "b n k e"], corrupted: Float[Tensor, "b n k e"]) -> HookFunction:
    """The batch is 1 + k copies of the clips: the first stays, copy 1 + i takes head i from the clean run.

    Where clean and corrupted agree z is left as it is, which keeps a null edit exact: at another batch size the same z
    differs in its last bit.
    """
    differs = clean != corrupted

    def patch(z: Tensor, hook: Hook) -> Tensor:
        copies = z.unflatten(0, (-1, len(clean))).clone()
        for head in range(clean.shape[2]):
            patched = torch.where(differs[:, :, head], clean[:, :, head], copies[1 + head, :, :, head])
            copies[1 + head, :, :, head] = patched
        return copies.flatten(0, 1)

    return patch


def _copies(
    velocity: Tensor | None, cache: Mapping[str, Tensor], copies: int
) -> Iterator[tuple[Tensor | None, Mapping[str, Tensor]]]:
    """Velocity and cache of each copy of the clips."""
    velocities = [None] * copies if velocity is None else velocity.chunk(copies)
    chunks = {name: tensor.chunk(copies) for name, tensor in cache.items()}
    return ((velocities[i], {name: parts[i] for name, parts in chunks.items()}) for i in range(copies))
