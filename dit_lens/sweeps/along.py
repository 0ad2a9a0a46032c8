"""Changes along a trajectory: each acts at every step of a stretch while the path is walked anew, and is read behind.

A sweep at one step asks what an activation does to the readout of that very evaluation. Here a change acts earlier:
what it does to the readout came by way of the latent. Of each change there are two effects at the step of the readout:

- `end`: of a fresh evaluation without the change, on the latent that it left behind: what it wrote into x_sigma;
- `both`: with the change acting in that evaluation too.

While sampling, the way may end in the clip, whose latent metrics then read.

The way is taken up at the last cached latent that no change has touched, and earlier steps are not walked again.
Changes share a batch with an unchanged copy, so one that changes nothing has an effect of exactly zero. An edit is
worked out on the values of its own copy: where it takes activations from elsewhere, give it those of each step
(`edits.patch({step: source, ...})`). An implicit solver is the same in any batch as far as its tolerance goes.

Latents with a noise level of their own per frame (`continuation`, "continuation" in `capture.Route`) lie on no
trajectory, and no step names the evaluations that sample them: there is nothing to take up, and they cannot be given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens.hook_points import Hook, HookFunction
from dit_lens.inversion.resuming import resume
from dit_lens.inversion.walking import Walk
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation
from dit_lens.sweeps.changes import Change, Effects, begin, check, is_behind, last, run
from dit_lens.sweeps.stretches import Stretch, copies_at
from dit_lens.sweeps.suffix import affordable
from dit_lens.trajectory import Trajectory

Together = Change | Sequence[Change]  # several that are made at once, such as all writes of a block
ClipMetric = Callable[[Tensor], Tensor]  # of latents (b, c, f, h, w) at the step where the way ends: (b,) or (b, ...)
Hooks = list[tuple[str, HookFunction]]


@dataclass(frozen=True, eq=False)
class Along:
    """What changes along a stretch do to each metric at its end.

    Attributes:
        end: read without the changes.
        both: read with the changes.
    """

    end: Effects
    both: Effects


@torch.no_grad()
def sweep_along(
    lens: DiTLens,
    stretch: Stretch,
    changes: Sequence[Together],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Along:
    """The effect of each change along a stretch on each metric of an evaluation at its readout.

    Args:
        changes: each a change, or several that are made together.
        metrics, clean, batch_size, progress: as for `sweep`; metrics read the branch "cond" where there is guidance.

    Raises:
        ValueError, IndexError: see `Stretch.walk`. KeyError, TypeError, RuntimeError: see `changes.begin`.
    """
    walk, clips, entered = stretch.walk(), len(stretch.trajectory), lens.table.entering(0)
    at, flat = lens.evaluation(stretch.trajectory, stretch.readout), [c for group in changes for c in _parts(group)]
    start = begin(lens, at, flat, metrics, clean, entered)
    size = batch_size or affordable(lens, sum(start.cache[name].nbytes for name in entered) / clips)
    ended: list[dict[str, Tensor]] = []
    acted: list[dict[str, Tensor]] = []
    for chosen in _batches(changes, size, clips, progress):
        there, hooks = _walked(lens, stretch, walk, chosen)
        end = lens.evaluation(there, stretch.readout)
        ended.append(_effects(_read(lens, end, start.metrics, []), start.metrics, 1 + len(chosen)))
        acted.append(_effects(_read(lens, end, start.metrics, hooks), start.metrics, 1 + len(chosen)))
    before, goal = start.effects.before, start.effects.clean
    return Along(Effects(_joined(ended), before, goal), Effects(_joined(acted), before, goal))


@torch.no_grad()
def sweep_to_clip(
    lens: DiTLens,
    stretch: Stretch,
    changes: Sequence[Together],
    metrics: Mapping[str, ClipMetric],
    batch_size: int | None = None,
    progress: str | None = None,
) -> Effects:
    """The effect of each change along a stretch on the latent in which it ends, the clip where `readout` is 0.

    Args:
        changes, batch_size, progress: as for `sweep_along`.
        metrics: by name, such as `lambda x: (x - whole).flatten(1).norm(dim=1)`, or what a tracker says of
            `lens.family.decode(lens.vae, x)`.

    Returns:
        `before` is that of the unchanged path, as it is walked again from where changes begin.

    Raises:
        ValueError: no metrics. See also `sweep_along`.
    """
    check(lens, [one for change in changes for one in _parts(change)])
    if not metrics:
        raise ValueError("got no metrics · expected at least one, a function of latents by name")
    walk, clips = stretch.walk(), len(stretch.trajectory)
    entered = run(lens, lens.evaluation(stretch.trajectory, stretch.readout), [], lens.table.entering(0)).cache
    size = batch_size or affordable(lens, sum(stream.nbytes for stream in entered.values()) / clips)
    found: list[dict[str, Tensor]] = []
    before: dict[str, Tensor] = {}
    for chosen in _batches(changes, size, clips, progress):
        there, _ = _walked(lens, stretch, walk, chosen)
        latents = there.latent(stretch.readout).chunk(1 + len(chosen))
        values = {name: [metric(x).cpu() for x in latents] for name, metric in metrics.items()}
        before = {name: unchanged for name, (unchanged, *_) in values.items()}
        found.append({name: torch.stack([v - u for v in vs], dim=1) for name, (u, *vs) in values.items()})
    return Effects(_joined(found), before, {})


def _walked(lens: DiTLens, stretch: Stretch, walk: Walk, changes: Sequence[Together]) -> tuple[Trajectory, Hooks]:
    """Where the unchanged clips and a copy for each change arrive, and the hooks that change the copies."""
    path, copies = stretch.trajectory, 1 + len(changes)
    hooks = _by_copy(changes, len(path))
    start = path.latent(walk.order[0]).to(lens.model.members[0].device).repeat(copies, 1, 1, 1, 1)
    told = copies_at(path, walk.order[0], start, copies).told
    with lens.hooks(hooks, stretch.steps):
        *_, arrived = resume(lens, walk, start, told)
    return copies_at(path, stretch.readout, arrived.x, copies), hooks


def _by_copy(changes: Sequence[Together], clips: int) -> Hooks:
    """One function for each point: copy 1 + i takes the changes of item i that are of this point, in turn."""
    placed = [(copy, one) for copy, change in enumerate(changes, start=1) for one in _parts(change)]

    def at(point: str) -> HookFunction:
        own = [(copy, one.edit) for copy, one in placed if one.point == point]

        def change(x: Tensor, hook: Hook) -> Tensor:
            copies = list(x.split(clips))
            for copy, edit in own:
                new = edit(copies[copy], hook)
                copies[copy] = copies[copy] if new is None else new
            return torch.cat(copies)

        return change

    return [(point, at(point)) for point in dict.fromkeys(one.point for _, one in placed)]


def _read(lens: DiTLens, at: Evaluation, metrics: Mapping[str, Readout], hooks: Hooks) -> Run:
    """The run that metrics read, under those of the hooks that lie before what they read."""
    points = [point for metric in metrics.values() for point in metric.points]
    if points and all(metric.points for metric in metrics.values()):
        end = last(lens, points)
        hooks = [(point, function) for point, function in hooks if not is_behind(lens, point, end)]
    with lens.hooks(hooks):
        return run(lens, at, metrics.values())


def _effects(ran: Run, metrics: Mapping[str, Readout], copies: int) -> dict[str, Float[Tensor, "b change *rest"]]:
    """Of each metric, (b, change): every copy's value less that of the first, which is unchanged."""
    velocities = [None] * copies if ran.velocity is None else ran.velocity.chunk(copies)
    caches = [{name: x.chunk(copies)[copy] for name, x in ran.cache.items()} for copy in range(copies)]
    found = {}
    for name, metric in metrics.items():
        unchanged, *changed = (metric(v, cache) for v, cache in zip(velocities, caches, strict=True))
        found[name] = torch.stack([value - unchanged for value in changed], dim=1).cpu()
    return found


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _parts(change: Together) -> Sequence[Change]:
    return (change,) if isinstance(change, Change) else change


def _batches(changes: Sequence[Together], size: int, clips: int, progress: str | None) -> Iterator[Sequence[Together]]:
    """So many changes at a time that their copies and the unchanged one make a batch of about `size` clips."""
    together = max(1, size // clips - 1)
    starts = range(0, len(changes), together)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        yield changes[start : start + together]
