"""What is a probe's accuracy on a model's states worth? Every control beside it, under one protocol.

Method: a row is a reader of clips and a label. A logistic probe is fitted on training scenes for each of its cells
(step and block, or layer); the cell is chosen out of fold there, and its log odds on test scenes are all that is
scored: accuracy per clip, d' of the interaction inside quadruplets, pairs in order, AUROC over all clips. Intervals are
of a bootstrap over quadruplets.

Readers, for physics (possible or not): the model's states on each route; what it was fed ("input x_σ"); noising instead
of inversion, the noise spliced by half; its states where frames are shuffled, or the last one repeated, or the prompt
is another; twins and a random initialisation; fidelity of the inversion; its latents, pixels, optical flow, texture of
single frames; the embedding of the prompt; Gaussian noise with the mean and covariance of its states.

Labels beside physics, for the states of all models and for pixels: warmer light, and a change of light at the splice,
which no law knows and nobody can overlook ("tint", "tint change"); where the object ends, its colour, the background.
They say that a twin which fails at physics is not blind to what lies within a half. And labels drawn at random by
scene, which only a leak between folds could tell.

Output: figures/data/probe_controls.nc with log odds and labels of all test clips (row, quadruplet, role).
Cost: about ten minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from analyses import sources
from analyses.command import main
from analyses.probe_blocks import Features, Splits, Way
from analyses.sources import Source, capture_all
from dit_lens import baselines, datasets, fidelity
from dit_lens.baselines import CONTENTS, content_labels, noise_like
from dit_lens.baselines.catalogue import HUB_IDS
from dit_lens.clips import ROLES, Clip, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Labelled, Scores, carry, scene_labels, score

PHYSICS, RANDOM = "physics", "random, by scene"
RECOLOURED = {"tint": baselines.tint_pair, "tint change": baselines.tint_change}
COLUMNS = ("accuracy", "low", "high", "d_prime", "pairwise", "auroc", "auroc_low", "auroc_high", "clips", "groups")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Twins and random initialisations, read by the first route; none with an empty list."""
    routes: tuple[Way, ...] = ("continuation", "inversion", "noising")
    """Ways from data to noise on which the model is read; changed clips and other models by the first alone."""
    baselines: tuple[str, ...] = ("pixels", "flow", "resnet=random")
    """Readers of frames: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random."""
    prompt: str = "a red ball rolls behind a wall"
    """The other prompt; a model without text encoder is told an embedding of the same norm instead."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    pooling: Literal["frames", "tokens"] = "frames"
    """Means of frames side by side, or one mean over all."""
    steps: tuple[int, ...] = (4, 6, 7)
    """Steps at which the model is read, counted from data (0) to noise."""
    levels: int = 10
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 110
    """Training quadruplets."""
    test: int = 66
    """Test quadruplets."""
    tinted: int = 33
    """Training quadruplets, and as many test ones, that are filmed again in other light."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of noise, of random initialisations, of the shuffle and of random labels."""


def run(config: Config) -> xr.Dataset:
    """Log odds of the test clips by row; what could not be run."""
    missing = not_run(config.baselines)
    placed = partial(baselines.load, pooling=config.pooling, seed=config.seed)
    readers = sources.load_all(config.baselines, placed, missing)
    lens = DiTLens.from_pretrained(config.model, seed=config.seed)
    splits = load(config)
    rows: list[xr.Dataset] = []
    for source, others in every_source(lens, readers, config):
        features = capture_all(source, splits)
        rows.append(row(source, PHYSICS, features, physics(splits), splits))
        if len(rows) == 1:
            noise = noise_like(features, config.seed)
            control = row(sources.noise_row(source), PHYSICS, noise, physics(splits), splits)
        rows += other_labels(source, features, splits, config) if others else []
    made = [line for line in [*rows, control] if "source" in line.coords]
    result = xr.concat(made, "row", data_vars="all", coords="minimal", compat="override")
    result["not_run"] = "absent", [f"{name}: {reason}" for name, reason in missing.items()]
    return result.assign_attrs(dataset=config.dataset, split="test", seed=config.seed, lens=lens.facts())


def not_run(specs: Sequence[str]) -> dict[str, str]:
    """Of the controls that need weights, those without, and the reason."""
    texture = HUB_IDS["resnet"]
    reasons = baselines.not_run(specs)
    return {f"texture by {texture}": "no weights were given; --baselines resnet=FOLDER"} if texture in reasons else {}


def load(config: Config) -> dict[str, list[Quadruplet]]:
    """Training and test quadruplets."""
    sizes = (("train", config.train), ("test", config.test))
    return {
        part: list(datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed))
        for part, size in sizes
    }


def every_source(lens: DiTLens, readers: Sequence[baselines.Baseline], config: Config) -> Iterator[tuple[Source, bool]]:
    """The readers of clips, the model first; and whether they are asked the other labels too."""
    first = config.routes[0]
    for route in config.routes:
        read, fed = sources.states_and_input(lens, route, config)
        yield read, route == first
        yield fed, False
    plain = sources.states(lens, first, config)
    yield plain.on(baselines.shuffled(config.seed), "frames shuffled"), False
    yield plain.on(baselines.still(), "last frame only"), False
    yield sources.states(told_otherwise(lens, config), first, config), False
    for name in config.controls:
        yield sources.states(DiTLens.from_pretrained(name, seed=config.seed), first, config), True
    alone = baselines.round_trips(lens, config.levels, f"{lens.name}, fidelity of inversion")
    for reader in (alone, sources.latents(lens, config.pooling), sources.prompt(lens, config.pooling), *readers):
        yield sources.of_frames(reader, config.batch_size), reader.name == "pixels"


def told_otherwise(lens: DiTLens, config: Config) -> DiTLens:
    """The same model told of another prompt."""
    told = fidelity.perturbed(lens.conditioning, 1.0, config.seed)
    if getattr(lens.pipeline, "text_encoder", None) is not None:
        told = lens.encode_prompt(config.prompt)
    return DiTLens(lens.pipeline, f"{lens.name}, prompt swapped", told, verify=False)


def clips_of(split: Sequence[Quadruplet]) -> list[Clip]:
    """All clips, quadruplet by quadruplet."""
    return [clip for quadruplet in split for clip in quadruplet.clips]


def physics(splits: Splits) -> dict[str, np.ndarray]:
    """1 for possible clips and 0 for impossible ones."""
    return {part: np.array([float(bool(c.possible)) for c in clips_of(split)]) for part, split in splits.items()}


def other_labels(source: Source, features: Features, splits: Splits, config: Config) -> Iterator[xr.Dataset]:
    """Rows of a source for the labels that are not physics."""
    for what, film in RECOLOURED.items():
        filmed = {part: [film(quadruplet) for quadruplet in split[: config.tinted]] for part, split in splits.items()}
        yield row(source, what, capture_all(source, filmed), physics(filmed), splits)
    clips = {part: clips_of(split) for part, split in splits.items()}
    for what in CONTENTS:
        labels = {part: content_labels(here, clips["train"], what) for part, here in clips.items()}
        yield row(source, what, features, labels, splits)
    drawn = {part: scene_labels(groups_of(split), config.seed).astype(float) for part, split in splits.items()}
    yield row(source, RANDOM, features, drawn, splits)


def groups_of(split: Sequence[Quadruplet]) -> np.ndarray:
    """The quadruplet of each clip."""
    return np.array([clip.group for clip in clips_of(split)])


def row(source: Source, label: str, features: Features, labels: Mapping[str, np.ndarray], splits: Splits) -> xr.Dataset:
    """Log odds of the test clips by a probe that training clips chose and fitted; NaN where a label is not known.

    Quadruplets of the test split that were not filmed for this label are NaN as well. Nothing, where no label is known.
    """
    train, test = (labelled(features[part], labels[part]) for part in ("train", "test"))
    if not len(train.labels) or not len(test.labels):
        return xr.Dataset()
    carried = carry(train, test.cells)
    known = np.flatnonzero(np.isfinite(labels["test"]))
    shape = (len(splits["test"]), len(ROLES))
    logit, truth = (np.full(shape, np.nan) for _ in range(2))
    logit.flat[known], truth.flat[known] = carried.logits, labels["test"][known]
    step, block = carried.cell  # type: ignore[misc]
    facts = {"chosen_step": step, "layer": source.layers[block], "weights": source.weights, "sees": source.sees}
    values = {"logit": (("quadruplet", "role"), logit), "label": (("quadruplet", "role"), truth)}
    known_of = {
        "quadruplet": [q.id for q in splits["test"]],
        "property": ("quadruplet", [q.property for q in splits["test"]]),
        "role": list(ROLES),
    }
    found = xr.Dataset(values | facts, known_of).expand_dims("row")
    return found.assign_coords(source=("row", [source.name]), asked=("row", [label]))


def labelled(features: xr.DataArray, labels: np.ndarray) -> Labelled:
    """Clips whose label is known, by cell (step, block)."""
    known = np.flatnonzero(np.isfinite(labels))
    values = features.transpose("step", "block", "quadruplet", "role", "feature").values
    steps, blocks = features.step.values.tolist(), features.block.values.tolist()
    cells: dict[Hashable, np.ndarray] = {
        (step, block): values[i, j].reshape(-1, values.shape[-1])[known]
        for i, step in enumerate(steps)
        for j, block in enumerate(blocks)
    }
    groups = np.repeat(features.quadruplet.values, len(ROLES))[known]
    return Labelled(cells, labels[known] > 0.5, groups)


def row_scores(line: xr.Dataset) -> Scores:
    """Of one row."""
    logit, label = (line[key].transpose("quadruplet", "role").values for key in ("logit", "label"))
    known = np.isfinite(logit)
    groups = np.broadcast_to(np.arange(len(logit))[:, None], logit.shape)[known]
    return score(logit[known], label[known] > 0.5, groups)


def scores(result: xr.Dataset) -> xr.Dataset:
    """`COLUMNS` of every row, with its chance."""
    told = [row_scores(result.isel(row=i)) for i in range(result.sizes["row"])]
    values = {key: ("row", [getattr(one, key) for one in told]) for key in (*COLUMNS, "chance")}
    return xr.Dataset(values, {key: ("row", result[key].values) for key in ("source", "asked")})


def table(result: xr.Dataset) -> str:
    """Physics first, then the other labels: a line per row, the cell it chose, weights; what was not run."""
    measured, names = scores(result), [str(name) for name in result.source.values]
    width, labels = max(map(len, names)), list(dict.fromkeys(result.asked.values))
    lines = ["cell chosen on training scenes; test clips; 95% intervals over quadruplets"]
    for label in labels:
        lines.append(
            f"\n{f'label: {label}':{width}s}  accuracy              d'     pairwise  AUROC                 clips,"
            " groups  chance  step, layer; weights; sees"
        )
        lines += [
            _line(measured.isel(row=i), result.isel(row=i), width) for i in np.flatnonzero(result.asked.values == label)
        ]
    return "\n".join([*lines, "\nnot run", *(str(line) for line in result.not_run.values)])


def _line(told: xr.Dataset, made: xr.Dataset, width: int) -> str:
    accuracy, low, high, d_prime, pairwise, auroc, below, above, clips, groups = (float(told[key]) for key in COLUMNS)
    return (
        f"{told.source.item():{width}s}  {accuracy:.3f} [{low:.3f}, {high:.3f}]  {d_prime:+.2f}  {pairwise:.3f}"
        f"     {auroc:.3f} [{below:.3f}, {above:.3f}]  {clips:4.0f}, {groups:3.0f}     {float(told.chance):.3f}"
        f"   {int(made.chosen_step)}, {made.layer.item()}; {made.weights.item()}; {made.sees.item()}"
    )


if __name__ == "__main__":
    from figures.probe_controls import draw

    main(Config, run, table, draw, "probe_controls", __doc__)
