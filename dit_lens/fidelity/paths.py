"""How far paths are apart: there and back, at half the step, and against a path that is known to be the sampler's own.

A round trip alone can be exact whatever the path (implicit Euler undoes Euler by construction). In the known-noise
test the path is known: the sampler walks from chosen noise to a clip, and the inversion of that clip, or of its decoded
and encoded video, must walk the same path back, in latents and in what the model makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens.conditioning import Told
from dit_lens.flow import Solver
from dit_lens.inversion import Inversion, Steps
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


def round_trip(lens: Inversion, trajectory: Trajectory) -> tuple[xr.DataArray, Trajectory]:
    """The relative error (step, clip) of the sampler's path back from a trajectory's noise, and that path."""
    back = lens.sample(trajectory)
    return _by_step(relative_error(back.latents, trajectory.latents), trajectory), back


def convergence(lens: Inversion, trajectory: Trajectory) -> xr.DataArray:
    """The relative distance (step, clip) of an inversion from one with every step halved: what the grid decides."""
    assert trajectory.solver is not None
    fine = lens.invert(
        trajectory.latent(0),
        trajectory.schedule.refined(),
        trajectory.solver,
        prompt=trajectory.conditioning,
        guidance=trajectory.guidance,
    )
    return _by_step(relative_error(trajectory.latents, fine.latents[::2]), trajectory)


def known_noise(
    lens: Inversion,
    noise: Float[Tensor, "b c f h w"],
    steps: Steps,
    solver: str | Solver = "heun",
    watch: Watch = NOTHING_BUT_LATENTS,
    told: Told | None = None,
) -> xr.Dataset:
    """How far inversion strays from the sampler's own path, beside how far two clips' paths are apart.

    Args:
        noise: of at least two clips.
        steps: see `Inversion.invert`.
        solver: the inversion's; the path is that of the sampler it inverts.
        told: prompt and guidance, of one clip or as many; the lens's own conditioning unless given.

    Returns:
        `error` (start, measure, step, clip) from `STARTS`, and `between` (measure, step, clip): the same measure from
        each clip's true path to the next clip's. Measures: "latent" and "resid_post B" (relative errors), "pattern B.H"
        (total variation, 0 to 1) and "logit" (absolute). NaN at steps that are not watched.

    Raises:
        ValueError: fewer than two clips.
    """
    if len(noise) < 2:
        raise ValueError(f"got noise for {len(noise)} clip · expected two or more, to compare errors with")
    solver, told = Solver.of(solver), told or Told(lens.conditioning)
    prompt: Any = {"prompt": told.conditioning, "guidance": told.guidance}
    true = lens.sample(noise, solver.sampler, steps, **prompt)
    decoded = to_frames(lens.decode(true))
    starts = (true.latent(0), lens.encode(decoded.copy()))
    paths = [lens.invert(start, true.schedule, solver, **prompt) for start in starts]
    watched = range(len(true.schedule) + 1) if watch.steps is None else watch.steps
    cells: list[xr.Dataset] = []
    for step in range(len(true.schedule) + 1):
        seen = [states(lens, path, step, watch if step in watched else None) for path in (true, *paths)]
        own, *others = seen
        neighbours = {name: value.roll(1, 0) for name, value in own.items()}
        errors = xr.concat([_distances(other, own) for other in others], xr.Variable("start", list(STARTS)))
        cells.append(xr.Dataset({"error": errors, "between": _distances(neighbours, own)}))
    steps_told = {"step": range(len(cells)), "sigma": ("step", list(true.schedule.sigmas))}
    measures = max((cell.measure.values for cell in cells), key=len)
    joined: Any = xr.concat([cell.reindex(measure=measures) for cell in cells], "step")
    return joined.assign_coords(steps_told)


@torch.no_grad()
def states(lens: Inversion, trajectory: Trajectory, step: int, watch: Watch | None) -> Mapping[str, Tensor]:
    """The latent at a step and, where the model is watched, what it makes of it, by the name of the measure."""
    found = {"latent": trajectory.latent(step)}
    if watch is None:
        return found
    blocks, probe = lens.model.table.blocks, watch.probe
    streams = {f"resid_post {index}": f"{block}.hook_resid_post" for index, block in enumerate(blocks)}
    patterns = {f"pattern {b}.{head}": (f"{blocks[b]}.attn.hook_pattern", head) for b, head in watch.heads}
    points = {*streams.values(), *(point for point, _ in patterns.values()), *((probe.reads.point,) if probe else ())}
    _, kept = lens.model.run(lens.evaluation(trajectory, step), Request(sorted(points)))
    found |= {name: kept[point] for name, point in streams.items()}
    found |= {name: kept[point][:, head] for name, (point, head) in patterns.items()}
    return found if probe is None else found | {"logit": probe.of_activation(kept[probe.reads.point])}


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
