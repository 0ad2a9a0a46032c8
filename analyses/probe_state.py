"""Do the states of a model hold the physical state of an object as numbers, and do they while it cannot be seen?

Method: of lawful clips (A and B of each quadruplet) one evaluation at one noise level, along the sampler's inversion
and as a continuation (the first half given clean, the second noised). Every latent frame is a view: its tokens at the
input and behind each block, side by side or averaged. Ridge regression, its strength and one of the two chosen out of
fold on training scenes, reads off where the first object is, how fast it moves, how strongly it is accelerated (scenes
with gravity; between contacts), at what angle it slides, and in how many frames it meets a wall or the ground. Views
with the object in sight in at least two of the four frames ("seen") and views with it wholly behind the occluder in all
("hidden") have probes of their own; the probe of the seen is also read on the hidden ones: is it kept as it was?

Features and truth are told from the training mean of their latent frame, and one probe reads all frames: what the time
in the clip tells, alone or with the place (early on the left: moves to the right), is worth nothing.
`analyses.decode_states` asks another question of like views: may a twin serve as a control.

Controls: the latent that was fed ("x_σ"); twins and a random initialisation, which sees the other frames too; the
codec's clean latent and the pixels of the view's own frames, which cannot tell what is hidden there.

Output: figures/data/probe_state.nc with what makes up R²: (source, route, sight, variable, place, quadruplet).
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from analyses.decode_states import in_sight
from analyses.probe_state_scores import SIGHTS, VARIABLES, Views, score, scores
from dit_lens import datasets, results
from dit_lens.capture import batches, encode, latent_splice, partly_noised, spliced_noise
from dit_lens.clips import Clip, Quadruplet, Track, stack_frames
from dit_lens.lens import DiTLens
from dit_lens.video import to_tensor

FED = "x_σ"
JUMP = 1.0  # change of velocity (px/frame) from one frame to the next that only a contact makes; gravity is below .5

Read = Callable[[Sequence[Quadruplet]], dict[str, Float[Tensor, "b f n d"]]]


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Twins and baselines; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets whose clips know the truth about their objects."""
    properties: tuple[str, ...] = ("continuity", "inertia", "gravity", "solidity", "incline", "collision")
    """Whose scenes: gravity and incline have acceleration, incline ramps; gravity and solidity contacts ahead."""
    routes: tuple[Literal["continuation", "inversion"], ...] = ("continuation", "inversion")
    """How clips get to the noise level."""
    step: int = 11
    """Step whose noise level is used, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the schedule between data and noise."""
    train: int = 120
    """Training quadruplets."""
    test: int = 72
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """What makes up R² on test scenes, for every source."""
    splits = [
        datasets.load(config.dataset, split=part, quadruplets=size, properties=config.properties, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    ]
    found: dict[str, list[xr.Dataset]] = {}
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        found[name] = [
            measure(splits, reader(lens, route, config), config, name).expand_dims(route=[route])
            for route in config.routes
        ]
        if name == config.model:
            sigma, facts = lens.schedule(config.levels).sigmas[config.step], lens.facts()
            for source, read in (("latent", latents(lens)), ("pixels", pixels)):
                found[source] = [measure(splits, read, config, source).expand_dims(route=list(config.routes))]
    parts = [xr.concat(one, "route").expand_dims(source=[source]) for source, one in found.items()]
    result = xr.concat(parts, "source", join="outer").sel(place=parts[0].place)
    return result.assign_attrs(dataset=config.dataset, split="test", seed=config.seed, lens=facts, sigma=sigma)


def measure(splits: Sequence[Sequence[Quadruplet]], read: Read, config: Config, name: str) -> xr.Dataset:
    """What makes up R² on the second split, of probes fitted on the first."""
    train, test = (views(split, read, config.batch_size, name) for split in splits)
    return score(train, test)


def reader(lens: DiTLens, route: str, config: Config) -> Read:
    """Clips A, then clips B -> the tokens of each latent frame, as fed and behind every block."""

    def read(batch: Sequence[Quadruplet]) -> dict[str, Tensor]:
        fed = _fed(lens, batch, route, config)
        _, cache = lens.run_with_cache(**fed, names_filter="blocks.*.hook_resid_post")
        states = {str(block): cache.grid("resid_post", block).flatten(2, 3) for block in range(lens.blocks)}
        return {FED: by_frame(fed["latent"]), **states}

    return read


def _fed(lens: DiTLens, batch: Sequence[Quadruplet], route: str, config: Config) -> dict[str, Any]:
    """`latent` and `timestep` of A and B."""
    clean, lawful, schedule = encode(lens.encode, batch), 2 * len(batch), lens.schedule(config.levels)
    if route == "inversion":
        path = lens.invert(clean[:lawful], steps=config.levels, solver="euler", until=config.step)
        time = schedule.timesteps[config.step]
        return {"latent": lens.as_fed(path.latent(config.step), time), "timestep": torch.tensor(time)}
    noise, given = spliced_noise(clean, batch, config.seed), latent_splice(clean, batch[0])
    return partly_noised(lens, clean[:lawful], noise[:lawful], schedule.sigmas[config.step], given)


def by_frame(latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b f n c"]:
    """A latent as a sequence of places in each frame."""
    return rearrange(latent, "b c f h w -> b f (h w) c")


def latents(lens: DiTLens) -> Read:
    """Clips A, then clips B -> the codec's latents, frame by frame."""

    def read(batch: Sequence[Quadruplet]) -> dict[str, Tensor]:
        return {FED: by_frame(encode(lens.encode, batch)[: 2 * len(batch)])}

    return read


def pixels(batch: Sequence[Quadruplet]) -> dict[str, Tensor]:
    """Clips A, then clips B -> the pixels of the four frames of each latent frame (the first has one, repeated)."""
    video = to_tensor(stack_frames([quadruplet.clips[role] for role in (0, 1) for quadruplet in batch]))
    padded = torch.cat([video[:, :, :1].expand(-1, -1, 3, -1, -1), video], dim=2)
    return {FED: rearrange(padded, "b c (f p) h w -> b f (h w) (p c)", p=4)}


@torch.no_grad()
def views(split: Sequence[Quadruplet], read: Read, batch_size: int, progress: str) -> Views:
    """Features and truth of every view of A and B."""
    features: dict[str, list[Tensor]] = {}
    seen: list[tuple[Clip, int, np.ndarray, bool]] = []
    for batch in batches(split, batch_size, progress):
        clips = [quadruplet.clips[role] for role in (0, 1) for quadruplet in batch]
        here = [(i, *view) for i, clip in enumerate(clips) for view in moments(clip)]
        rows = [view[0] for view in here], [view[1] for view in here]
        for place, values in read(batch).items():
            features.setdefault(place, []).append(values.float().cpu()[rows])
        seen += [(clips[i], frame, frames, hidden) for i, frame, frames, hidden in here]
    told = [truth(clip, frames) for clip, _, frames, _ in seen]
    return Views(
        {place: _pooled(torch.cat(rows)) for place, rows in features.items()},
        {variable: np.stack([one[variable] for one in told]) for variable in VARIABLES},
        np.array([clip.group for clip, *_ in seen]),
        np.array([frame for _, frame, *_ in seen]),
        np.array([hidden for *_, hidden in seen]),
    )


def _pooled(tokens: Float[Tensor, "v n d"]) -> tuple[np.ndarray, np.ndarray]:
    return tokens.flatten(1).numpy(), tokens.mean(1).numpy()


def moments(clip: Clip) -> Iterator[tuple[int, np.ndarray, bool]]:
    """(latent frame, those of its frames that are told of, whether the object is hidden in all of them)."""
    for frame, frames in in_sight(clip):
        yield frame, frames, False
    for frame in range(1, 1 + (len(clip.frames) - 1) // 4):
        frames = np.arange(4 * frame - 3, 4 * frame + 1)
        if clip.tracks[0].hidden[frames].all():
            yield frame, frames, True


def truth(clip: Clip, frames: np.ndarray) -> dict[str, Float[np.ndarray, " t"]]:
    """The first object's state over these frames, by variable; NaN where there is none such."""
    track, scene, nothing = clip.tracks[0], clip.factors["scene"], np.nan
    met = contacts(track)
    free = not ((met > frames[0]) & (met < frames[-1])).any()
    change = (track.velocity[frames[-1]] - track.velocity[frames[0]]) / (frames[-1] - frames[0])
    ahead = met[met > frames[-1]]
    return {
        "position": track.position[frames].mean(0),
        "velocity": track.velocity[frames].mean(0),
        "acceleration": np.array([np.linalg.norm(change) if scene["gravity"] and free else nothing]),
        "incline": np.array([nothing if scene["ramp"] is None else clip.factors["first"]["slope"]]),
        "contact": np.array([ahead[0] - frames.mean() if len(ahead) else nothing]),
    }


def contacts(track: Track) -> Float[np.ndarray, " times"]:
    """When (in frames) something throws the object back; a contact lies between two frames."""
    return np.flatnonzero(np.linalg.norm(np.diff(track.velocity, axis=0), axis=1) > JUMP) + 0.5


def table(result: xr.Dataset) -> str:
    """By sight and variable a line per source and route: the best R² with its interval, and R² place by place."""
    measured, sigma = scores(result), results.facts(result)["sigma"]
    lines = [f"R² on test scenes at σ = {sigma:.2f}, against the mean of the latent frame; 95% intervals of the best"]
    for sight, variable in product(SIGHTS, VARIABLES):
        part = measured.sel(sight=sight, variable=variable)
        head = f"{VARIABLES[variable]}, {sight} (n = {int(part.n)} quadruplets)"
        if not int(part.n):
            lines.append(f"\n{head}: too few scenes")
            continue
        lines.append(f"\n{head:86s}" + "".join(f"{place!s:>7s}" for place in result.place.values))
        for source, route in product(result.source.values, result.route.values):
            row = part.sel(source=source, route=route).dropna("place", subset=["score"])
            if not row.sizes["place"] or (row.sizes["place"] == 1 and route != result.route.values[0]):
                continue
            best = row.isel(place=int(row.score.values.argmax()))
            told = f"{float(best.score):.2f} [{float(best.low):.2f}, {float(best.high):.2f}]"
            name = str(source) if row.sizes["place"] == 1 else f"{source}, {route}"
            lines.append(f"  {name:45s}{told:39s}" + "".join(f"{float(s):7.2f}" for s in row.score))
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.probe_state import draw

    main(Config, run, table, draw, "probe_state", __doc__)
