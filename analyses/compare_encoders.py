"""Do the states of a video diffusion model tell plausible from implausible better than other encoders, and controls?

Method: every row is a reader of the same clips. Its features are means over space, by frame or tubelet (pixels and
latents: over the cells of grids), and all are probed alike: a logistic probe by layer (and step), the layer chosen out
of fold on training scenes and then scored once on test scenes. "Left out" is the accuracy on each property by a probe
fitted on all others. Surprise scores are fitted to nothing: how often the impossible clip of a scene is the more
surprising one (V-JEPA 2: error of the predicted states; VideoMAE: of the reconstruction; both a mean over the numbers
of frames given, none of them chosen; the model's own: error of the velocity in the second half, the first given).

Rows: the model by continuation and by inversion, its latents; pixels; optical flow; ResNet, VideoMAE and V-JEPA 2, with
weights where some are given and else at random, named so; moments over time. Encoders without weights here or without
a maintained loader are listed as not run, with the reason.

Controls: twins and a random initialisation; the embedding of the prompt, which is the same for all clips; Gaussian
noise with the mean and covariance of the model's states; one frame alone; frames shuffled. Two more labels beside
physics, which no law knows: whether a clip was filmed in warmer light ("tint"), and whether the light changes at the
splice ("tint change"), a difference that nobody can overlook, crossed as physics is. Whoever fails at that one compares
no halves at all.

Real weights: --encoders vjepa2=facebook/vjepa2-vitl-fpc64-256 videomae=FOLDER ... --surprises vjepa2=FOLDER --device
cuda. Frames are resized to the size of the model, and 16 of 17 are shown; on one core, ViT-L at 256 pixels takes
seconds a clip.

Output: figures/data/compare_encoders.nc with logits of all test clips by source and label, and surprises.
Cost: about five minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from analyses import surprise
from analyses.command import main
from analyses.probe_blocks import Features, Splits, Way, chosen, score_grid
from analyses.sources import (
    Source,
    capture_all,
    latents,
    load_all,
    noise_row,
    of_frames,
    prompt,
    read_frames,
    states,
)
from dit_lens import baselines, datasets, stats
from dit_lens.baselines import Baseline, noise_like
from dit_lens.capture import batches
from dit_lens.clips import Quadruplet
from dit_lens.lens import DiTLens

PHYSICS = "physics"
RECOLOURED = {"tint": baselines.tint_pair, "tint change": baselines.tint_change}
POSSIBLE = np.array([True, True, False, False])
KEPT = ["chosen_step", "chosen_block", "logit", "own_logit", "transfer_logit"]


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models to read by the first route only; none with an empty list."""
    routes: tuple[Way, ...] = ("continuation", "inversion")
    """Ways from data to noise on which the model is read."""
    encoders: tuple[str, ...] = (
        "pixels",
        "pixels+moments",
        "flow",
        "resnet=random",
        "resnet=random+moments",
        "videomae=random",
        "vjepa2=random",
        "vjepa2=random+moments",
        "vjepa2=random+still",
        "vjepa2=random+shuffled",
    )
    """Baselines: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random; each with +moments, +still
    or +shuffled if wanted."""
    surprises: tuple[str, ...] = ("videomae=random", "vjepa2=random")
    """Encoders whose surprise is scored, with weights as above."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    pooling: Literal["frames", "tokens"] = "frames"
    """Means of frames (or tubelets) side by side, or one mean over all."""
    steps: tuple[int, ...] = (4, 6, 7)
    """Steps at which the model is read, counted from data (0) to noise."""
    levels: int = 10
    """Steps of the sampler between data and noise (Euler)."""
    sigmas: tuple[float, ...] = (0.4, 0.8)
    """Noise levels of the model's own surprise."""
    train: int = 110
    """Training quadruplets."""
    test: int = 66
    """Test quadruplets."""
    tinted: int = 33
    """Training quadruplets, and as many test ones, that are filmed again for each of the other labels."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    device: str = "cpu"
    """Where encoders go."""
    seed: int = 0
    """Seed of the data set, of noise, of random initialisations and of the shuffle."""


def run(config: Config) -> xr.Dataset:
    """Logits of the test clips by source, for physics and for the other labels; surprises; what was not run."""
    missing = baselines.not_run((*config.encoders, *config.surprises))
    placed = {"seed": config.seed, "device": config.device}
    readers = load_all(config.encoders, partial(baselines.load, pooling=config.pooling, **placed), missing)
    scorers = load_all(config.surprises, partial(baselines.load_surprise, **placed), missing)
    lenses = [DiTLens.from_pretrained(name, seed=config.seed) for name in (config.model, *config.controls)]
    labels = labelled_splits(config)
    parts: list[xr.Dataset] = []
    for source in sources(lenses, readers, config):
        features = {what: capture_all(source, splits) for what, splits in labels.items()}
        parts.append(scored(features, source))
        if len(parts) == 1:
            noise = {what: noise_like(here, config.seed) for what, here in features.items()}
            control = scored(noise, noise_row(source))
    result: xr.Dataset = xr.concat([*parts, control], "source", data_vars="all")
    test = labels[PHYSICS]["test"]
    surprises = [velocity_surprise(lens, test, config) for lens in lenses] + [
        encoder_surprise(s, test) for s in scorers
    ]
    result["surprise"] = xr.concat(surprises, "scorer")
    result["crossed"] = "quadruplet", [q.crossed for q in test]
    result["not_run"] = "absent", [f"{name}: {reason}" for name, reason in missing.items()]
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lenses[0].facts()}
    return result


def labelled_splits(config: Config) -> dict[str, Splits]:
    """Training and test quadruplets, for physics and for each of the other labels."""
    splits = {
        part: list(datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed))
        for part, size in (("train", config.train), ("test", config.test))
    }
    filmed = {
        what: {part: [film(quadruplet) for quadruplet in split[: config.tinted]] for part, split in splits.items()}
        for what, film in RECOLOURED.items()
    }
    return {PHYSICS: splits, **filmed}


def sources(lenses: Sequence[DiTLens], readers: Sequence[Baseline], config: Config) -> Iterator[Source]:
    """Rows of the table, first the model by its first route."""
    for lens in lenses:
        for route in config.routes if lens is lenses[0] else config.routes[:1]:
            yield states(lens, route, config)
    lens = lenses[0]
    for reader in (latents(lens, config.pooling), prompt(lens, config.pooling), *readers):
        yield of_frames(reader, config.batch_size)


def scored(features: Mapping[str, Features], source: Source) -> xr.Dataset:
    """Logits of the test clips at the chosen layer, for physics (see `score_grid`) and the other labels."""
    grids = {what: score_grid(parts, source.name) for what, parts in features.items()}
    row = grids[PHYSICS][KEPT]
    for what in RECOLOURED:
        row[f"{what} logit"] = ("source", "tinted", "role"), grids[what].logit.values
    facts = {"layer": source.layers[row.chosen_block.item()], "weights": source.weights, "sees": source.sees}
    return row.assign({key: ("source", [value]) for key, value in facts.items()})


def velocity_surprise(lens: DiTLens, split: Sequence[Quadruplet], config: Config) -> xr.DataArray:
    """The model's own: its velocity's error in the second half, the first given clean; mean over noise levels."""
    options = surprise.Config(sigmas=config.sigmas, draws=2, seed=config.seed)
    given = surprise.CONDITIONS.index("second half, first given clean")
    rows = [surprise.clip_errors(lens, batch, options)[given].mean(0) for batch in batches(split, config.batch_size)]
    return _surprise(f"{lens.name}, velocity", np.concatenate(rows))


def encoder_surprise(scorer: Baseline, split: Sequence[Quadruplet]) -> xr.DataArray:
    """The surprise of an encoder; mean over the numbers of frames that it is given."""
    return _surprise(scorer.name, read_frames(scorer, split).mean(("step", "block", "feature")).values)


def _surprise(name: str, values: Float[np.ndarray, "q 4"]) -> xr.DataArray:
    return xr.DataArray(values[None], {"scorer": [name]}, ("scorer", "quadruplet", "role"))


def recolour_scores(result: xr.Dataset) -> xr.Dataset:
    """Accuracy (with its interval) on each label that is not physics, by source."""
    rows = {}
    for what in RECOLOURED:
        right = ((result[f"{what} logit"].transpose("tinted", "source", "role").values > 0) == POSSIBLE).mean(2)
        rows[what] = ("measure", "source"), np.stack(stats.bootstrap_ratio(right, np.ones_like(right)))
    return xr.Dataset(rows, {"measure": ["accuracy", "low", "high"], "source": result.source})


def surprise_scores(result: xr.Dataset) -> xr.Dataset:
    """How often the impossible clip is the more surprising one, with its interval, and d'; crossed quadruplets only."""
    rows: list[xr.Dataset] = []
    for scorer in result.scorer.values:
        plausible = -result.surprise.sel(scorer=scorer).transpose("quadruplet", "role").values[result.crossed.values]
        pairs = stats.pairwise_accuracy(plausible)
        estimate, low, high = stats.bootstrap_ratio(pairs, np.ones_like(pairs))
        row = {"pairwise": estimate, "low": low, "high": high, "d_prime": stats.d_prime(plausible)}
        rows.append(xr.Dataset(row).expand_dims(scorer=[scorer]))
    return xr.concat(rows, "scorer", data_vars="all")


def table(result: xr.Dataset) -> str:
    """A line per source: chosen layer, scores on physics, accuracy on the other labels; surprises; what was not run."""
    scores, tints = chosen(result), recolour_scores(result)
    width = max(len(str(name)) for name in [*result.source.values, *result.scorer.values])
    lines = [
        f"accuracy per clip (95% intervals over quadruplets), n = {result.sizes['quadruplet']} test quadruplets,"
        f" {result.sizes['tinted']} for tints; layer chosen on training scenes",
        f"{'source':{width}s}  accuracy              d'     pairwise  left out  tint   tint change  step, layer;"
        " weights; sees",
    ]
    for source in result.source.values:
        row, made, tint = scores.sel(source=source), result.sel(source=source), tints.sel(source=source)
        lines.append(
            f"{source!s:{width}s}  {float(row.accuracy):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]"
            f"  {float(row.d_prime):+.2f}  {float(row.pairwise):.3f}     {float(row.transfer):.3f}"
            f"     {float(tint['tint'][0]):.3f}  {float(tint['tint change'][0]):.3f}"
            f"        {int(made.chosen_step)}, {made.layer.item()}; {made.weights.item()}; {made.sees.item()}"
        )
    found = surprise_scores(result)
    crossed = int(result.crossed.sum())
    lines.append(
        f"\nsurprise, fitted to nothing: impossible clip the more surprising, n = {crossed} crossed quadruplets"
    )
    for scorer in found.scorer.values:
        row = found.sel(scorer=scorer)
        interval = f"{float(row.pairwise):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]"
        lines.append(f"{scorer!s:{width}s}  {interval}  {float(row.d_prime):+.2f}")
    return "\n".join([*lines, "\nnot run", *(str(line) for line in result.not_run.values)])


if __name__ == "__main__":
    from figures.compare_encoders import draw

    main(Config, run, table, draw, "compare_encoders", __doc__)
