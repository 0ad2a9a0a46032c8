"""The sweep engine: the effect of one edit per (block, head), exactly and without running anything twice.

The recipient's forward is run once and the stream that enters each block is kept. An edit in block l restarts there;
all heads of a block share one batch with an unedited reference, so a null edit has an effect of exactly zero; nothing
behind the last point that a metric reads is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.cache import ActivationCache
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.running import Request, repeat
from dit_lens.trajectory import Trajectory

MetricFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """One unedited evaluation: velocity and the activations that were asked for."""

    velocity: Float[Tensor, "b c f h w"]
    cache: ActivationCache


class Metric(Protocol):
    """What an effect is measured on: (velocity, cache) -> (b,), differentiable.

    `points` are the hook points it reads; without any it reads the velocity, and the model is run to its end.
    `bind` gives the function for one pair of runs.
    """

    points: tuple[str, ...]

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The metric for a pair of runs."""
        ...


@dataclass(frozen=True)
class Readout:
    """Any function (velocity, cache) -> (b,) as a metric; `points` are what it reads of the cache."""

    function: MetricFunction
    points: tuple[str, ...]

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The function itself."""
        return self.function


@dataclass(frozen=True)
class VelocityProjection:
    """<v - v_corrupted, u> / |u| with u = v_clean - v_corrupted: 0 at the corrupted run, |u| at the clean one."""

    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The projection for this pair; 0 where the two runs are the same."""
        difference = (clean.velocity - corrupted.velocity).flatten(1)
        unit = difference / difference.norm(dim=1, keepdim=True).clamp_min(torch.finfo(difference.dtype).tiny)

        def project(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            return ((velocity - corrupted.velocity).flatten(1) * unit).sum(1)

        return project


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """Per metric: `effect` (b, l, k) = patched - reference, `total` (b,) = clean - corrupted, `corrupted` (b,).

    Blocks behind a metric's readout are NaN.
    """

    effect: Mapping[str, Float[Tensor, "b l k"]]
    total: Mapping[str, Float[Tensor, " b"]]
    corrupted: Mapping[str, Float[Tensor, " b"]]


@torch.no_grad()
def patch_each_head(
    lens: DiTLens, clean: Trajectory, corrupted: Trajectory, step: int, metrics: Mapping[str, Metric]
) -> HeadEffects:
    """Every head's z from the clean run into the corrupted run at the same step, one head at a time.

    Raises:
        ValueError: the trajectories differ in number of clips or noise levels.
    """
    _check_pair(clean, corrupted)
    points = {point for metric in metrics.values() for point in metric.points}
    clean_run = _cached_run(lens, clean, step, {*points, "blocks.*.attn.hook_z"})
    corrupted_run = _cached_run(lens, corrupted, step, {*points, "blocks.*.hook_resid_pre", "blocks.*.attn.hook_z"})
    bound = {name: metric.bind(clean_run, corrupted_run) for name, metric in metrics.items()}
    before, after = ({n: f(run.velocity, run.cache) for n, f in bound.items()} for run in (corrupted_run, clean_run))
    ends = {name: _last_block(lens, metric) for name, metric in metrics.items()}
    effect = {name: torch.full((len(clean), lens.blocks, lens.heads), torch.nan) for name in metrics}
    plain = lens.evaluation(corrupted, step)
    for block in range(max(ends.values()) + 1):
        live = {name: function for name, function in bound.items() if block <= ends[name]}
        stop = None if any(not metrics[n].points for n in live) else _furthest(lens, metrics, live)
        change = clean_run.cache["z", block] - corrupted_run.cache["z", block]
        visit = {f"blocks.{block}.attn.hook_z": _one_head_per_copy(change)}
        stream = corrupted_run.cache["resid_pre", block].repeat(1 + lens.heads, 1, 1)
        request = Request(sorted({point for name in live for point in metrics[name].points}), stop_at=stop)
        velocity, cache = lens.run_suffix(repeat(plain, 1 + lens.heads), block, stream, visit, request)
        for name, function in live.items():
            reference, *patched = (function(v, c) for v, c in _copies(velocity, cache, 1 + lens.heads))
            effect[name][:, block] = torch.stack([value - reference for value in patched], dim=1).cpu()
    total = {name: (after[name] - before[name]).cpu() for name in metrics}
    return HeadEffects(effect, total, {name: value.cpu() for name, value in before.items()})


@torch.no_grad()
def patch_each_head_literally(
    lens: DiTLens, clean: Trajectory, corrupted: Trajectory, step: int, metrics: Mapping[str, Metric]
) -> HeadEffects:
    """The same by one full forward per head: slow, and what `patch_each_head` is tested against."""
    _check_pair(clean, corrupted)
    points = {point for metric in metrics.values() for point in metric.points}
    clean_run = _cached_run(lens, clean, step, {*points, "blocks.*.attn.hook_z"})
    corrupted_run = _cached_run(lens, corrupted, step, points)
    bound = {name: metric.bind(clean_run, corrupted_run) for name, metric in metrics.items()}
    before, after = ({n: f(run.velocity, run.cache) for n, f in bound.items()} for run in (corrupted_run, clean_run))
    effect = {name: torch.full((len(clean), lens.blocks, lens.heads), torch.nan) for name in metrics}
    for block in range(lens.blocks):
        for head in range(lens.heads):

            def take(z: Tensor, hook: Hook, head: int = head, source: Tensor = clean_run.cache["z", block]) -> Tensor:
                z = z.clone()
                z[:, :, head] = source[:, :, head]
                return z

            with lens.hooks([(f"blocks.{block}.attn.hook_z", take)]):
                run = _cached_run(lens, corrupted, step, points)
            for name, function in bound.items():
                if block <= _last_block(lens, metrics[name]):
                    effect[name][:, block, head] = function(run.velocity, run.cache) - before[name]
    return HeadEffects(effect, {name: after[name] - before[name] for name in metrics}, before)


def _check_pair(clean: Trajectory, corrupted: Trajectory) -> None:
    if len(clean) != len(corrupted) or clean.schedule.sigmas != corrupted.schedule.sigmas:
        raise ValueError(
            f"got {len(clean)} clean and {len(corrupted)} corrupted clips on {len(clean.schedule)} and"
            f" {len(corrupted.schedule)} steps · expected pairs on the same noise levels"
        )


def _cached_run(lens: DiTLens, trajectory: Trajectory, step: int, names: set[str]) -> Run:
    velocity, cache = lens.run_with_cache(trajectory, step=step, names_filter=sorted(names))
    assert velocity is not None
    return Run(velocity, cache)


def _last_block(lens: DiTLens, metric: Metric) -> int:
    """The last block whose heads can move the metric."""
    if not metric.points:
        return lens.blocks - 1
    readable = [
        block for block in range(lens.blocks) for point in metric.points if point.startswith(f"blocks.{block}.")
    ]
    return max(readable) if len(readable) == len(metric.points) else lens.blocks - 1


def _furthest(lens: DiTLens, metrics: Mapping[str, Metric], names: Mapping[str, MetricFunction]) -> str:
    """The last hook point, in forward order, that these metrics read."""
    points = {point for name in names for point in metrics[name].points}
    return lens.table.select(sorted(points), lens.name)[-1].name


def _one_head_per_copy(change: Float[Tensor, "b n k e"]) -> HookFunction:
    """The batch is 1 + k copies of the clips: the first stays, copy 1 + i has head i changed.

    Adding the change, not setting the value, keeps a null edit exact: z at another batch size differs in its last bit.
    """

    def patch(z: Tensor, hook: Hook) -> Tensor:
        copies = z.unflatten(0, (-1, len(change))).clone()
        for head in range(change.shape[2]):
            copies[1 + head, :, :, head] += change[:, :, head]
        return copies.flatten(0, 1)

    return patch


def _copies(
    velocity: Tensor | None, cache: ActivationCache, copies: int
) -> Iterator[tuple[Tensor | None, Mapping[str, Tensor]]]:
    """Velocity and cache of each copy of the clips."""
    velocities: Sequence[Tensor | None] = [None] * copies if velocity is None else velocity.chunk(copies)
    chunks = {name: tensor.chunk(copies) for name, tensor in cache.items()}
    return ((velocities[i], {name: parts[i] for name, parts in chunks.items()}) for i in range(copies))
