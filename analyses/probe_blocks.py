"""Where along depth and noise level is plausibility linearly decodable, and is it the trained model that computes it?

Method: clips are inverted; at each step one fresh evaluation gives every block's output, averaged over all tokens. A
logistic probe is fitted on training scenes. The cell (step, block) is chosen out of fold on training scenes and then
scored once on test scenes; the whole map is shown for test scenes too, for the eye only.

Controls: the latent that each evaluation was fed ("input": inversion carries earlier passes' computation into it),
plain noising instead of inversion (noise spliced by half), a twin that never saw lawful clips, a random initialisation,
the codec's latents and the pixels.

Output: figures/data/probe_blocks.nc with accuracies (source, step, block) and the table of chosen cells.
Cost: about seven minutes on two cores with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from analyses.command import main
from dit_lens import datasets, stats
from dit_lens.capture import Route, capture_pooled
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import estimator, out_of_fold_logits

Path = Literal["inversion", "noising"]
FLAT = ("latent", "pixels")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models that must decode at chance; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    steps: tuple[int, ...] = (4, 8, 11, 14, 17, 19)
    """Steps to read at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 300
    """Training quadruplets."""
    test: int = 200
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise of the noising path, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """Accuracies by source, and the chosen cell of each with its scores on test scenes."""
    splits = {
        part: datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    }
    parts: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        seen = {part: capture(lens, config, "inversion", split) for part, split in splits.items()}
        parts.append(score_grid(seen["train"].activation, seen["test"].activation, name))
        if name == config.model:
            fed = {part: s.latent.rename(value="feature").expand_dims(block=[0], axis=3) for part, s in seen.items()}
            parts.append(score_grid(fed["train"], fed["test"], f"{name}, input x_σ"))
            noised = {part: capture(lens, config, "noising", split).activation for part, split in splits.items()}
            parts.append(score_grid(noised["train"], noised["test"], f"{name}, noising"))
            for source in FLAT:
                like = seen["train"].activation
                flat = {part: flat_features(lens, split, source, like) for part, split in splits.items()}
                parts.append(score_grid(flat["train"], flat["test"], source))
    result = xr.concat(parts, "source", data_vars="all", join="outer", coords="minimal", compat="override")
    result = result.assign_coords(
        sigma=("step", [lens.schedule(config.levels).sigmas[step] for step in result.step.values])
    )
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def capture(lens: DiTLens, config: Config, path: Path, split: Sequence[Quadruplet]) -> xr.Dataset:
    """Pooled block outputs and the latents fed, along one path."""
    route = Route(path, config.levels, "euler", config.seed)
    name = f"{lens.name}, {path}"
    return capture_pooled(lens, split, config.steps, route, batch_size=config.batch_size, progress=name)


def flat_features(lens: DiTLens, split: Sequence[Quadruplet], source: str, like: xr.DataArray) -> xr.DataArray:
    """Clean latents or pixels, in one made-up cell (the first of `like`)."""
    rows = []
    for quadruplet in split:
        frames = np.stack([clip.frames for clip in quadruplet.clips])
        whole = lens.encode(frames).cpu().numpy() if source == "latent" else frames
        rows.append(whole.reshape(len(ROLES), 1, 1, -1).astype(np.float32))
    return xr.DataArray(
        np.stack(rows),
        dims=like.dims,
        coords={
            "quadruplet": [quadruplet.id for quadruplet in split],
            "property": ("quadruplet", [quadruplet.property for quadruplet in split]),
            "possible": (("quadruplet", "role"), [[clip.possible for clip in q.clips] for q in split]),
            "step": like.step.values[:1],
            "block": like.block.values[:1],
        },
    )


def score_grid(train: xr.DataArray, test: xr.DataArray, source: str) -> xr.Dataset:
    """Accuracy of every cell out of fold on training scenes and on test scenes; scores of the chosen cell in full.

    Args:
        train, test: features (quadruplet, role, step, block, feature).
    """
    shape = (train.sizes["step"], train.sizes["block"])
    out_of_fold, tested = np.zeros(shape), np.zeros(shape)
    logits = np.zeros((*shape, test.sizes["quadruplet"], len(ROLES)))
    groups = np.repeat(train.quadruplet.values, len(ROLES))
    seen, unseen = (split.possible.values.ravel() for split in (train, test))
    for cell in np.ndindex(shape):
        x, x_test = (split.values[:, :, *cell].reshape(-1, split.sizes["feature"]) for split in (train, test))
        out_of_fold[cell] = ((out_of_fold_logits(x, seen, groups) > 0) == seen).mean()
        scores = estimator().fit(x, seen).decision_function(x_test)
        tested[cell] = ((scores > 0) == unseen).mean()
        logits[cell] = scores.reshape(-1, len(ROLES))
    step, block = (int(i) for i in np.unravel_index(out_of_fold.argmax(), shape))
    return xr.Dataset(
        {
            "train_accuracy": (("step", "block"), out_of_fold),
            "test_accuracy": (("step", "block"), tested),
            "chosen_step": int(train.step[step]),
            "chosen_block": int(train.block[block]),
            "logit": (("quadruplet", "role"), logits[step, block]),
        },
        coords={
            "step": train.step.values,
            "block": train.block.values,
            "quadruplet": test.quadruplet.values,
            "property": ("quadruplet", test.property.values),
        },
    ).expand_dims(source=[source])


def chosen(result: xr.Dataset) -> xr.Dataset:
    """Per source, the chosen cell's test scores: accuracy with its interval, d', pairwise accuracy, by property."""
    possible = np.array([True, True, False, False])
    rows: list[xr.Dataset] = []
    for source in result.source.values:
        logit = result.sel(source=source).logit.transpose("quadruplet", "role").values
        right = ((logit > 0) == possible).mean(1)
        accuracy, low, high = stats.bootstrap_ratio(right, np.ones_like(right))
        pairwise, *_ = stats.bootstrap_ratio(stats.pairwise_accuracy(logit), np.ones_like(right))
        row = {"accuracy": accuracy, "low": low, "high": high, "d_prime": stats.d_prime(logit), "pairwise": pairwise}
        row |= {str(p): right[result.property.values == p].mean() for p in np.unique(result.property)}
        rows.append(xr.Dataset(row).expand_dims(source=[source]))
    return xr.concat(rows, "source", data_vars="all")


def table(result: xr.Dataset) -> str:
    """One line per source: chosen cell, accuracy on test scenes with interval, d', pairwise, by property."""
    scores = chosen(result)
    properties = [str(p) for p in np.unique(result.property)]
    lines = [
        f"accuracy per clip on {result.sizes['quadruplet']} test quadruplets (95% intervals over quadruplets);"
        " cell chosen on training scenes",
        f"{'source':30s} cell (step, block)  accuracy              d'     pairwise  "
        + "  ".join(f"{p:>10s}" for p in properties),
    ]
    for source in result.source.values:
        row, cell = scores.sel(source=source), result.sel(source=source)
        where = f"{int(cell.chosen_step):3d}, {int(cell.chosen_block)}"
        values = "  ".join(f"{float(row[p]):10.3f}" for p in properties)
        lines.append(
            f"{source!s:30s} {where:18s}  {float(row.accuracy):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]"
            f"  {float(row.d_prime):+.2f}  {float(row.pairwise):.3f}     {values}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.probe_blocks import draw

    main(Config, run, table, draw, "probe_blocks", __doc__)
