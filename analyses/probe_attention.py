"""Does where a model's heads look tell possible from impossible, and does it tell what the states do not?

Method: continuations (the first half given clean, the second noised) at one noise level. Of every head the attention
that each latent frame pays to each other (mean over queries, sum over keys) are the features, 25 of 5 frames, head by
head and all heads of a block together; beside them the block's states, averaged by frame. A logistic probe is fitted on
training scenes; the cell is chosen out of fold there and scored once on test scenes. The whole map is shown for test
scenes too, for the eye only.

Controls: a twin that never saw lawful clips and a random initialisation; labels swapped within quadruplets, the maximum
over all heads and blocks; the states themselves.

Output: figures/data/probe_attention.nc with log odds (source, block, feature, quadruplet, role).
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from dit_lens import datasets, results, stats
from dit_lens.capture import batches, encode, latent_splice, partly_noised, spliced_noise
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import STRENGTH, Grid, estimator, permutation_test
from dit_lens.reductions import FrameMasses, parse

ALL, STATES = "all heads", "states"
GRID = Grid((STRENGTH,), progress=False)
TELLING = 19  # labellings, below which none of 20 can be told


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Twins and baselines; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    step: int = 14
    """Step whose noise level is used, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the schedule between data and noise."""
    train: int = 220
    """Training quadruplets."""
    test: int = 132
    """Test quadruplets."""
    permutations: int = 100
    """Labellings of the null."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, of the labellings, and of the random initialisation."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Clips as a probe sees them, the four of a quadruplet side by side.

    Attributes:
        cells: by (block, feature): a head's number, ALL or STATES.
        possible, group: of each clip.
    """

    cells: Mapping[tuple[int, str], Float[np.ndarray, "i d"]]
    possible: np.ndarray
    group: np.ndarray


def run(config: Config) -> xr.Dataset:
    """Log odds of every cell on test scenes and its accuracy on training scenes, for every source."""
    splits = [
        datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    ]
    parts: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        train, test = (look(lens, split, config) for split in splits)
        parts.append(score(train, test, config).expand_dims(source=[name]))
        if name == config.model:
            sigma, facts = lens.schedule(config.levels).sigmas[config.step], lens.facts()
    result = xr.concat(parts, "source")
    return result.assign_attrs(dataset=config.dataset, split="test", seed=config.seed, lens=facts, sigma=sigma)


@torch.no_grad()
def look(lens: DiTLens, split: Sequence[Quadruplet], config: Config) -> Seen:
    """Where frames look, and states, of all clips of a split."""
    rows: dict[tuple[int, str], list[Tensor]] = {}
    for batch in batches(split, config.batch_size, lens.name):
        for cell, values in _looked(lens, batch, config).items():
            quadruplets = values.unflatten(0, (len(ROLES), len(batch))).transpose(0, 1)
            rows.setdefault(cell, []).append(quadruplets.flatten(0, 1).flatten(1).float().cpu())
    clips = [clip for quadruplet in split for clip in quadruplet.clips]
    possible = np.array([clip.possible for clip in clips])
    cells = {cell: torch.cat(values).numpy() for cell, values in rows.items()}
    return Seen(cells, possible, np.array([clip.group for clip in clips]))


def _looked(lens: DiTLens, batch: Sequence[Quadruplet], config: Config) -> dict[tuple[int, str], Tensor]:
    """By cell, features of the clips, role by role."""
    clean, sigma = encode(lens.encode, batch), lens.schedule(config.levels).sigmas[config.step]
    fed = partly_noised(
        lens, clean, spliced_noise(clean, batch, config.seed), sigma, given=latent_splice(clean, batch[0])
    )
    masses, by_frame = FrameMasses(lens.table), parse("space_mean")
    with lens.hooks([(masses.points, masses)]):
        _, cache = lens.run_with_cache(
            **fed, names_filter="blocks.*.hook_resid_post", reduce=lambda x, hook: by_frame(x, hook).values
        )
    found: dict[tuple[int, str], Tensor] = {}
    for block, mass in masses.taken.items():
        found |= {(block, str(head)): mass[:, head] for head in range(mass.shape[1])}
        found |= {(block, ALL): mass, (block, STATES): cache["resid_post", block]}
    return found


def score(train: Seen, test: Seen, config: Config) -> xr.Dataset:
    """Log odds on test scenes, accuracy out of fold on training scenes, and the accuracy that chance reaches there."""
    blocks, features = (list(dict.fromkeys(part)) for part in zip(*train.cells, strict=True))
    cells: dict[Hashable, np.ndarray] = dict(train.cells.items())
    looks: dict[Hashable, np.ndarray] = {cell: x for cell, x in train.cells.items() if cell[1] != STATES}
    null = permutation_test(GRID, looks, train.possible, train.group, config.permutations, config.seed)
    inside = GRID.scores(cells, train.possible, train.group).reshape(len(blocks), len(features))
    logits = [estimator().fit(x, train.possible).decision_function(test.cells[cell]) for cell, x in train.cells.items()]
    names = ("block", "feature", "quadruplet", "role")
    shape = (len(blocks), len(features), -1, len(ROLES))
    return xr.Dataset(
        {
            "logit": (names, np.reshape(logits, shape)),
            "train_accuracy": (names[:2], inside),
            "threshold": null.threshold() if config.permutations >= TELLING else np.nan,
            "p": null.p,
        },
        coords={"block": blocks, "feature": features, "quadruplet": test.group[:: len(ROLES)], "role": list(ROLES)},
    )


def accuracies(result: xr.Dataset) -> xr.DataArray:
    """Accuracy per clip on test scenes by source, block and feature."""
    right = (result.logit > 0) == xr.DataArray([True, True, False, False], dims="role")
    return right.mean(("quadruplet", "role")).transpose("source", "block", "feature")


def kinds(result: xr.Dataset) -> dict[str, list[str]]:
    """What is chosen among: single heads, all heads of a block, states."""
    heads = [str(feature) for feature in result.feature.values if feature not in (ALL, STATES)]
    return {"one head": heads, ALL: [ALL], STATES: [STATES]}


def chosen(result: xr.Dataset) -> xr.Dataset:
    """By source and kind, the cell that training scenes choose: test accuracy with 95% interval, d', pairs in order."""
    rows = [
        xr.concat([_chosen(result.sel(source=source, feature=names)) for names in kinds(result).values()], "kind")
        for source in result.source.values
    ]
    return xr.concat(rows, "source").assign_coords(source=result.source.values, kind=list(kinds(result)))


def _chosen(here: xr.Dataset) -> xr.Dataset:
    """Of one source, the best cell among these features."""
    inside = here.train_accuracy.transpose("block", "feature")
    block, feature = np.unravel_index(inside.values.argmax(), inside.shape)
    logit = here.logit.isel(block=block, feature=feature).transpose("quadruplet", "role").values
    right = ((logit > 0) == np.array([True, True, False, False])).mean(1)
    estimate = [float(part) for part in stats.bootstrap_ratio(right, np.ones_like(right))]
    row = dict(zip(("accuracy", "low", "high"), estimate, strict=True)) | {
        "d_prime": stats.d_prime(logit),
        "pairwise": float(stats.pairwise_accuracy(logit).mean()),
    }
    cell = {"cell_block": int(here.block[block]), "cell_feature": str(here.feature.values[feature])}
    return xr.Dataset({**row, **cell, "inside": float(inside.max())})


def table(result: xr.Dataset) -> str:
    """A line per source and kind of feature, the cell chosen on training scenes; then what chance reaches."""
    scores, sigma = chosen(result), results.facts(result)["sigma"]
    width = max(len(str(source)) for source in result.source.values)
    lines = [
        f"accuracy per clip on {result.sizes['quadruplet']} test quadruplets (95% intervals over them),"
        f" σ = {sigma:.2f}; cell chosen on training scenes",
        f"{'source':{width}s}  features    block, head       accuracy              d'     pairwise  training scenes",
    ]
    for source in result.source.values:
        for kind in kinds(result):
            row = scores.sel(source=source, kind=kind)
            cell = f"{int(row.cell_block)}, {row.cell_feature.item()}"
            lines.append(
                f"{source!s:{width}s}  {kind:10s}  {cell:16s}"
                f"  {float(row.accuracy):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]  {float(row.d_prime):+.2f}"
                f"  {float(row.pairwise):.3f}     {float(row.inside):.3f}"
            )
    for source in result.source.values:
        threshold, p = (float(result[key].sel(source=source)) for key in ("threshold", "p"))
        reached = f"{threshold:.3f} in 1 of 20 labellings" if np.isfinite(threshold) else "(labellings are too few)"
        lines.append(f"{source}: by chance attention's best cell reaches, on training scenes, {reached}; p = {p:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.probe_attention import draw

    main(Config, run, table, draw, "probe_attention", __doc__)
