"""Does where a model's heads attend separate possible from impossible clips, and better than its states do?

What: accuracy of probes on attention between frames, by head and block: probe_attention-*.nc with log odds (source,
block, feature, scene, role).
Why: attention patterns are often proposed as the place where relations between frames can be read; the states are the
comparison that decides it.
How: features are the attention from each latent frame to each other, of one head or of a block; a logistic probe, its
cell chosen out of fold on training scenes, is scored once on test scenes. Models that mix text in are refused.
Controls: control models; labels swapped within scenes, with the maximum over all heads and blocks; the states.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"train": 220, "test": 132}
    ONE_PLACE: ClassVar[bool] = True

    permutations: int = 100
    """Random labellings of the null distribution; p < .05 needs at least 19."""


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from dit_lens.capture import batches, by_scene, evaluations, pooled
from dit_lens.capture.collecting import Collector
from dit_lens.capture.storing import columns
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_attention import ALL, STATES
from dit_lens.probing import Features, fit
from dit_lens.reductions import FrameMasses
from dit_lens.studies import outcome
from dit_lens.studies.paths import path_of, schedule, steps_of

LEAST = 19  # labellings: the fewest whose maximum is a threshold at p = .05


def run(config: Config) -> xr.Dataset:
    """Log odds of every cell on test scenes and its accuracy on training scenes, for every model."""
    train, test = config.scenes("train"), config.scenes("test")
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        parts[name] = scored(looked(config, lens, train), looked(config, lens, test), config)
        if len(parts) == 1:
            (step,) = steps_of(config, lens, test)
            sigma, question = schedule(config, lens, test).sigmas[step], lens
    result = outcome.with_scenes(outcome.by_model(parts, dim="source"), config)
    return outcome.finished(result, config, question, sigma=sigma)


@torch.no_grad()
def looked(config: Config, lens: DiTLens, scenes: Sequence[Scene]) -> Features:
    """Attention between frames, and states, of all clips: cells (block, feature) of a head, of ALL heads, or of STATES.

    Raises:
        ValueError: the attention is over text and video jointly.
    """
    masses, states = FrameMasses(lens.table), Collector(lens, [pooled()])
    cells: dict[tuple[int, str], list[Tensor]] = {}
    rows: dict[str, list[Any]] = {}
    for batch in batches(scenes, config.batch_size, f"{lens.name}, attention"):
        (evaluation,) = evaluations(lens, batch, steps_of(config, lens, scenes), path_of(config)).values()
        with lens.hooks([(masses.points, masses)]):
            states_by_block = states.evaluate(lens, evaluation)
        cell_values = {(int(block or 0), STATES): state.values for (_, block), state in states_by_block.items()}
        for block, mass in masses.taken.items():
            cell_values |= {(block, str(head)): mass[:, head] for head in range(mass.shape[1])} | {(block, ALL): mass}
        for cell, values in cell_values.items():
            cells.setdefault(cell, []).append(values[by_scene(batch)].flatten(1).float().cpu())
        for key, column in columns(batch).items():
            rows.setdefault(key, []).extend(column)
    names = [*map(str, range(lens.heads)), ALL, STATES]
    by_cell = {(block, name): torch.cat(cells[block, name]).numpy() for block in masses.taken for name in names}
    return Features(by_cell, pd.DataFrame(rows), ("block", "feature"), name=lens.name)


def scored(train: Features, test: Features, config: Config) -> xr.Dataset:
    """Log odds on test scenes, out-of-fold accuracy on training scenes, and the accuracy that chance reaches there."""
    attention = train.select(feature=[name for name in train.coordinates["feature"] if name != STATES])
    null = fit(attention, permutations=config.permutations, seed=config.seed).null
    probes = fit(train)
    logits = probes.all_logits(test).values.reshape(len(test), -1)
    by_cell = [test.table(column).drop_vars("possible", errors="ignore") for column in logits.T]
    grid = train.over_cells(np.stack(by_cell), {str(dim): by_cell[0][dim].values for dim in by_cell[0].dims})
    largest = null.threshold() if null is not None and config.permutations >= LEAST else np.nan
    return xr.Dataset(
        {
            "logit": grid,
            "train_accuracy": probes.accuracy,
            "threshold": largest,
            "p": np.nan if null is None else null.p,
        }
    )


if CONFIG is not None:
    answer(CONFIG, run)
