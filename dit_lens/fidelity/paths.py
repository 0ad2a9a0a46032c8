"""How far paths are apart: there and back, at half the step, and against a path that is known to be the sampler's own.

A round trip alone can be exact whatever the path (implicit Euler undoes Euler by construction). In the known-noise
test the path is known: the sampler walks from chosen noise to a clip, and the inversion of that clip, or of its decoded
and encoded video, must follow the same path back, in latents and in what the model makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens.conditioning import Conditions
from dit_lens.flow import Solver
from dit_lens.inversion import Lens, Steps, decode, encode, evaluation, invert, sample
from dit_lens.probing import Probe
from dit_lens.running import Request
from dit_lens.trajectory import Trajectory
from dit_lens.video import to_frames

STARTS = ("sampled latent", "encoded video")


@dataclass(frozen=True)
class Watch:
    """What the known-noise test compares beside latents.

    Attributes:
        steps: where the model is looked into; all unless given.
        heads: (block, head), whose self-attention patterns are compared.
        probe: whose logits are compared.
    """

    steps: Sequence[int] | None = None
    heads: Sequence[tuple[int, int]] = ()
    probe: Probe | None = None


NOTHING_BUT_LATENTS = Watch(steps=())


def relative_error(path: Float[Tensor, "... b c f h w"], true: Float[Tensor, "... b c f h w"]) -> Float[Tensor, "..."]:
    """|path - true| / |true| of each clip (at each step)."""
    return (path - true).flatten(-4).norm(dim=-1) / true.flatten(-4).norm(dim=-1)


def round_trip(lens: Lens, trajectory: Trajectory, progress: bool = False) -> tuple[xr.DataArray, Trajectory]:
    """The relative error (step, clip) of the sampler's path back from a trajectory's noise, and that path."""
    back = sample(lens, trajectory, progress=progress and "and back")
    return _by_step(relative_error(back.latents, trajectory.latents), trajectory), back


def convergence(lens: Lens, trajectory: Trajectory, progress: bool = False) -> xr.DataArray:
    """The relative distance (step, clip) of an inversion from one with every step halved: what the grid decides."""
    assert trajectory.solver is not None
    fine = invert(
        lens,
        trajectory.latent(0),
        trajectory.schedule.refined(),
        trajectory.solver,
        progress=progress and "half the step",
        prompt=trajectory.conditioning,
        guidance=trajectory.guidance,
    )
    return _by_step(relative_error(trajectory.latents, fine.latents[::2]), trajectory)


def known_noise(
    lens: Lens,
    noise: Float[Tensor, "b c f h w"],
    steps: Steps,
    solver: str | Solver = "heun",
    watch: Watch = NOTHING_BUT_LATENTS,
    conditions: Conditions | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """How far inversion strays from the sampler's own path, beside how far two clips' paths are apart.

    Args:
        noise: of at least two clips.
        steps: see `inversion.invert`.
        solver: the inversion's; the path is that of the sampler it inverts.
        conditions: prompt and guidance, of one clip or as many; the lens's own conditioning unless given.
        progress: bars, one for each path.

    Returns:
        `error` (start, measure, step, clip) from `STARTS`, and `between` (measure, step, clip): the same measure from
        each clip's true path to the next clip's. Measures: "latent" and "resid_post B" (relative errors), "pattern B.H"
        (total variation, 0 to 1) and "logit" (absolute). NaN at steps that are not watched.

    Raises:
        ValueError: fewer than two clips.
    """
    if len(noise) < 2:
        raise ValueError(f"got noise for {len(noise)} clip · expected two or more, to compare errors with")
    solver, conditions = Solver.of(solver), conditions or Conditions(lens.conditioning)
    asked: Any = {
        "prompt": conditions.conditioning,
        "guidance": conditions.guidance,
        "progress": progress and "known noise",
    }
    true = sample(lens, noise, solver.sampler, steps, **asked)
    decoded = to_frames(decode(lens, true))
    starts = (true.latent(0), encode(lens, decoded.copy()))
    paths = [invert(lens, start, true.schedule, solver, **asked) for start in starts]
    watched = range(len(true.schedule) + 1) if watch.steps is None else watch.steps
    cells: list[xr.Dataset] = []
    for step in tqdm(range(len(true.schedule) + 1), desc="activations along both paths", disable=not progress):
        values = [states(lens, path, step, watch if step in watched else None) for path in (true, *paths)]
        reference, *inverted = values
        neighbours = {name: value.roll(1, 0) for name, value in reference.items()}
        errors = xr.concat([_distances(path, reference) for path in inverted], xr.Variable("start", list(STARTS)))
        cells.append(xr.Dataset({"error": errors, "between": _distances(neighbours, reference)}))
    coords = {"step": range(len(cells)), "sigma": ("step", list(true.schedule.sigmas))}
    measures = max((cell.measure.values for cell in cells), key=len)
    joined: Any = xr.concat([cell.reindex(measure=measures) for cell in cells], "step")
    return joined.assign_coords(coords)


@torch.no_grad()
def states(lens: Lens, trajectory: Trajectory, step: int, watch: Watch | None) -> Mapping[str, Tensor]:
    """The latent at a step and, where the model is watched, its activations there, by the name of the measure."""
    values = {"latent": trajectory.latent(step)}
    if watch is None:
        return values
    depth, probe = len(lens.model.table.blocks), watch.probe
    streams = {f"resid_post {block}": f"blocks.{block}.hook_resid_post" for block in range(depth)}
    patterns = {f"pattern {block}.{head}": (f"blocks.{block}.attn.hook_pattern", head) for block, head in watch.heads}
    points = {*streams.values(), *(point for point, _ in patterns.values()), *((probe.reads.point,) if probe else ())}
    _, kept = lens.model.run(evaluation(lens, trajectory, step), Request(sorted(points)))
    values |= {name: kept[point] for name, point in streams.items()}
    values |= {name: kept[point][:, head] for name, (point, head) in patterns.items()}
    return values if probe is None else values | {"logit": probe.of_activation(kept[probe.reads.point])}


def _distances(states: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> xr.DataArray:
    """Between two runs, (measure, clip)."""
    rows = [_distance(name, states[name].float(), true[name].float()) for name in true]
    return xr.DataArray(torch.stack(rows).cpu().numpy(), dims=("measure", "clip"), coords={"measure": list(true)})


def _distance(measure: str, x: Tensor, true: Tensor) -> Float[Tensor, " b"]:
    if measure == "logit":
        return (x - true).abs()
    if measure.startswith("pattern"):
        return 0.5 * (x - true).abs().sum(-1).flatten(1).mean(1)
    return (x - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)


def _by_step(error: Float[Tensor, "s b"], trajectory: Trajectory) -> xr.DataArray:
    levels = list(trajectory.schedule.sigmas[: len(error)])
    return xr.DataArray(
        error.cpu().numpy(),
        dims=("step", "clip"),
        coords={"step": range(len(error)), "sigma": ("step", levels), "clip": list(trajectory.clip_ids)},
    )
