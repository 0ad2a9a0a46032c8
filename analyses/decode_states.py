"""Do twins represent what lies within a half as well as the model does? Only then is a twin a control.

Method: clips A and B of lawful quadruplets are noised to one level (the same latents for every model). Of each latent
frame in which the first object is in sight for at least two of four frames, a block's output is read, all its tokens or
their mean; ridge regression decodes position and velocity (R², the mean of x and y), a ridge classifier decodes colour
and shape (accuracy), from training scenes to test scenes. Block, and tokens or mean, are chosen per target by
cross-validation on training scenes.

Controls: a random initialisation, and the latent that was fed ("input x_σ"), which is the same for all.

Output: figures/data/decode_states.nc with what makes up the scores (source, target, quadruplet). The model's lead over
each source is told in points; a twin counts as a control where it is within 3 on position, colour and velocity.
Cost: about five minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from analyses.command import main
from dit_lens import datasets, results, stats
from dit_lens.capture import Route, batches, travel
from dit_lens.clips import Clip, Quadruplet
from dit_lens.lens import DiTLens

NUMBERS, NAMES = ("position", "velocity"), ("colour", "shape")
TARGETS = (*NUMBERS, *NAMES)
STRENGTHS = tuple(float(strength) for strength in np.logspace(0, 6, 7))
POINTS = 3.0
FED = "x_σ"
ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-swap", "mini-wan-random")
    """Twins and baselines; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets whose clips know the truth about their objects."""
    step: int = 8
    """Step whose noise level is used, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the schedule between data and noise."""
    blocks: tuple[int, ...] = (1, 3, 5)
    """Blocks to choose from."""
    train: int = 660
    """Training quadruplets."""
    test: int = 330
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


@dataclass(frozen=True)
class Views:
    """Latent frames in which the object is in sight.

    Attributes:
        features: by where they are read ("x_σ", "3", "3, mean"), one row per view.
        truth: by target, one row per view.
        group: each view's quadruplet.
    """

    features: Mapping[str, Float[np.ndarray, "v d"]]
    truth: Mapping[str, np.ndarray]
    group: np.ndarray


def run(config: Config) -> xr.Dataset:
    """Scores of every model on test scenes, and how far the model in question is ahead."""
    splits = [
        datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    ]
    parts: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        train, test = (views(lens, split, config) for split in splits)
        parts.append(score(train, test, [place for place in train.features if place != FED]).expand_dims(source=[name]))
        if name == config.model:
            parts.append(score(train, test, [FED]).expand_dims(source=[f"input {FED}"]))
            sigma, facts = lens.schedule(config.levels).sigmas[config.step], lens.facts()
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": facts, "sigma": sigma}
    return xr.concat(parts, "source").assign_attrs(attrs | {"views": len(test.group)})


@torch.no_grad()
def views(lens: DiTLens, split: Sequence[Quadruplet], config: Config) -> Views:
    """Tokens and truth of every latent frame of A and B in which the object is in sight."""
    features: dict[str, list[np.ndarray]] = {}
    truth: dict[str, list[np.ndarray]] = {target: [] for target in TARGETS}
    group: list[str] = []
    route = Route("noising", config.levels, seed=config.seed)
    for batch in batches(split, config.batch_size, lens.name):
        clips = [quadruplet.clips[role] for role in (0, 1) for quadruplet in batch]
        trajectory = travel(lens, batch, route)[: len(clips)]
        names = [f"blocks.{block}.hook_resid_post" for block in config.blocks]
        _, cache = lens.run_with_cache(trajectory, config.step, names_filter=names)
        states = {str(block): cache.grid("resid_post", block).flatten(2, 3) for block in config.blocks}
        read = {name: tokens.flatten(2) for name, tokens in states.items()}
        read |= {f"{name}, mean": tokens.mean(2) for name, tokens in states.items()}
        read[FED] = rearrange(trajectory.latent(config.step), "b c f h w -> b f (c h w)")
        seen = [(i, frame, frames) for i, clip in enumerate(clips) for frame, frames in in_sight(clip)]
        for name, values in read.items():
            features.setdefault(name, []).append(
                values.float().cpu().numpy()[[s[0] for s in seen], [s[1] for s in seen]]
            )
        for i, _, frames in seen:
            group.append(clips[i].group)
            for target in TARGETS:
                truth[target].append(_told(clips[i], target, frames))
    return Views(
        {name: np.concatenate(rows) for name, rows in features.items()},
        {target: np.stack(rows) for target, rows in truth.items()},
        np.array(group),
    )


def in_sight(clip: Clip) -> Iterator[tuple[int, np.ndarray]]:
    """(latent frame, those of its frames) in which the first object's centre is in the picture and not occluded.

    The first latent frame holds one frame and is left out: it shows no velocity.
    """
    track, size = clip.tracks[0], 32.0
    centre, width = clip.factors["scene"]["occluder"]
    x, y = np.nan_to_num(track.position, nan=-size).T
    inside = (np.minimum(x, y) > 0) & (np.maximum(x, y) < size) & (np.abs(x - centre) > width / 2)
    for frame in range(1, 1 + (len(x) - 1) // 4):
        frames = np.flatnonzero(inside[4 * frame - 3 : 4 * frame + 1]) + 4 * frame - 3
        if len(frames) >= 2:
            yield frame, frames


def _told(clip: Clip, target: str, frames: np.ndarray) -> np.ndarray:
    """The mean over the frames of what is a number, the name at the last of them of what is one."""
    values = getattr(clip.tracks[0], target)[frames]
    return values.mean(0) if target in NUMBERS else values[-1]


def score(train: Views, test: Views, sources: Sequence[str]) -> xr.Dataset:
    """`good` and `whole` by target and test quadruplet, whose sums have the score as ratio, and the `place` read."""
    groups = np.unique(test.group)
    good, whole = np.zeros((2, len(TARGETS), len(groups)))
    chosen: list[str] = []
    for i, target in enumerate(TARGETS):
        fit, y = _estimator(target), train.truth[target]
        inside = [_inside(fit, train, name, target) for name in sources] if len(sources) > 1 else [0.0]
        chosen.append(sources[int(np.argmax(inside))])
        predicted = fit.fit(train.features[chosen[-1]], y).predict(test.features[chosen[-1]])
        parts = share(test.truth[target], np.asarray(predicted), y)
        good[i], whole[i] = ([part[test.group == group].sum() for group in groups] for part in parts)
    names = ("target", "quadruplet")
    return xr.Dataset(
        {"good": (names, good), "whole": (names, whole), "place": ("target", chosen)},
        coords={"target": list(TARGETS), "quadruplet": groups},
    )


def scores(result: xr.Dataset) -> xr.Dataset:
    """Score and the first source's lead (in points) by source and target, each with its 95% interval."""
    good, whole = (result[name].transpose("quadruplet", "source", "target").values for name in ("good", "whole"))
    parts = {
        "score": stats.bootstrap_ratio(good, whole),
        "lead": stats.bootstrap_ratio(100 * (good[:, :1] - good), whole),
    }
    named = {f"{key}{end}": value for key, values in parts.items() for end, value in zip(ENDS, values, strict=True)}
    coords = {"source": result.source.values, "target": result.target.values}
    return xr.Dataset({key: (("source", "target"), value) for key, value in named.items()}, coords=coords)


def _inside(fit: Pipeline, train: Views, name: str, target: str) -> float:
    """The score on training scenes, out of fold."""
    x, y = train.features[name], train.truth[target]
    predicted = np.asarray(cross_val_predict(fit, x, y, groups=train.group, cv=GroupKFold(3)))
    good, whole = share(y, predicted, y)
    return float(good.sum() / whole.sum())


def _estimator(target: str) -> Pipeline:
    ridge = RidgeCV(STRENGTHS) if target in NUMBERS else RidgeClassifierCV(STRENGTHS)
    return make_pipeline(StandardScaler(), ridge)


def share(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two columns by view whose sums have the score as ratio: R² against the training mean, or accuracy."""
    if truth.dtype.kind == "U":
        return (truth == predicted).astype(float), np.ones(len(truth))
    variance = train.var(0)
    whole = ((truth - train.mean(0)) ** 2 / variance).mean(1)
    return whole - ((truth - predicted) ** 2 / variance).mean(1), whole


def table(result: xr.Dataset) -> str:
    """A line per source: scores and the model's lead with their intervals; which twins count as controls."""
    made, measured = results.facts(result), scores(result)
    width = max(len(str(source)) for source in result.source.values)
    lines = [
        f"position, velocity: R²; colour, shape: accuracy; σ = {made['sigma']:.2f}; {made['views']} views of"
        f" {result.sizes['quadruplet']} test quadruplets (95% intervals over these); lead of the model in points",
        f"{'source':{width}s}" + "".join(f"   {target:40s}" for target in result.target.values),
    ]
    for source in result.source.values:
        row = measured.sel(source=source)
        cells = (
            _cell({str(key): float(row[key].sel(target=target)) for key in row}) for target in result.target.values
        )
        lines.append(f"{source!s:{width}s}" + "".join(f"   {cell:40s}" for cell in cells))
    for source in result.source.values[1:]:
        worst = float(np.abs(measured.lead.sel(source=source, target=["position", "colour", "velocity"])).max())
        verdict = "counts as a control" if worst <= POINTS else "does not count as a control"
        lines.append(f"{source!s:{width}s}   largest lead on position, colour, velocity: {worst:.1f} points; {verdict}")
    return "\n".join(lines)


def _cell(row: dict[str, float]) -> str:
    lead = f"{row['lead']:+.1f} [{row['lead_low']:+.1f}, {row['lead_high']:+.1f}]"
    return f"{row['score']:.3f} [{row['score_low']:.3f}, {row['score_high']:.3f}] {lead}"


if __name__ == "__main__":
    from figures.decode_states import draw

    main(Config, run, table, draw, "decode_states", __doc__)
