"""Which attention heads does the model need to tell possible clips from impossible ones?

What: accuracy lost without each head: ablate_heads-*.nc with counts of correctly classified clips (model, replacement,
score, part, scene, block, head).
Why: patching shows which heads are sufficient to carry the label; ablation shows which are necessary. A fixed probe can
fail because information moved: a refitted one says whether it is gone.
How: the z of one head is replaced by zero, the mean over training clips, or that of another clip of the same property;
after the probe's block the fixed probe and a refitted one read (and one for colour, where it is known).
Controls: a random write of the same length as the head's at each token; the same ablations in control models; heads are
ranked on half of the test scenes and reported on the other half.
Cost: about nine minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study

Kind = Literal["zero", "mean", "resample", "random write"]


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 120, "test": 60}
    ONE_PLACE: ClassVar[bool] = True

    replacements: tuple[Kind, ...] = ("zero", "mean", "resample", "random write")
    """What replaces the z of a head."""

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each head and replacement, of training scenes too."""
        scenes = 1 + size.train / max(1, size.test)
        return 0.5 * scenes * size.clips * len(self.replacements) * size.blocks * size.heads


CONFIG = asked(Config, __name__)

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from dit_lens import ablation
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import evaluations
from dit_lens.clips import Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.measures.ablation import NONE
from dit_lens.studies import outcome
from dit_lens.studies.ablations import (
    Colours,
    by_frame,
    by_property,
    check_donors,
    check_points,
    colours_of,
    donors_of,
    scene_first,
    scores,
    scores_there,
)
from dit_lens.studies.readers import Reader, reader_of

Means = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True, eq=False)
class States:
    """Probe inputs of the clips of some scenes: means by latent frame.

    Attributes:
        ids: of the scenes.
        whole: with the whole model (scene, role, feature).
        without: by replacement, without a head (scene, role, block, head, feature).
        colours: see `colours_of`.
    """

    ids: list[str]
    whole: np.ndarray
    without: Mapping[str, np.ndarray]
    colours: Colours | None


def run(config: Config) -> xr.Dataset:
    """Scores of all models with and without each head; every model is read after the block that the first model chose.

    Raises:
        ValueError: too few scenes, no replacements, or a single scene of a property. KeyError: a model without z.
    """
    if not config.replacements:
        raise ValueError("got no --replacements · expected one or more of zero, mean, resample, random write")
    splits = config.scenes("train"), config.scenes("test")
    if "resample" in config.replacements:
        for split in splits:
            check_donors(split)
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for _, lens in config.lenses():
        check_points(lens, [f"blocks.{block}.attn.hook_z" for block in range(lens.blocks)])
        reader = reader_of(config, lens, blocks=blocks)
        blocks, first = reader.blocks, lens if not parts else first
        parts[lens.name] = score(reader, config, *splits)
    (block,) = blocks.values()
    result = outcome.by_model(parts).assign(readout=block)
    return outcome.finished(outcome.with_scenes(result, config), config, first)


def score(reader: Reader, config: Config, train: Scenes, test: Scenes) -> xr.Dataset:
    """`counts` of each score by replacement, test scene, block and head; "none" is the whole model."""
    means = means_of(reader, config, train) if "mean" in config.replacements else {}
    fit, read = states(reader, config, train, means, "train"), states(reader, config, test, means, "test")
    colours, roles = (fit.colours, read.colours), list(test.roles or ())
    cells = {NONE: (fit.whole[:, :, None, None], read.whole[:, :, None, None])}
    cells |= {kind: (fit.without[kind], read.without[kind]) for kind in config.replacements}
    counts: dict[str, np.ndarray] = {}
    for kind, (x, y) in cells.items():
        by_cell = [
            scores(reader.probe, x[:, :, b, h], y[:, :, b, h], roles, colours) for b, h in np.ndindex(*x.shape[2:4])
        ]
        counts[kind] = np.stack(by_cell, -1).reshape(-1, 2, len(read.ids), *x.shape[2:4])
    shape = counts[config.replacements[0]].shape
    coords = {
        "replacement": list(counts), "score": scores_there(colours), "part": ["good", "of"], "scene": read.ids,
        "block": range(shape[3]), "head": range(shape[4]),
    }  # fmt: skip
    values = np.stack([np.broadcast_to(count, shape) for count in counts.values()])
    return xr.Dataset({"counts": (("replacement", "score", "part", "scene", "block", "head"), values)}, coords)


def states(reader: Reader, config: Config, scenes: Scenes, means: Means, split: str) -> States:
    """Probe inputs of every clip, with the intact model and without each head of the blocks up to the probe's."""
    ids, whole, colours = list[str](), list[np.ndarray](), list[Colours | None]()
    without: dict[str, list[np.ndarray]] = {kind: [] for kind in config.replacements}
    batches = by_property(scenes, config.batch_size)
    for batch in map(list, tqdm(batches, desc=f"{reader.lens.name}, {split}", unit="batch")):
        inputs, metric = evaluations(reader.lens, batch, reader.steps, reader.path), by_frame(reader.probe)
        for kind, replacement in _replacements(config, batch, means):
            table = ablation.ablate_heads(
                reader.lens, inputs, reader.steps, metric, replacement=replacement, blocks=_blocks(reader)
            )
            before, effect = (scene_first(x.isel(step=0).values, batch) for x in (table.before, table.effect))
            without[kind].append(before[:, :, None, None] + effect)
        whole.append(before)
        ids += [scene.id for scene in batch]
        colours.append(colours_of(batch))
    available = [labels for labels in colours if labels is not None]
    all_colours = np.concatenate(available) if len(available) == len(colours) else None
    return States(ids, np.concatenate(whole), {kind: np.concatenate(x) for kind, x in without.items()}, all_colours)


def _replacements(config: Config, batch: Sequence[Scene], means: Means) -> Iterator[tuple[str, ablation.Replacement]]:
    for kind in config.replacements:
        match kind:
            case "zero":
                yield kind, ablation.zero
            case "mean":
                yield kind, ablation.mean_of(means)
            case "resample":
                yield kind, ablation.resampled(donors_of(batch, config.seed))
            case "random write":
                yield kind, ablation.random_write(config.seed)


def means_of(reader: Reader, config: Config, train: Scenes) -> Means:
    """Mean z of each head over training clips."""
    batches = by_property(train, config.batch_size)
    inputs = (evaluations(reader.lens, list(batch), reader.steps, reader.path) for batch in batches)
    return ablation.means_over(reader.lens, inputs, [f"blocks.{block}.attn.hook_z" for block in _blocks(reader)])


def _blocks(reader: Reader) -> range:
    """The blocks up to the probe's."""
    return range(block_of(reader.probe.reads.point) + 1)


if CONFIG is not None:
    answer(CONFIG, run)
