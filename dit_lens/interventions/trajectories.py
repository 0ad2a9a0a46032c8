"""Interventions along a trajectory: edits act at every step of a segment, which is sampled again from its start.

A sweep at one step measures the effect of an edit on the readout of the same evaluation. Here an edit acts at earlier
steps, and reaches the readout through the latent. Each intervention has two effects at the step of the readout:

- `end`: in an evaluation without the edits, on the latent that resulted from them: their effect through x_sigma;
- `both`: with the edits in that evaluation too.

A sampled path may end in the clip, and metrics then read its latent.

Sampling resumes at the last cached latent before any edit, and earlier steps are not evaluated again.
Edited copies share a batch with an unchanged copy, so an intervention that changes nothing has an effect of exactly
zero. An edit applies to the values of its own copy; an edit with source activations needs those of each step
(`edits.patch({step: source, ...})`). An implicit solver gives equal results in any batch up to its tolerance.

Latents with one noise level per frame (`continuation`, "continuation" in `capture.NoisePath`) do not lie on a
trajectory with numbered steps, so these functions do not support them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions.effects import Effects, is_after, last, run, unchanged
from dit_lens.interventions.exact import affordable
from dit_lens.interventions.intervention import Intervention, PointEdit, resolved
from dit_lens.interventions.segments import PathSegment, copies_at
from dit_lens.inversion import SolverRun, resume
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation
from dit_lens.trajectory import Trajectory

ClipMetric = Callable[[Tensor], Tensor]  # latents (b, c, f, h, w) at the end of the segment -> (b,) or (b, ...)


@dataclass(frozen=True, eq=False)
class PathEffects:
    """Effects of interventions along a segment on each metric at its end.

    Attributes:
        end: effects in an evaluation without the edits.
        both: effects in an evaluation with the edits.
    """

    end: Effects
    both: Effects


@torch.no_grad()
def sweep_along(
    lens: DiTLens,
    segment: PathSegment,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> PathEffects:
    """The effect of each intervention along a segment on each metric of an evaluation at its readout.

    Args:
        metrics, clean, batch_size, progress: as for `sweep`; with guidance, metrics read the branch "cond".

    Raises:
        ValueError, IndexError: see `PathSegment.solver_run`. KeyError, TypeError, RuntimeError: see `sweep`.
    """
    ready = resolved(lens, interventions)
    solver_run, clips, entered = segment.solver_run(), len(segment.trajectory), lens.table.entering(0)
    at = lens.evaluation(segment.trajectory, segment.readout)
    start = unchanged(lens, at, ready, metrics, clean, entered)
    size = batch_size or affordable(lens, sum(start.cache[name].nbytes for name in entered) / clips)
    end: list[dict[str, Tensor]] = []
    both: list[dict[str, Tensor]] = []
    for chosen in _batches(ready, size, clips, progress):
        arrived, hooks = _sampled(lens, segment, solver_run, chosen)
        fed = lens.evaluation(arrived, segment.readout)
        end.append(_effects(_read(lens, fed, start.metrics, []), start.metrics, 1 + len(chosen)))
        both.append(_effects(_read(lens, fed, start.metrics, hooks), start.metrics, 1 + len(chosen)))
    before, goal = start.effects.before, start.effects.clean
    return PathEffects(Effects(_joined(end), before, goal, {}), Effects(_joined(both), before, goal, {}))


@torch.no_grad()
def sweep_to_clip(
    lens: DiTLens,
    segment: PathSegment,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, ClipMetric],
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> Effects:
    """The effect of each intervention along a segment on the latent at its end, the clip if `readout` is 0.

    Args:
        interventions, batch_size, progress: as for `sweep_along`.
        metrics: by name, such as `lambda x: (x - whole).flatten(1).norm(dim=1)`, or a
            measure of `lens.family.decode(lens.vae, x)`.

    Returns:
        The effects; `before` is the metric of the unchanged path, sampled again from the start of the segment.

    Raises:
        ValueError: no metrics. See also `sweep_along`.
    """
    ready = resolved(lens, interventions)
    if not metrics:
        raise ValueError("got no metrics · expected at least one, a function of latents by name")
    solver_run, clips = segment.solver_run(), len(segment.trajectory)
    entered = run(lens, lens.evaluation(segment.trajectory, segment.readout), [], lens.table.entering(0)).cache
    size = batch_size or affordable(lens, sum(stream.nbytes for stream in entered.values()) / clips)
    effects: list[dict[str, Tensor]] = []
    before: dict[str, Tensor] = {}
    for chosen in _batches(ready, size, clips, progress):
        arrived, _ = _sampled(lens, segment, solver_run, chosen)
        latents = arrived.latent(segment.readout).chunk(1 + len(chosen))
        values = {name: [metric(x).cpu() for x in latents] for name, metric in metrics.items()}
        before = {name: first for name, (first, *_) in values.items()}
        effects.append({name: torch.stack([v - u for v in vs], dim=1) for name, (u, *vs) in values.items()})
    return Effects(_joined(effects), before, {}, {})


def _sampled(
    lens: DiTLens, segment: PathSegment, solver_run: SolverRun, interventions: Sequence[Intervention]
) -> tuple[Trajectory, list[PointEdit]]:
    """The end of the segment for the unchanged clips and a copy per intervention, and the hooks for the copies."""
    path, copies = segment.trajectory, 1 + len(interventions)
    hooks = _by_copy(interventions, len(path))
    start = path.latent(solver_run.order[0]).to(lens.model.device).repeat(copies, 1, 1, 1, 1)
    conditions = copies_at(path, solver_run.order[0], start, copies).conditions
    with lens.hooks(hooks, segment.steps):
        *_, arrived = resume(lens, solver_run, start, conditions)
    return copies_at(path, segment.readout, arrived.x, copies), hooks


def _by_copy(interventions: Sequence[Intervention], clips: int) -> list[PointEdit]:
    """One hook function per point, which applies the edits of intervention i there to copy 1 + i, in order."""

    def at(point: str) -> HookFunction:
        edits = [(copy, edited.edits_at(point)) for copy, edited in enumerate(interventions, start=1)]

        def edit(x: Tensor, hook: Hook) -> Tensor:
            copies = list(x.split(clips))
            for copy, function in ((copy, function) for copy, functions in edits for function in functions):
                new = function(copies[copy], hook)
                copies[copy] = copies[copy] if new is None else new
            return torch.cat(copies)

        return edit

    return [(point, at(point)) for point in dict.fromkeys(point for edited in interventions for point in edited.points)]


def _read(lens: DiTLens, at: Evaluation, metrics: Mapping[str, Readout], hooks: Sequence[PointEdit]) -> Run:
    """The run that metrics read, with those hooks that come before the points they read."""
    points = [point for metric in metrics.values() for point in metric.points]
    if points and all(metric.points for metric in metrics.values()):
        end = last(lens, points)
        hooks = [(point, function) for point, function in hooks if not is_after(lens, point, end)]
    with lens.hooks(hooks):
        return run(lens, at, metrics.values())


def _effects(ran: Run, metrics: Mapping[str, Readout], copies: int) -> dict[str, Float[Tensor, "b change *rest"]]:
    """Effects (b, intervention) by metric: each copy's value minus that of the first copy, which is unchanged."""
    velocities = [None] * copies if ran.velocity is None else ran.velocity.chunk(copies)
    caches = [{name: x.chunk(copies)[copy] for name, x in ran.cache.items()} for copy in range(copies)]
    effects = {}
    for name, metric in metrics.items():
        first, *edited = (metric(v, cache) for v, cache in zip(velocities, caches, strict=True))
        effects[name] = torch.stack([value - first for value in edited], dim=1).cpu()
    return effects


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _batches(
    interventions: Sequence[Intervention], size: int, clips: int, progress: bool
) -> Iterator[Sequence[Intervention]]:
    """Groups of interventions whose copies and the unchanged copy make a batch of about `size` clips."""
    together = max(1, size // clips - 1)
    starts = range(0, len(interventions), together)
    for start in tqdm(starts, desc="interventions", unit="batch", disable=not progress):
        yield interventions[start : start + together]
