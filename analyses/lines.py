"""What attributions over whole clips share: lines to the clips of a quadruplet, and what of them follows the label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from analyses.frozen_probe import Options, interval, route
from dit_lens.attribution import LATENT, Line, integrate
from dit_lens.capture import evaluations, latent_splice, partly_noised, spliced_noise, travel
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request

PAIRS = ("AC", "BD", "AD", "BC")  # possible, impossible; the first two share the first half
SHOWN = "AC"
Logit = Callable[[Tensor], Tensor]
Clips = Mapping[str, Float[Tensor, "q c f h w"]]


@dataclass(frozen=True, eq=False)
class Lines:
    """Integrated gradients of some quadruplets, summed over channels.

    Attributes:
        odd: what follows the label.
        shown: of the possible clip of the pair that is shown, less that of the impossible one.
        delta: of every line.
    """

    odd: Float[Tensor, "q f h w"]
    shown: Float[Tensor, "q f h w"]
    delta: Float[Tensor, "line q"]


def from_partners(logit: Logit, clips: Clips, line: Line) -> Lines:
    """From each impossible clip to both possible ones that share a half with it; the label-odd part is their mean."""
    told = [integrate(logit, clips[pair[1]], clips[pair[0]], line) for pair in PAIRS]
    maps = [_over_channels(values) for values, _, _ in told]
    return Lines(torch.stack(maps).mean(0), maps[PAIRS.index(SHOWN)], _deltas(told))


def from_baselines(logit: Logit, clips: Clips, starts: Clips, line: Line) -> Lines:
    """From a baseline to each clip; the label-odd part is (A + B - C - D) / 2, the mean over the same four pairs."""
    told = {role: integrate(logit, starts[role], clips[role], line) for role in ROLES}
    maps = {role: _over_channels(values) for role, (values, _, _) in told.items()}
    odd = (maps["A"] + maps["B"] - maps["C"] - maps["D"]) / 2
    return Lines(odd, maps[SHOWN[0]] - maps[SHOWN[1]], _deltas(list(told.values())))


def tabulate(lines: Mapping[str, Lines]) -> xr.Dataset:
    """`odd` and `heat`, of the pair that is shown, (baseline, quadruplet, frame, row, column), and all deltas."""
    place = ("baseline", "quadruplet", "frame", "row", "column")
    odd, heat, delta = (
        torch.stack([getattr(one, name) for one in lines.values()]).cpu().numpy() for name in ("odd", "shown", "delta")
    )
    told = {"odd": (place, odd), "heat": (place, heat), "delta": (("baseline", "line", "quadruplet"), delta)}
    return xr.Dataset(told, coords={"baseline": list(lines)})


@torch.no_grad()
def with_noise_alone(lens: DiTLens, config: Options, batch: Sequence[Quadruplet]) -> tuple[Evaluation, Evaluation]:
    """The clips at the step, role by role, and what they would be with a clean part of zeros and the same noise."""
    given = 0
    if config.path == "inversion":
        trajectory = travel(lens, batch, route(config))
        clips = lens.evaluation(trajectory, config.step)
        noise = trajectory.latents[-1] / trajectory.schedule.sigmas[len(trajectory.latents) - 1]
    else:
        (clips,) = evaluations(lens, batch, config.steps, route(config)).values()
        latents = torch.cat(list(latents_by_role(lens, clips).values()))
        noise = spliced_noise(latents, batch, config.seed)
        given = latent_splice(latents, batch[0]) if config.path == "continuation" else 0
    none = partly_noised(lens, torch.zeros_like(noise), noise, clips.sigma, given)
    told = {"conditioning": lens.conditioning, "step": config.step, "sigma": clips.sigma}
    return clips, lens.model.evaluation(**none, **told)


@torch.no_grad()
def latents_by_role(lens: DiTLens, evaluation: Evaluation) -> Mapping[str, Tensor]:
    """What the model is fed, by role."""
    _, cache = lens.model.run(evaluation, Request(LATENT, stop_at=LATENT))
    return dict(zip(ROLES, cache[LATENT].chunk(len(ROLES)), strict=True))


def best_told(told: xr.Dataset, test: Sequence[Quadruplet], count: int) -> list[int]:
    """The scenes to draw: of each property that whose shown pair the logit tells best, of these the best."""
    logit = told.logit.sel(role=list(SHOWN))
    order = [int(i) for i in np.argsort(-(logit[:, 0] - logit[:, 1]).values)]
    best = {test[i].property: i for i in reversed(order)}.values()
    return sorted(best, key=order.index)[:count]


def drawn(told: xr.Dataset, test: Sequence[Quadruplet], frames: Sequence[int], count: int) -> xr.Dataset:
    """Maps of the pairs to draw, `pixels` of the clips at the frames of the maps, and where the clips `agree`.

    Args:
        told: with `heat`, `logit`, `agree` (quadruplet, frame) and `splice`.
        frames: of the clips, one for each frame of the maps.
    """
    chosen = best_told(told, test, count)
    clips = [[test[i].clips[ROLES.index(role)].frames[list(frames)] for role in SHOWN] for i in chosen]
    maps = told[["heat", "agree"]].isel(quadruplet=chosen).drop_vars(["quadruplet", "property", "splice"])
    pixels = ("shown", "side", "frame", "row_drawn", "column_drawn", "rgb")
    return maps.rename(quadruplet="shown", agree="shown_agree").assign(
        pixels=(pixels, np.array(clips)), cut=("shown", told.splice.values[chosen])
    ).assign_coords(shown=[f"{test[i].property}: {test[i].event}" for i in chosen])  # fmt: skip


def by_frame(result: xr.Dataset) -> xr.DataArray:
    """Label-odd attribution of each frame in probe SDs."""
    return result.by_frame / result.probe_spread


def logit_contrast(logit: xr.DataArray, spread: xr.DataArray) -> str:
    """(A + B - C - D) / 2 of logits (quadruplet, role) in probe SDs, with its interval."""
    a, b, c, d = (logit.sel(role=role).values for role in ROLES)
    odd = (a + b - c - d) / 2 / float(spread)
    return interval(odd, np.ones_like(odd))


def line_of(here: xr.Dataset, name: str) -> str:
    """One line of a table: label-odd attribution in all, before the splice and behind it, and the largest delta."""
    frames = by_frame(here).transpose("quadruplet", "frame")
    before = np.arange(frames.sizes["frame"]) < here.splice.values[:, None]
    parts = [frames.values.sum(1), (frames.values * before).sum(1), (frames.values * ~before).sum(1)]
    told = "   ".join(interval(part, np.ones_like(part)) for part in parts)
    return f"  {name:16s}  {told}   largest delta {float(here.delta.max()):.1g}"


def _over_channels(values: Float[Tensor, "q c f h w"]) -> Float[Tensor, "q f h w"]:
    return reduce(values, "q c f h w -> q f h w", "sum")


def _deltas(told: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, "line q"]:
    return torch.stack([delta for _, _, delta in told])
