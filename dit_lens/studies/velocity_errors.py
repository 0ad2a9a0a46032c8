"""Velocity errors: how far a model's velocity is from noise - data, by noise level and latent frame of every clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from dit_lens.capture import (
    NoisePath,
    batches,
    begins_alike,
    by_scene,
    clean_frames,
    conditioning_of,
    encode,
    given_frames,
    partly_noised,
    spliced_noise,
    takes_levels_by_frame,
)
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.measures.surprise import CONDITIONS
from dit_lens.metrics import Readout
from dit_lens.studies.paths import schedule
from dit_lens.studies.study import Study

DIMS = ("condition", "sigma", "frame", "scene", "role")


@torch.no_grad()
def velocity_errors(
    lens: DiTLens,
    scenes: Sequence[Scene],
    sigmas: Sequence[float],
    draws: int = 1,
    seed: int = 0,
    *,
    batch_size: int = 8,
    prompt: str | None = None,
) -> Float[xr.DataArray, "condition sigma frame scene role"]:
    """Squared errors of the velocity of every clip, by condition, noise level and latent frame; scenes in their order.

    Conditions (see `measures.surprise.CONDITIONS`): the whole clip is noised and scored; the same, but only the frames
    from each clip's break on are scored; frames before the break are given clean, and those from it on are noised and
    scored. The second needs clips that begin alike, the third also a model that takes a level for each frame.
    Frames that a condition does not score are NaN, as are all frames of a scene whose clips do not begin alike.

        error = velocity_errors(lens, scenes, (0.4, 0.8), draws=2).mean("frame")    # skips NaN
        error.sel(condition=error.condition[-1]).mean("sigma")                      # (scene, role)

    Args:
        sigmas: noise levels, above 0 and up to 1.
        draws: draws of noise, the same for every model, over which errors are averaged.
        seed: of the noise.
        batch_size: scenes to a batch.
        prompt: see `capture.NoisePath`.

    Raises:
        ValueError: no level, or one outside (0, 1]; no draws.
    """
    if not sigmas or not all(0 < sigma <= 1 for sigma in sigmas) or draws < 1:
        raise ValueError(
            f"got sigmas {tuple(sigmas)}, {draws} draws · expected noise levels in (0, 1], and at least 1 draw"
        )
    parts: list[np.ndarray] = []
    ids: list[str] = []
    crossed: list[bool] = []
    for batch in batches(scenes, batch_size, f"{lens.name}, velocity errors"):
        conditioning = conditioning_of(lens, batch, NoisePath(prompt=prompt))
        clean = encode(lens.encode, batch)
        by_draw = [_errors(lens, batch, clean, sigmas, 1000 * seed + draw, conditioning) for draw in range(draws)]
        errors = np.mean(by_draw, axis=0)
        errors[1:, :, _unscored(batch, errors.shape[-1])] = np.nan
        parts.append(rearrange(errors[:, :, by_scene(batch)], "c s (i r) f -> c s f i r", i=len(batch)))
        ids += [scene.id for scene in batch]
        crossed += [scene.crossed for scene in batch]
    all_errors = np.concatenate(parts, axis=3)
    available = np.isfinite(all_errors).any(axis=(1, 2, 3, 4))
    names = {"condition": np.array(CONDITIONS)[available], "sigma": list(sigmas), "scene": ids}
    coords = {"role": list(scenes[0].roles), "crossed": ("scene", crossed)}
    return xr.DataArray(all_errors[available], names | coords, DIMS)


def error_from_break(lens: DiTLens, batch: Sequence[Scene], path: NoisePath) -> Readout:
    """Velocity error on the frames from each clip's break on, earlier frames being given clean."""
    clean = encode(lens.encode, batch, path.crossing)
    truth, latents = (spliced_noise(clean, batch, path.seed) - clean).float(), clean.shape[2]
    scored = torch.arange(latents) >= torch.tensor(clean_frames(batch, latents))[:, None]

    def error(velocity: Tensor, cache: Mapping[str, Tensor]) -> Tensor:
        square = (velocity.float() - truth.to(velocity.device)).square()
        frames, mask = reduce(square, "b c f h w -> b f", "mean"), scored.to(square)
        return (frames * mask).sum(1) / mask.sum(1)

    return Readout(error)


def levels_of(study: Study, lens: DiTLens, scenes: Sequence[Scene]) -> list[float]:
    """The noise levels that a study reads at: those in `read_at`, and those of its steps."""
    sigmas = schedule(study, lens, scenes)
    places = study.read_at or ()
    levels = [place if isinstance(place, float) else sigmas.sigmas[sigmas.check_step(place)] for place in places]
    return list(dict.fromkeys(levels))


def _errors(
    lens: DiTLens,
    batch: Sequence[Scene],
    clean: Float[Tensor, "b c f h w"],
    sigmas: Sequence[float],
    seed: int,
    conditioning: Conditioning,
) -> Float[np.ndarray, "condition sigma b f"]:
    """Errors of all frames with one draw of noise; NaN of a condition that the batch or the model does not have."""
    noise, clean_counts = spliced_noise(clean, batch, seed), _given_counts(batch, clean.shape[2])
    errors = np.full((len(CONDITIONS), len(sigmas), len(clean), clean.shape[2]), np.nan, np.float32)
    for i, sigma in enumerate(sigmas):
        errors[:2, i] = frame_errors(lens, (clean, noise), sigma, 0, conditioning).cpu().numpy()
        if any(clean_counts) and takes_levels_by_frame(lens):
            errors[2, i] = frame_errors(lens, (clean, noise), sigma, clean_counts, conditioning).cpu().numpy()
    return errors


def frame_errors(
    lens: DiTLens,
    ends: tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b c f h w"]],
    sigma: float,
    clean_frames: int | Sequence[int],
    conditioning: Conditioning,
) -> Float[Tensor, "b f"]:
    """Squared error of the velocity by latent frame, the first `clean_frames` of which are clean, at timestep 0.

    Args:
        ends: data and noise.
    """
    clean, noise = ends
    inputs = partly_noised(lens, clean, noise, sigma, clean_frames)
    velocity = lens.model.velocity(lens.model.evaluation(**inputs, conditioning=conditioning))
    return reduce((velocity.float() - (noise - clean)).square(), "b c f h w -> b f", "mean")


def _given_counts(batch: Sequence[Scene], latents: int) -> list[int]:
    """The latent frames before each clip's break, in the order of `clips_of`; 0 where clips do not begin alike."""
    counts = [
        number
        for scene in batch
        for number in (given_frames(scene, latents) if begins_alike(scene, latents) else [0] * len(scene.clips))
    ]
    ordered = dict(zip(by_scene(batch), counts, strict=True))
    return [ordered[place] for place in range(len(counts))]


def _unscored(batch: Sequence[Scene], latents: int) -> Bool[np.ndarray, "b f"]:
    """Mask of the latent frames before each clip's break; all where clips do not begin alike."""
    counts = np.array(_given_counts(batch, latents))[:, None]
    return (np.arange(latents) < counts) | (counts == 0)
