"""Where along depth and noise level is plausibility linearly decodable, and is it the trained model that computes it?

Method: clips are inverted; at each step one fresh evaluation gives every block's output, averaged over the tokens of
each latent frame. A logistic probe is fitted on training scenes. The cell (step, block) is chosen out of fold on
training scenes and then scored once on test scenes and on scenes with unseen shapes, colours or layouts; each property
is also scored at the cell that its own training scenes choose. The whole map is shown for test scenes too, for the eye
only. "Accuracy" asks for one threshold for all scenes, "pairwise" whether the possible clip of a scene comes before the
impossible one, d' how sure that is.

Controls: the latent that each evaluation was fed ("input": inversion carries earlier passes' computation into it);
plain noising instead of inversion (noise spliced by half) with its input; continuation (the first half given clean, the
second noised) with its input; twins that never saw lawful clips or saw another law, and a random initialisation; the
codec's latents and the pixels; their standard deviation over time (what second-order statistics see); the latents of
another autoencoder if one is given. Of lawful changes, what counts is how many of the possible clips are called
possible. "Transfer" is the accuracy on each property by a probe that was fitted on all others; in a twin of another law
it may fall below chance.

Output: figures/data/probe_blocks.nc with accuracies (source, step, block) and the table of chosen cells.
Cost: about half an hour of one core with the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import xarray as xr
from diffusers import AutoencoderKLWan
from jaxtyping import Bool, Float

from analyses.command import main
from dit_lens import datasets, models, stats
from dit_lens.capture import Encoder, Route, batches, capture_pooled, encode
from dit_lens.clips import ROLES, Quadruplet, stack_frames
from dit_lens.datasets.miniphys import CHANGES
from dit_lens.lens import DiTLens
from dit_lens.probing import estimator, out_of_fold_logits
from dit_lens.video import to_tensor

Way = Literal["inversion", "noising", "continuation"]
Splits = Mapping[str, Sequence[Quadruplet]]
Features = Mapping[str, xr.DataArray]


class Reading(Protocol):
    """How a model is read along a route."""

    @property
    def pooling(self) -> Literal["frames", "tokens"]: ...  # noqa: D102
    @property
    def steps(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def levels(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-swap", "mini-wan-random")
    """Twins and baselines, and other training seeds of these and of the model (folders named MODEL-SEED); none with an
    empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    autoencoder: str = "mini-vae"
    """Another autoencoder whose latents are probed beside the model's own: bundled, or a folder; none if empty."""
    paths: tuple[Way, ...] = ("inversion", "noising", "continuation")
    """Ways to noise; "noising", the baseline of inversion, for the model in question alone."""
    pooling: Literal["frames", "tokens"] = "frames"
    """Mean over the tokens of each latent frame (the frames side by side), or over all tokens."""
    steps: tuple[int, ...] = (4, 8, 11, 14, 17)
    """Steps to read at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 330
    """Training quadruplets."""
    test: int = 220
    """Test quadruplets."""
    unseen: int = 132
    """Test quadruplets with shapes, colours or layouts that occur in no training."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise of the noising path, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """Accuracies by source, and the chosen cell of each with its scores on test scenes."""
    splits = {
        part: datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test), ("unseen", config.unseen))
    }
    parts: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        paths: list[Way] = [way for way in config.paths if name == config.model or way != "noising"]
        for path in paths:
            seen = {part: capture(lens, config, path, split) for part, split in splits.items()}
            source = name if path == "inversion" else f"{name}, {path}"
            parts.append(score_grid({part: s.activation for part, s in seen.items()}, source))
            if name == config.model:
                parts.append(score_grid({part: as_block(s.latent) for part, s in seen.items()}, f"{source}, input x_σ"))
                like = {part: s.activation for part, s in seen.items()}
        if name == config.model:
            sigmas = [lens.schedule(config.levels).sigmas[step] for step in config.steps]
            for source, encoder, crossing in flat_sources(lens, config.autoencoder):
                parts.append(score_grid(flat_features(splits, encoder, crossing, like), source))
    result = xr.concat(parts, "source", data_vars="all", join="outer", coords="minimal", compat="override")
    result = result.assign_coords(sigma=("step", sigmas))
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def as_block(latent: xr.DataArray) -> xr.DataArray:
    """The latents fed, as the features of a block 0."""
    return latent.rename(value="feature").expand_dims(block=[0], axis=3)


def capture(lens: DiTLens, config: Reading, path: Way, split: Sequence[Quadruplet]) -> xr.Dataset:
    """Pooled block outputs and the latents fed, along one path."""
    route = Route(path, config.levels, "euler", config.seed)
    name = f"{lens.name}, {path}"
    return capture_pooled(
        lens, split, config.steps, route, pooling=config.pooling, batch_size=config.batch_size, progress=name
    )


def flat_sources(lens: DiTLens, autoencoder: str) -> list[tuple[str, Encoder, str]]:
    """(name, clips -> features, crossing) of everything that is no activation of the model."""

    def pixels(clips: Any) -> torch.Tensor:
        return to_tensor(stack_frames(clips))

    def deviation(clips: Any) -> torch.Tensor:
        return pixels(clips).std(dim=2, keepdim=True)

    flat = [
        ("latent", lens.encode, "pixels"),
        ("pixels", pixels, "pixels"),
        ("pixels, std over time", deviation, "pixels"),
    ]
    if not autoencoder:
        return flat
    vae: Any = AutoencoderKLWan.from_pretrained(models.locate_autoencoder(autoencoder)).eval()

    @torch.no_grad()
    def encoded(clips: Any) -> torch.Tensor:
        return torch.cat([vae.encode(part).latent_dist.mode() for part in pixels(clips).split(16)])

    name = Path(autoencoder).name
    return [*flat, (f"latent of {name}", encoded, "pixels"), (f"latent of {name}, spliced", encoded, "latent")]


def flat_features(splits: Splits, encoder: Encoder, crossing: str, like: Features) -> dict[str, xr.DataArray]:
    """Features of whole clips, in one made-up cell (the first of `like`)."""
    features = {}
    for part, split in splits.items():
        rows = [encode(encoder, batch, crossing).unflatten(0, (len(ROLES), len(batch))) for batch in batches(split, 16)]
        whole = torch.cat(rows, dim=1).transpose(0, 1).flatten(2)[:, :, None, None].float().cpu().numpy()
        cell = like[part][:, :, :1, :1, 0].expand_dims(feature=whole.shape[-1], axis=-1)
        features[part] = cell.copy(data=whole)
    return features


def score_grid(features: Features, source: str) -> xr.Dataset:
    """Accuracy of every cell out of fold on training scenes and on test scenes; scores of the chosen cells in full.

    Args:
        features: by split ("train", "test", and maybe "unseen"), (quadruplet, role, step, block, feature).
    """
    train, test, unseen = features["train"], features["test"], features.get("unseen")
    shape = (train.sizes["step"], train.sizes["block"])
    groups, label = np.repeat(train.quadruplet.values, len(ROLES)), train.possible.values
    right = np.zeros((*shape, *label.shape))
    logits = {part: np.zeros((*shape, split.sizes["quadruplet"], len(ROLES))) for part, split in features.items()}
    for cell in np.ndindex(shape):
        x = _rows(train, cell)
        right[cell] = (out_of_fold_logits(x, label.ravel(), groups).reshape(label.shape) > 0) == label
        fitted = estimator().fit(x, label.ravel())
        for part in features.keys() - {"train"}:
            logits[part][cell] = fitted.decision_function(_rows(features[part], cell)).reshape(-1, len(ROLES))
    best = _best(right.mean((2, 3)))
    transfer = _transfer(_rows(train, best), label.ravel(), train.property.values, test[:, :, best[0], best[1]])
    own = [_best(right[:, :, train.property.values == prop].mean((2, 3))) for prop in test.property.values]
    scored = xr.Dataset(
        {
            "train_accuracy": (("step", "block"), right.mean((2, 3))),
            "test_accuracy": (("step", "block"), ((logits["test"] > 0) == test.possible.values).mean((2, 3))),
            "chosen_step": int(train.step[best[0]]),
            "chosen_block": int(train.block[best[1]]),
            "logit": (("quadruplet", "role"), logits["test"][best]),
            "own_logit": (("quadruplet", "role"), np.stack([logits["test"][*c, i] for i, c in enumerate(own)])),
            "transfer_logit": (("quadruplet", "role"), transfer),
        },
        coords={
            "step": train.step.values,
            "block": train.block.values,
            "quadruplet": test.quadruplet.values,
            "property": ("quadruplet", test.property.values),
        },
    )
    if unseen is not None:
        scored = scored.assign_coords(unseen_quadruplet=unseen.quadruplet.values)
        scored["unseen_logit"] = ("unseen_quadruplet", "role"), logits["unseen"][best]
    return scored.expand_dims(source=[source])


def _transfer(
    x: Float[np.ndarray, "i d"], label: Bool[np.ndarray, " i"], properties: np.ndarray, test: xr.DataArray
) -> Float[np.ndarray, "q 4"]:
    """Logits of each property's test clips by a probe fitted on all other properties (its own, where there is one)."""
    logits, of_row = np.zeros(test.shape[:2]), np.repeat(properties, len(ROLES))
    for prop in np.unique(test.property):
        others = of_row != prop if len(np.unique(properties)) > 1 else np.ones_like(label)
        here = test.property.values == prop
        fitted = estimator().fit(x[others], label[others])
        logits[here] = fitted.decision_function(test.values[here].reshape(-1, x.shape[1])).reshape(-1, len(ROLES))
    return logits


def _rows(split: xr.DataArray, cell: tuple[int, ...]) -> np.ndarray:
    return split.values[:, :, *cell].reshape(-1, split.sizes["feature"])


def _best(accuracy: np.ndarray) -> tuple[int, int]:
    step, block = np.unravel_index(accuracy.argmax(), accuracy.shape)
    return int(step), int(block)


def chosen(result: xr.Dataset) -> xr.Dataset:
    """Per source, the chosen cell's test scores: accuracy with its interval, d', pairwise accuracy, by property.

    `own` is the accuracy with every property at its own cell, `transfer` with every property left out of the fit,
    `changes` the share of the possible clips of lawful changes that are called possible, `unseen` the accuracy on
    unseen shapes, colours and layouts.
    """
    possible = np.array([True, True, False, False])
    lawful_change = np.isin(result.property.values, CHANGES)
    rows: list[xr.Dataset] = []
    for source in result.source.values:
        here = result.sel(source=source).transpose(..., "role")
        logit = here.logit.values
        logits = (here.logit, here.own_logit, here.transfer_logit)
        right, own, transfer = (((score.values > 0) == possible).mean(1) for score in logits)
        accuracy, low, high = stats.bootstrap_ratio(right, np.ones_like(right))
        row = {"accuracy": accuracy, "low": low, "high": high, "d_prime": stats.d_prime(logit)}
        row |= {"pairwise": stats.pairwise_accuracy(logit).mean(), "own": own.mean()}
        row["transfer"] = transfer.mean()
        row["changes"] = (logit[lawful_change, :2] > 0).mean() if lawful_change.any() else np.nan
        if "unseen_logit" in here:
            row["unseen"] = ((here.unseen_logit.values > 0) == possible).mean()
        for prop in np.unique(result.property):
            row |= {f"{prop}": right[result.property.values == prop].mean()}
            row |= {f"{prop}, own cell": own[result.property.values == prop].mean()}
            row |= {f"{prop}, transfer": transfer[result.property.values == prop].mean()}
        rows.append(xr.Dataset(row).expand_dims(source=[source]))
    return xr.concat(rows, "source", data_vars="all")


def over_seeds(scores: xr.Dataset) -> list[tuple[str, np.ndarray]]:
    """(source, accuracies of all its training seeds) where there are several: NAME and folders called NAME-SEED."""
    groups: dict[str, list[float]] = {}
    for source in scores.source.values:
        name, *path = str(source).split(", ")
        base = re.sub(r"-\d+$", "", Path(name).name)
        groups.setdefault(", ".join([base, *path]), []).append(float(scores.accuracy.sel(source=source)))
    return [(name, np.array(values)) for name, values in groups.items() if len(values) > 1]


def table(result: xr.Dataset) -> str:
    """Three blocks: a line per source with its chosen cell and scores; over training seeds; by property."""
    scores = chosen(result)
    properties = [str(p) for p in dict.fromkeys(result.property.values)]
    width = max(len(str(source)) for source in result.source.values)
    lines = [
        f"accuracy per clip on {result.sizes['quadruplet']} test quadruplets (95% intervals over quadruplets);"
        " cell chosen on training scenes",
        f"{'source':{width}s}  step, block  accuracy              d'     pairwise  own cells  transfer"
        f"  changes called possible  unseen (n = {result.sizes['unseen_quadruplet']})",
    ]
    for source in result.source.values:
        row, cell = scores.sel(source=source), result.sel(source=source)
        lines.append(
            f"{source!s:{width}s}  {int(cell.chosen_step):4d}, {int(cell.chosen_block):<5d}"
            f"  {float(row.accuracy):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]  {float(row.d_prime):+.2f}"
            f"  {float(row.pairwise):.3f}     {float(row.own):.3f}      {float(row.transfer):.3f}"
            f"     {float(row.changes):.3f}                    {float(row.unseen):.3f}"
        )
    for name, values in over_seeds(scores):
        lines.append(f"{name}, over {len(values)} training seeds: {values.mean():.3f} ± {values.std(ddof=1):.3f} (SD)")
    lines += ["", f"{'at its own cell (left out of the fit)':{width}s}  " + "  ".join(f"{p:>13s}" for p in properties)]
    for source in result.source.values:
        row = scores.sel(source=source)
        cells = (f"{float(row[f'{p}, own cell']):.3f} ({float(row[f'{p}, transfer']):.3f})" for p in properties)
        lines.append(f"{source!s:{width}s}  " + "  ".join(f"{cell:>13s}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.probe_blocks import draw

    main(Config, run, table, draw, "probe_blocks", __doc__)
