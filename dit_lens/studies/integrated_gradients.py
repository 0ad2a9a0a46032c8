"""Integrated gradients over whole clips: lines to the clips of a scene, and the label effect of attributions.

A line begins at a baseline and ends at a clip. All other inputs (time, conditioning, which frames are
given clean) are those of the clip at its end, so that its sum is the change of that clip's logit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.attribution import LATENT, Integral, between, integrate
from dit_lens.capture import (
    batches,
    begins_alike,
    clean_frames,
    conditioning_of,
    evaluations,
    latent_frame,
    of_role,
    partly_noised,
    spliced_noise,
    trajectory_of,
)
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.attributed_frames import SHOWN
from dit_lens.measures.labels import SIGNS
from dit_lens.probing import Probe
from dit_lens.running import Evaluation, Request
from dit_lens.studies.paths import path_of
from dit_lens.studies.study import Study

PARTNERS = ("AC", "BD")  # possible, impossible
CROSSINGS = ("AD", "BC")  # the pairs of a crossed scene that share the other frames
ROWS = 256  # values on lines to a forward, of the bundled models
Logit = Callable[[Tensor], Tensor]
Logits = Mapping[str, Logit]
Values = Mapping[str, Float[Tensor, "b c f h w"]]


@dataclass(frozen=True, eq=False)
class SceneGradients:
    """Integrated gradients of the clips of some scenes, summed over channels.

    Attributes:
        label_effect: what follows the label, the mean over the pairs of a scene.
        shown: of the possible clip of the pair that is shown, less that of the impossible one.
        delta: the largest convergence delta of a scene's lines.
    """

    label_effect: Float[Tensor, "b f h w"]
    shown: Float[Tensor, "b f h w"]
    delta: Float[Tensor, " b"]


def integral_of(study: Study, probe: Probe, nodes: int, limit: float) -> Integral:
    """Settings of the integral along a line, with deltas in units of at least the probe's spread."""
    rows = ROWS if study.bundled else study.batch_size
    return Integral(steps=nodes, unit=probe.spread, limit=limit, batch_size=rows)


def scenes_of_a_kind(scenes: Sequence[Scene], size: int, progress: str) -> Iterator[list[Scene]]:
    """Batches of scenes that are either all crossed or all not, and so have the same pairs."""
    for batch in batches(scenes, size, progress):
        for crossed in (True, False):
            if same_kind := [scene for scene in batch if scene.crossed is crossed]:
                yield same_kind


def pairs_of(scene: Scene) -> tuple[str, ...]:
    """The pairs whose mean follows the label: all four of a crossed scene, those that are compared of any other."""
    partners = tuple(pair for pair in PARTNERS if {*pair} <= {*scene.roles})
    return (*partners, *CROSSINGS) if scene.crossed else partners


def from_partners(logits: Logits, values: Values, pairs: Sequence[str], integral: Integral) -> SceneGradients:
    """Integrated gradients from each impossible clip to the possible ones that it is paired with.

    Args:
        logits: of each role's clips, as a function of their values.
        values: of the clips by role.
        pairs: possible and impossible role.
    """
    integrals = {pair: integrate(logits[pair[0]], values[pair[1]], values[pair[0]], integral) for pair in pairs}
    maps = {pair: _over_channels(values) for pair, (values, _, _) in integrals.items()}
    return SceneGradients(torch.stack(list(maps.values())).mean(0), maps[SHOWN], _largest(integrals))


def from_baselines(logits: Logits, values: Values, starts: Values, integral: Integral) -> SceneGradients:
    """Integrated gradients from a baseline to each clip, with the label effect of `measures.labels`."""
    integrals = {role: integrate(logits[role], starts[role], end, integral) for role, end in values.items()}
    maps = {role: _over_channels(values) for role, (values, _, _) in integrals.items()}
    signed = torch.stack([SIGNS[role] * contribution for role, contribution in maps.items()])
    return SceneGradients(signed.sum(0) / (len(maps) / 2), maps[SHOWN[0]] - maps[SHOWN[1]], _largest(integrals))


def mean_of(values: Values) -> dict[str, Float[Tensor, "b c f h w"]]:
    """The mean of a scene's clips, as a baseline of each."""
    return dict.fromkeys(values, torch.stack(list(values.values())).mean(0))


def tabulate(lines: Mapping[str, SceneGradients]) -> xr.Dataset:
    """`label_effect`, `heat` of the pair that is shown, (baseline, scene, frame, row, column), and `delta`."""
    place = ("baseline", "scene", "frame", "row", "column")
    effect, heat, delta = (
        torch.stack([getattr(gradients, name) for gradients in lines.values()]).float().cpu().numpy()
        for name in ("label_effect", "shown", "delta")
    )
    table = {"label_effect": (place, effect), "heat": (place, heat), "delta": (place[:2], delta)}
    return xr.Dataset(table, coords={"baseline": list(lines)})


def logits_by_role(logits: Logits, values: Values) -> xr.DataArray:
    """The logits of clips (scene, role)."""
    with torch.no_grad():
        plain = torch.stack([logits[role](values[role]) for role in values], 1)
    return xr.DataArray(plain.float().cpu().numpy(), {"role": list(values)}, ("scene", "role"))


def agreement(values: Values) -> xr.DataArray:
    """Whether the two clips that are shown have the same values, (scene, frame)."""
    same = (values[SHOWN[0]] == values[SHOWN[1]]).all((1, 3, 4))  # over channels, rows and columns
    return xr.DataArray(same.cpu().numpy(), dims=("scene", "frame"))


def splices_of(scenes: Sequence[Scene], frames: int) -> list[float]:
    """The first of `frames` (latent) frames in which a scene's pairs differ; NaN where they do not begin alike."""
    return [
        latent_frame(scene.splice, len(scene.clips[0].frames), frames) if begins_alike(scene, frames) else float("nan")
        for scene in scenes
    ]


# From the latent to the logit.


def of_latents(lens: DiTLens, clips: Evaluation, roles: Sequence[str], probe: Probe) -> dict[str, Logit]:
    """For each role the logit as a function of its clips' latents."""
    return {role: _of_latents(lens, of_role(clips, role, roles), probe) for role in roles}


def _of_latents(lens: DiTLens, clips: Evaluation, probe: Probe) -> Logit:
    rerun = between(lens, clips, clips, LATENT, probe.logit).rerun(LATENT, "clean")
    dtype = rerun.run.cache[LATENT].dtype
    return lambda latents: rerun(latents.to(dtype))  # lines lie in float32, whatever the model computes in


@torch.no_grad()
def latents_by_role(lens: DiTLens, evaluation: Evaluation, roles: Sequence[str]) -> dict[str, Tensor]:
    """The input latents of an evaluation by role, in float32 or better."""
    _, cache = lens.model.run(evaluation, Request(LATENT, stop_at=LATENT))
    latents = cache[LATENT].to(torch.promote_types(cache[LATENT].dtype, torch.float32))
    return dict(zip(roles, latents.chunk(len(roles)), strict=True))


@torch.no_grad()
def with_noise_alone(study: Study, lens: DiTLens, batch: Sequence[Scene], step: int) -> tuple[Evaluation, Evaluation]:
    """The clips at a step, in the order of `clips_of`, and the same with a clean part of zeros and the same noise.

    The noise of an inversion is what it ends at, over its last noise level. Frames that are given clean become 0.
    """
    path = path_of(study)
    if path.kind == "continuation":
        return _with_noise_alone(study, lens, batch, step)
    trajectory = trajectory_of(lens, batch, path)
    levels = trajectory.schedule.sigmas
    if path.kind == "inversion":
        noise = trajectory.latents[-1] / levels[len(trajectory.latents) - 1]
    else:
        noise = spliced_noise(trajectory.latents[0], batch, path.seed)
    noise_latents = trajectory.latents.clone()
    noise_latents[step] = levels[step] * noise
    return lens.evaluation(trajectory, step), lens.evaluation(replace(trajectory, latents=noise_latents), step)


def _with_noise_alone(study: Study, lens: DiTLens, batch: Sequence[Scene], step: int) -> tuple[Evaluation, Evaluation]:
    """As `with_noise_alone`, for a continuation."""
    path = path_of(study)
    (clips,) = evaluations(lens, batch, [step], path).values()
    latents = torch.cat(list(latents_by_role(lens, clips, batch[0].roles).values()))
    noise, clean_counts = spliced_noise(latents, batch, path.seed), clean_frames(batch, latents.shape[2])
    inputs = partly_noised(lens, torch.zeros_like(noise), noise, clips.sigma, clean_counts)
    conditioning = conditioning_of(lens, batch, path)
    return clips, lens.model.evaluation(**inputs, conditioning=conditioning, step=step, sigma=clips.sigma)


def _over_channels(values: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b f h w"]:
    return reduce(values, "b c f h w -> b f h w", "sum")


def _largest(integrals: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, " b"]:
    return torch.stack([delta for _, _, delta in integrals.values()]).amax(0)
