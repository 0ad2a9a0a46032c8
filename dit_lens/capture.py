"""Capture: pooled activations of many clips along their trajectories, reduced where they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from tqdm import tqdm

from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Clip, Quadruplet, clip_ids
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, count, some
from dit_lens.trajectory import Trajectory

PATHS = ("inversion", "noising", "continuation")
CROSSINGS = ("pixels", "latent")
POOLINGS = ("tokens", "frames")
Latents = Float[torch.Tensor, "b c f h w"]
Encoder = Callable[[Sequence[Clip]], Latents]


@dataclass(frozen=True)
class Route:
    """How clips get from data to noise.

    Attributes:
        path: "inversion" of the sampler; "noising", the straight path to random noise (the baseline); or
            "continuation", noising of the second half alone while the first is given clean (timestep 0).
        levels: steps of the sampler between data and noise.
        solver: see `flow.SOLVERS`.
        seed: of the noise that "noising" adds; it belongs to a half of A or B and is spliced with it.
        crossing: see `encode`.
    """

    path: Literal["inversion", "noising", "continuation"] = "inversion"
    levels: int = 20
    solver: str = "euler"
    seed: int = 0
    crossing: Literal["pixels", "latent"] = "pixels"


def role_major(quadruplets: Sequence[Quadruplet]) -> list[Clip]:
    """The clips ordered A A A ... B B B ... C C C ... D D D ..."""
    return [quadruplet.clips[role] for role in range(len(ROLES)) for quadruplet in quadruplets]


def travel(lens: DiTLens, quadruplets: Sequence[Quadruplet], route: Route, until: int | None = None) -> Trajectory:
    """The trajectory of all clips of the quadruplets, role by role (see `role_major`).

    Raises:
        ValueError: a path on which frames do not share their noise level, or an unknown one.
    """
    check_choice(route.path, PATHS[:2], "path of one noise level for all frames")
    latents = encode(lens.encode, quadruplets, route.crossing)
    if route.path == "inversion":
        trajectory = lens.invert(latents, steps=route.levels, solver=route.solver, until=until)
    else:
        trajectory = lens.noising(latents, spliced_noise(latents, quadruplets, route.seed), steps=route.levels)
    return replace(trajectory, clip_ids=clip_ids(role_major(quadruplets)))


def encode(encoder: Encoder, quadruplets: Sequence[Quadruplet], crossing: str = "pixels") -> Latents:
    """Role-major latents of the quadruplets.

    Args:
        encoder: clips -> latents, such as `lens.encode`.
        crossing: "pixels" encodes C and D like any clip; "latent" splices them from the latents of A and B, so that
            the balance is exact also for an autoencoder that mixes frames. Quadruplets that are matched only, not
            crossed, are encoded in either case.

    Raises:
        ValueError: unknown crossing.
    """
    latents = encoder(role_major(quadruplets))
    if check_choice(crossing, CROSSINGS, "crossing") == "pixels":
        return latents
    a, b, c, d = latents.unflatten(0, (len(ROLES), len(quadruplets)))
    crossed = [i for i, quadruplet in enumerate(quadruplets) if quadruplet.crossed]
    for i in crossed:
        c[i], d[i] = cross(a[i], b[i], quadruplets[i])
    return torch.cat([a, b, c, d])


def cross(
    a: Float[torch.Tensor, "c f h w"], b: Float[torch.Tensor, "c f h w"], quadruplet: Quadruplet
) -> tuple[Float[torch.Tensor, "c f h w"], Float[torch.Tensor, "c f h w"]]:
    """First half of a with second of b, and first of b with second of a, cut at the latent frame of the splice."""
    cut = latent_splice(a, quadruplet)
    return torch.cat([a[:, :cut], b[:, cut:]], dim=1), torch.cat([b[:, :cut], a[:, cut:]], dim=1)


def latent_splice(latent: Float[torch.Tensor, "*b c f h w"], quadruplet: Quadruplet) -> int:
    """The latent frame at which the second half begins."""
    compression = (len(quadruplet.a.frames) - 1) // (latent.shape[-3] - 1)
    return 1 + (quadruplet.splice - 1) // compression


def partly_noised(lens: DiTLens, clean: Latents, noise: Latents, sigma: float, given: int) -> dict[str, Any]:
    """`latent` and `timestep` with all frames at `sigma` but the first `given`, which are clean and told to be.

    The timestep is that of each token, (b, n), where frames are given, and one for all otherwise.

    Raises:
        ValueError: frames are given to a model whose latents are scaled by their level.
    """
    levels = torch.where(torch.arange(clean.shape[2]) < given, 0.0, sigma).to(clean)[:, None, None]
    latent, time = (1 - levels) * clean + levels * noise, torch.tensor(lens.family.to_timestep(sigma))
    if given and hasattr(lens.family, "as_fed"):
        raise ValueError(
            f"got {given} frames given clean to {lens.name} · expected a model that takes a noise level per token"
            f" ({lens.family.NAME} scales the whole latent by its level) · give none"
        )
    if given:
        grid = lens.model.grid(lens.model.evaluation(latent, time, lens.conditioning))
        time = torch.where(grid.mask(frame=slice(given)), lens.family.to_timestep(0.0), time).expand(len(clean), -1)
    return {"latent": latent if given else lens.as_fed(latent, float(time)), "timestep": time}


def spliced_noise(latents: Latents, quadruplets: Sequence[Quadruplet], seed: int) -> Latents:
    """Gaussian noise for role-major latents: own noise for A and B, theirs by halves for C and D.

    Noise of a quadruplet depends on its id and the seed alone.
    """
    noise = []
    for quadruplet in quadruplets:
        words = np.frombuffer(quadruplet.id.encode(), dtype=np.uint8).tolist()
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *words]).generate_state(1)[0]))
        a, b = torch.randn((2, *latents.shape[1:]), generator=generator)
        noise.append(torch.stack([a, b, *cross(a, b, quadruplet)]))
    return torch.stack(noise, dim=1).flatten(0, 1).to(latents)


def batches(quadruplets: Sequence[Quadruplet], size: int, progress: str | None = None) -> Iterator[list[Quadruplet]]:
    """Consecutive groups of at most `size` quadruplets, with a progress bar where it is given a name."""
    starts = range(0, len(quadruplets), size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        yield list(quadruplets[start : start + size])


@torch.no_grad()
def capture_pooled(
    lens: DiTLens,
    quadruplets: Sequence[Quadruplet],
    steps: Sequence[int],
    route: Route,
    point: str = "resid_post",
    pooling: Literal["tokens", "frames"] = "tokens",
    batch_size: int = 8,
    progress: str | None = None,
) -> xr.Dataset:
    """Token means of a point of every block, and the latent each evaluation was fed.

    Args:
        steps: at which steps of the route.
        point: the short name of a point of the block itself, such as "resid_post" or "attn_out".
        pooling: mean over all "tokens", or over those of each latent frame, side by side ("frames").
        batch_size: quadruplets to a batch.

    Returns:
        `activation` (quadruplet, role, step, block, feature), whose attribute `parts` counts the means side by side,
        and `latent` (quadruplet, role, step, value), with `possible` (quadruplet, role), `property` and group ids as
        coordinates.
    """
    check_choice(pooling, POOLINGS, "pooling")
    pooled, latents, parts = [], [], 1
    for batch in batches(quadruplets, batch_size, progress):
        fed = _fed(lens, batch, steps, route)
        parts = _frames(lens, fed[0]) if pooling == "frames" else 1
        seen = torch.stack([_pooled(lens, at, point, parts) for at in fed])
        pooled.append(seen.unflatten(1, (len(ROLES), len(batch))).permute(2, 1, 0, 3, 4))
        values = torch.stack([at["latent"] for at in fed]).flatten(2)
        latents.append(values.unflatten(1, (len(ROLES), len(batch))).permute(2, 1, 0, 3))
    schedule = lens.schedule(route.levels)
    return xr.Dataset(
        {
            "activation": (
                ("quadruplet", "role", "step", "block", "feature"),
                torch.cat(pooled).float().cpu().numpy(),
                {"parts": parts},
            ),
            "latent": (("quadruplet", "role", "step", "value"), torch.cat(latents).float().cpu().numpy()),
        },
        coords={
            "quadruplet": [q.id for q in quadruplets],
            "property": ("quadruplet", [q.property for q in quadruplets]),
            "role": list(ROLES),
            "possible": (("quadruplet", "role"), [[clip.possible for clip in q.clips] for q in quadruplets]),
            "step": list(steps),
            "sigma": ("step", [schedule.sigmas[step] for step in steps]),
            "timestep": ("step", [schedule.timesteps[step] for step in steps]),
            "block": range(lens.blocks),
        },
    )


@torch.no_grad()
def evaluations(
    lens: DiTLens, quadruplets: Sequence[Quadruplet], steps: Sequence[int], route: Route
) -> dict[int, Evaluation]:
    """The evaluation of all clips of the quadruplets, role by role (see `role_major`), at each step of a route."""
    sigmas, told = lens.schedule(route.levels).sigmas, lens.conditioning
    fed = zip(steps, _fed(lens, quadruplets, steps, route), strict=True)
    return {step: lens.model.evaluation(**at, conditioning=told, step=step, sigma=sigmas[step]) for step, at in fed}


def of_role(evaluation: Evaluation, role: str) -> Evaluation:
    """The clips of one role, "A" to "D", of an evaluation that was made role by role."""
    size = count(evaluation) // len(ROLES)
    start = ROLES.index(check_choice(role, ROLES, "role")) * size
    return some(evaluation, slice(start, start + size))


def _fed(lens: DiTLens, batch: Sequence[Quadruplet], steps: Sequence[int], route: Route) -> list[dict[str, Any]]:
    """What the transformer is fed at each step of the route, role by role: `latent` and `timestep`."""
    schedule = lens.schedule(route.levels)
    if check_choice(route.path, PATHS, "path") == "continuation":
        clean = encode(lens.encode, batch, route.crossing)
        noise, cut = spliced_noise(clean, batch, route.seed), latent_splice(clean, batch[0])
        sigmas = [schedule.sigmas[schedule.check_step(step)] for step in steps]
        return [partly_noised(lens, clean, noise, sigma, cut) for sigma in sigmas]
    trajectory = travel(lens, batch, route, until=max(steps))
    told = [(trajectory.latent(step), schedule.timesteps[step]) for step in steps]
    return [{"latent": lens.as_fed(x, time), "timestep": torch.tensor(time)} for x, time in told]


def _frames(lens: DiTLens, fed: dict[str, Any]) -> int:
    """The number of latent frames as the transformer has them."""
    return lens.model.grid(lens.model.evaluation(**fed, conditioning=lens.conditioning)).frames


def _pooled(lens: DiTLens, fed: dict[str, Any], point: str, parts: int) -> Float[torch.Tensor, "b l feature"]:
    """A point of every block in one evaluation, its tokens averaged where it is made, all or in so many parts."""

    def mean(x: torch.Tensor) -> torch.Tensor:
        return reduce(x, "b (f n) d -> b (f d)", "mean", f=parts)

    _, cache = lens.run_with_cache(**fed, names_filter=f"blocks.*.hook_{point}", reduce=mean)
    return torch.stack([cache[point, block] for block in range(lens.blocks)], dim=1)
