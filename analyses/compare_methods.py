"""Do ablation, patching, direct attribution, first-order patching and integrated gradients name the same heads?

What: rank agreement of six estimates of each head's share of the label effect (possible minus impossible clips):
compare_methods-*.nc with contrasts (model, readout, estimate, scene, block, head) in probe SDs.
Why: each method has its own assumptions; a head that all of them name is a safer claim, and where they differ shows
what later layers contribute.
How: patching within pairs, ablation by other scenes' z and by the mean, the head's write along the probe, gradient
times difference, and integrated gradients, on the same clips, step and probe; Spearman's correlation over heads.
Controls: control models; a random direction in place of the probe; each method against itself on two halves of the
scenes; the heads shown are chosen on half of the test scenes and reported on the other half.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null",), "properties": LAWS, "train": 160, "test": 24,
    }  # fmt: skip
    ONE_PLACE: ClassVar[bool] = True

    nodes: int = 6
    """Gradients per integration line of integrated gradients (Gauss-Legendre nodes)."""
    limit: float = 0.1
    """Largest accepted convergence delta, relative to max(|change of the logit|, probe SD)."""

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each head by patching, over both pairs of a clip, and by two ablations; and gradients."""
        pairs = 1 + (size.clips == 4)
        heads = 0.5 * size.blocks * size.heads * (pairs + 2)
        return size.clips * (heads + 2 * pairs * 3 * size.blocks * (1 + self.nodes))


CONFIG = asked(Config, __name__)

from dataclasses import replace

import numpy as np
import xarray as xr
from tqdm import tqdm

from dit_lens import ablation
from dit_lens.attribution import Integral
from dit_lens.capture import batches, evaluations
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import CROSSED
from dit_lens.measures.compare_methods import METHODS
from dit_lens.measures.patching import PLAUSIBILITY, RANDOM
from dit_lens.studies import outcome
from dit_lens.studies.ablations import by_property, check_donors, check_points, donors_of
from dit_lens.studies.exchanges import partners_of
from dit_lens.studies.head_shares import Bench, Means, contrasts
from dit_lens.studies.readers import Reader, reader_of
from dit_lens.studies.readouts import readouts


def run(config: Config) -> xr.Dataset:
    """Contrasts of all models, along a dimension `model`; all are read after the block that the first model chose.

    Raises:
        ValueError: too few scenes, a single scene of a property, or a convergence delta above the limit.
        KeyError: a model without z.
    """
    train, test = config.scenes("train"), config.scenes("test")
    check_donors(test)
    roles = test.roles or test[0].roles
    partners = partners_of(roles, CROSSED in config.spec.gives)
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for _, lens in config.lenses():
        check_points(lens, [f"blocks.{block}.attn.hook_z" for block in range(lens.blocks)])
        reader = reader_of(config, lens, blocks=blocks)
        blocks, first, (step,) = reader.blocks, lens if not parts else first, reader.steps
        read = readouts(reader, train.at([]), step, 1, config.seed)
        read = replace(read, lines=tuple(line for line in read.lines if line.kind in (PLAUSIBILITY, RANDOM)))
        integral = Integral(steps=config.nodes, limit=config.limit)
        bench = Bench(lens, step, read, means_of(reader, config, train), roles, partners, integral)
        parts[lens.name] = compare(bench, config, reader, test).assign(score=read.facts().score.drop_vars("kind"))
    result = outcome.by_model(parts).assign_coords(readout_block=blocks[step], sigma=reader.probe.reads.sigma)
    return outcome.finished(outcome.with_scenes(result, config), config, first)


def means_of(reader: Reader, config: Config, train: Scenes) -> Means:
    """Mean z of the training clips."""
    inputs = (evaluations(reader.lens, batch, reader.steps, reader.path) for batch in batches(train, config.batch_size))
    names = [f"blocks.{block}.attn.hook_z" for block in range(reader.blocks[reader.steps[0]] + 1)]
    return ablation.means_over(reader.lens, inputs, names)


def compare(bench: Bench, config: Config, reader: Reader, test: Scenes) -> xr.Dataset:
    """`contrast` (readout, estimate, scene, block, head) in probe SDs, in batches of one property each."""
    parts, ids = list[np.ndarray](), list[str]()
    batched = by_property(test, config.batch_size)
    for batch in map(list, tqdm(batched, desc=f"{bench.lens.name}, methods", unit="batch")):
        (evaluation,) = evaluations(bench.lens, batch, [bench.step], reader.path).values()
        parts.append(contrasts(bench, evaluation, donors_of(batch, config.seed)))
        ids += [scene.id for scene in batch]
    dims = ("readout", "estimate", "scene", "block", "head")
    values = np.concatenate(parts, axis=2)
    spread = np.array([line.spread for line in bench.read.lines]).reshape(-1, *[1] * (len(dims) - 1))
    coords = {
        "readout": [line.name for line in bench.read.lines], "estimate": list(METHODS), "scene": ids,
        "block": range(values.shape[3]), "head": range(values.shape[4]),
    }  # fmt: skip
    return xr.Dataset({"contrast": (dims, (values / spread).astype("float32"))}, coords=coords)


if CONFIG is not None:
    answer(CONFIG, run)
