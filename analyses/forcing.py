"""Does the model go on as the world does: how truly, for how long, and how much of the past does it take?

Method: of the lawful clips A and B the first half is given and the second sampled, by a noise level for every latent
frame (given ones are told sigma 0). The tracker reads what was made and holds the object in question against the truth,
in frames of the second half that show at least half of it: found (within 4 world pixels), in place (within 2), in its
colour (of those found); also how many objects of full size a frame has, wherever they are, and PSNR.
- forgetting: of the first half only the last latent frames are given, down to none; earlier ones are sampled with the
  second half. The object is hidden at the splice: at one frame it has mostly been out of sight for the whole context.
- drift: clips A are rolled on, window by window, from the last latent frames, at several levels of context noise
  (Diffusion Forcing). Against the true clip: scenery (median difference of pixels that never moved), sharpness (mean
  gradient), scale of latents, and objects of full size per frame.

Intervals are nan where too few objects were found to resample.

Controls: the true clips through the autoencoder (the ceiling; in drift, round 0), a twin that never saw halves belong
together, a random initialisation, and no context at all; the same noise for all.

Output: figures/data/forcing.nc, sums (model, context, quadruplet, role, count) and drift (level, round, quadruplet,
statistic).
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from analyses.forcing_scores import STATISTICS, table
from dit_lens import datasets, tracker
from dit_lens.capture import batches, latent_splice, spliced_noise
from dit_lens.clips import Clip, Quadruplet, stack_frames
from dit_lens.continuation import Context, Window, continue_frames, frame_velocity, roll_on
from dit_lens.datasets.miniphys.scenes import COLOURS, SHAPES
from dit_lens.lens import DiTLens
from dit_lens.tracker import Detection
from dit_lens.training.quality import moving_pixels
from dit_lens.video import to_frames, to_tensor

CEILING = "autoencoder"
IN_SIGHT, IN_PLACE = 0.5, 2.0  # share of the object that is seen; world pixels
FULL_SIZE = 2.35  # radius from which on an object is no distractor
COUNTS = ("sight", "found", "place", "colour", "error", "drawn", "frames")
COUNTS += ("squared", "pixels", "squared moving", "pixels moving")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models to compare with; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets whose clips know the truth about their objects."""
    test: int = 44
    """Test quadruplets, of which A and B are continued."""
    rolled: int = 22
    """Test quadruplets of which A is rolled on."""
    rounds: int = 8
    """Windows of a rollout after the true clip."""
    levels: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    """Noise levels of the context in rollouts, from 0 to below 1."""
    steps: int = 12
    """Euler steps of the sampler."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """What every model makes of every clip, from every length of context; and drift by level and round."""
    if config.rounds < 1 or min(config.test, config.rolled) < 2 or not config.levels:
        raise ValueError(
            f"got {config.test} and {config.rolled} quadruplets, {config.rounds} rounds, levels {config.levels}"
            " · expected 2 quadruplets, 1 round and 1 level, or more"
        )
    test, rolled = (
        datasets.load(config.dataset, split="test", quadruplets=size, seed=config.seed)
        for size in (config.test, config.rolled)
    )
    lenses = {name: DiTLens.from_pretrained(name, seed=config.seed) for name in (config.model, *config.controls)}
    first = lenses[config.model]
    parts = {name: continued(lens, test, config, name) for name, lens in lenses.items()}
    parts[CEILING] = xr.concat([ceiling(first, batch) for batch in batches(test, config.batch_size)], "quadruplet")
    model = xr.Variable("model", list(parts))
    sums = xr.concat(xr.broadcast(*parts.values()), model).transpose("model", "context", ...)
    drift = xr.concat([drifted(first, batch, config) for batch in batches(rolled, config.batch_size, "roll")], "rolled")
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": first.facts()}
    return xr.Dataset({"sums": sums, "drift": drift}, attrs=attrs)


def lawful(quadruplets: Sequence[Quadruplet]) -> list[Clip]:
    """Clips A A A ... B B B ..."""
    return [q.a for q in quadruplets] + [q.b for q in quadruplets]


@torch.no_grad()
def continued(lens: DiTLens, split: Sequence[Quadruplet], config: Config, name: str) -> xr.DataArray:
    """Sums (context, quadruplet, role, count) of continuations of A and B, from no context to the whole first half."""
    parts: list[xr.DataArray] = []
    velocity, sigmas = frame_velocity(lens), lens.schedule(config.steps).sigmas[::-1]
    for batch in batches(split, config.batch_size, name):
        clean = lens.encode(lawful(batch))
        noise = spliced_noise(clean.repeat(2, 1, 1, 1, 1), batch, config.seed)[: len(clean)]
        frame, cut = torch.arange(clean.shape[2]), latent_splice(clean, batch[0])
        by_context: list[xr.DataArray] = []
        for context in range(cut + 1):
            known = Context(clean, (frame >= cut - context) & (frame < cut))
            made = lens.family.decode(lens.vae, continue_frames(velocity, known, noise, sigmas))
            by_context.append(scored(made, batch))
        parts.append(xr.concat(by_context, xr.Variable("context", range(cut + 1))))
    return xr.concat(parts, "quadruplet")


def ceiling(lens: DiTLens, batch: Sequence[Quadruplet]) -> xr.DataArray:
    """The same sums (quadruplet, role, count) of the true clips through the autoencoder."""
    return scored(lens.family.decode(lens.vae, lens.encode(lawful(batch))), batch)


def scored(video: Float[Tensor, "b 3 F H W"], batch: Sequence[Quadruplet]) -> xr.DataArray:
    """Sums over the second half of clips A and B, (quadruplet, role, count)."""
    clips = lawful(batch)
    rows = [_sums(*both) for both in zip(video.cpu(), clips, strict=True)]
    values = np.array(rows).reshape(2, len(batch), len(COUNTS)).swapaxes(0, 1)
    hidden = np.array([clip.tracks[0].hidden.sum() for clip in clips]).reshape(2, -1).T
    return xr.DataArray(
        values,
        {
            "quadruplet": [q.id for q in batch],
            "property": ("quadruplet", [q.property for q in batch]),
            "role": ["A", "B"],
            "hidden": (("quadruplet", "role"), hidden),
            "count": list(COUNTS),
        },
        ("quadruplet", "role", "count"),
    )


def _sums(video: Float[Tensor, "3 F H W"], clip: Clip) -> list[float]:
    splice, truth = clip.factors["splice"], to_tensor(clip.frames)
    made = _objects(to_frames(video[:, splice:]))
    seen = [[] for _ in range(splice)] + made
    matches = [
        match
        for match in tracker.compare(seen, clip)
        if match.track == 0 and match.frame >= splice and match.visible >= IN_SIGHT
    ]
    found = [match for match in matches if match.found]
    squared = (video - truth).square()[:, splice:]
    moving = moving_pixels(truth[None])[0].expand_as(truth)[:, splice:]
    return [
        len(matches),
        len(found),
        sum(match.error < IN_PLACE for match in found),
        sum(match.colour for match in found),
        sum(match.error for match in found),
        sum(len(_full_size(frame)) for frame in made),
        len(made),
        float(squared.sum()),
        squared.numel(),
        float(squared[moving].sum()),
        int(moving.sum()),
    ]


def _objects(frames: np.ndarray) -> list[list[Detection]]:
    return tracker.track(frames, colours=tuple(COLOURS), shapes=SHAPES)


def _full_size(seen: list[Detection]) -> list[Detection]:
    return [one for one in seen if one.radius >= FULL_SIZE]


@torch.no_grad()
def drifted(lens: DiTLens, batch: Sequence[Quadruplet], config: Config) -> xr.DataArray:
    """Statistics (level, round, rolled, statistic) of clips A rolled on; round 0 is the end of the true clip."""
    truth = to_tensor(stack_frames([q.a for q in batch]))
    clean = lens.family.encode(lens.vae, truth)
    cut = latent_splice(clean, batch[0])
    end = lens.family.decode(lens.vae, clean)[:, :, batch[0].splice :]
    values: list[list[np.ndarray]] = []
    for level in config.levels:
        generator = torch.Generator().manual_seed(config.seed)
        rolled = roll_on(lens, truth, config.rounds, Window(cut, level, config.steps), generator)
        values.append([statistics(z, video, truth) for z, video in [(clean[:, :, cut:], end), *rolled]])
    return xr.DataArray(
        np.array(values),
        {"level": list(config.levels), "round": range(config.rounds + 1), "statistic": list(STATISTICS)}
        | {"rolled": [q.id for q in batch]},
        ("level", "round", "rolled", "statistic"),
    ).assign_attrs(frames=end.shape[2])


def statistics(
    latent: Float[Tensor, "b c f h w"], video: Float[Tensor, "b 3 F H W"], truth: Float[Tensor, "b 3 F H W"]
) -> Float[np.ndarray, "b statistic"]:
    """Drift of stretches of video, clip by clip, in the order of `STATISTICS`; the first two in grey levels of 255."""
    still = ~moving_pixels(truth)[:, 0, 0]
    away = (video - truth.median(2, keepdim=True).values).abs()
    rows: list[list[float]] = []
    for z, one, far, where in zip(latent, video, away, still, strict=True):
        seen = [len(_full_size(frame)) for frame in _objects(to_frames(one))]
        slopes = (one.diff(dim=2).abs().mean() + one.diff(dim=3).abs().mean()) / 2
        numbers = [far[:, :, where].median() * 127.5, slopes * 127.5, z.square().mean().sqrt()]
        rows.append([*(float(n) for n in numbers), float(np.mean(seen))])
    return np.array(rows)


if __name__ == "__main__":
    from figures.forcing import draw

    main(Config, run, table, draw, "forcing", __doc__)
