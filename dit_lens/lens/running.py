"""Running a lens: with a cache, with hooks, or inside nnsight's trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.arguments import integer
from dit_lens.cache import ActivationCache, CacheCost, clock
from dit_lens.hook_points import Hook, HookFunction, NamesFilter
from dit_lens.lens.requests import At, Keep, evaluations_of, kept_by, place_of
from dit_lens.running import Evaluation, Reduce, Where, reduction
from dit_lens.running.restarting import restart
from dit_lens.trajectory import Trajectory

if TYPE_CHECKING:
    from dit_lens.lens import DiTLens


def run_with_cache(
    lens: DiTLens,
    trajectory: Trajectory | Evaluation | None = None,
    step: int | None = None,
    *,
    at: At | int | None = None,
    keep: Keep | NamesFilter | None = None,
    start_at: int | None = None,
    entering: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor | None, ActivationCache]:
    """Velocity and activations of one evaluation at (x_i, sigma_i), or of several with a leading step axis.

    Args:
        trajectory: evaluated at a place; or a ready `lens.evaluation(...)`; or none, with `latent=`, `timestep=` and
            maybe the transformer's conditioning by its names (`encoder_hidden_states=`).
        step: counted from data; short for `at=At(step)`.
        at: the place: a step, or `At` with one of `step`, `sigma` (the nearest level) and `steps`, and the guidance
            branch. Or these as keywords: `sigma=`, `steps=`, `branch=`.
        keep: hook points, or `Keep` with a reduction, a region of tokens, a device, a dtype, a point to stop at. Or
            these as keywords: `names_filter=`, `reduce=`, `tokens=`, `device=`, `dtype=`, `stop_at=`.
        start_at: a block, counted from the end if negative. It gets the streams in `entering`, and earlier blocks
            are skipped. Hooks act from there on; activations of earlier blocks are not kept.
        entering: values of `table.entering(start_at)`, such as a cache of the same evaluation, changed or not.
        **options: the keywords above, or inputs instead of a trajectory.

    Raises:
        KeyError: unknown hook point, or a missing stream. IndexError: unknown step or block.
        TypeError: neither trajectory nor latent; or `start_at` without `entering`, or with `steps`; unknown keywords.
        ValueError: a hook, or all that is to be kept, lies in blocks that are skipped; or a branch that the path
            does not have.
    """
    place, kept = place_of(at, step, options), kept_by(keep, options)
    request, several = kept.request, place.steps
    evaluations = evaluations_of(lens, trajectory, place, options)
    if start_at is None and entering is None:
        runs = [lens.model.run(evaluation, request) for evaluation in evaluations]
    elif several is not None:
        raise TypeError("got start_at= with steps= · expected a single step=, whose streams are given")
    else:
        runs = [restart(lens.model, evaluations[0], start_at, entering, request)]
    velocities, caches = zip(*runs, strict=True)
    grid = lens.model.grid(evaluations[0])
    anatomy = lens.model.anatomy(*(evaluation.expert for evaluation in evaluations))
    axes = {} if kept.reduce or kept.tokens else {name: lens.table.points[name].axes for name in caches[0]}
    if several is None:
        return velocities[0], ActivationCache(caches[0], grid, lens.blocks, None, axes, anatomy)
    tensors = {name: torch.stack([cache[name] for cache in caches]) for name in caches[0]}
    velocity = None if kept.stop_at else torch.stack(velocities)
    return velocity, ActivationCache(tensors, grid, lens.blocks, tuple(several), axes, anatomy)  # type: ignore[arg-type]


def run_with_hooks(
    lens: DiTLens,
    trajectory: Trajectory | Evaluation | None = None,
    step: int | None = None,
    *,
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
    at: At | int | None = None,
    **options: Any,
) -> Tensor:
    """The velocity of one evaluation with hooks; see `run_with_cache` and `hooks` for the arguments."""
    (evaluation,) = evaluations_of(lens, trajectory, place_of(at, step, options), options)
    with hooks(lens, fwd_hooks):
        return lens.model.velocity(evaluation)


@contextmanager
def hooks(
    lens: DiTLens,
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
    steps: Iterable[int] | int | None = None,
    branches: Iterable[str] | None = None,
    experts: Iterable[str] | None = None,
) -> Iterator[DiTLens]:
    """Hooks on every evaluation inside the block: run, invert, sample, and calls of the user's own pipeline.

    Nested contexts add up, outer first. They act on their own thread or asyncio task, and on tasks that it starts.
    They do not act inside `trace`, which is nnsight's own. Where a pipeline evaluates several guidance branches in
    one batch, a function is called for each branch separately.

    Args:
        fwd_hooks: (name, glob, list or predicate; function (tensor, hook) -> tensor or None).
        steps: only at these steps, counted from data; everywhere unless given.
        branches: only in these guidance branches of a pipeline's calls, as it names them ("cond", "uncond").
        experts: only in these experts ("high_noise", "low_noise").

    Raises:
        KeyError: unknown hook point. TypeError: writing a point that can only be read. ValueError: no such expert.
        RuntimeError: a hook never fired.
    """
    with lens.model.hooks(fwd_hooks, Where.of(steps, branches, experts), lens.parts.pipeline):
        yield lens


def trace(
    lens: DiTLens,
    trajectory: Trajectory | Evaluation | None = None,
    step: int | None = None,
    *,
    at: At | int | None = None,
    **options: Any,
) -> Any:
    """The nnsight tracer over one evaluation; its `with` body starts on a line of its own.

    Modules must be touched in forward order: `h = lens.block(3).output.save()`. Arguments as for `run_with_cache`.
    """
    (evaluation,) = evaluations_of(lens, trajectory, place_of(at, step, options), options)
    return lens.model.of(evaluation).traced.trace(evaluation.inputs)


@torch.no_grad()
def estimate(
    lens: DiTLens,
    latent: Float[Tensor, "b c f h w"],
    names_filter: NamesFilter = "*",
    steps: int = 1,
    reduce: Reduce | None = None,
    **conditioning: Tensor,
) -> CacheCost:
    """Bytes and seconds that a cache will take, from one timed evaluation of the first clip.

    Args:
        latent: what will be run, of all clips.
        names_filter, reduce: as for `run_with_cache`.
        steps: how many.
        **conditioning: the transformer's conditioning by its names; the lens's own unless given.
    """
    sizes: dict[str, tuple[int, int]] = {}
    reduced = reduction(reduce)

    def measure(x: Tensor, hook: Hook) -> None:
        sizes[hook.name] = x.nbytes, reduced(x, hook).nbytes

    time = torch.as_tensor(lens.family.to_timestep(lens.model.middle))
    latent, steps = lens.encode(latent), integer(steps, "steps", 1)
    first = {name: tensor[:1] for name, tensor in conditioning.items()}
    (evaluation,) = evaluations_of(lens, None, At(), {"latent": latent[:1], "timestep": time, **first})
    with hooks(lens, [(names_filter, measure)]):
        start = clock(latent.device)
        lens.model.velocity(evaluation)
        seconds = clock(latent.device) - start
    return CacheCost(sizes, seconds, len(latent), steps, reduce is not None)
