"""Clips read on a path by the intact model and with each block ablated, at the step that is read or at steps before it.

Worked example (an inversion read at step 7, ablated at steps 4, 5, 6): "at the readout" ablates in the evaluation at
step 7 alone, whose latent the intact model inverted; "on the way" inverts again from step 4 with the block ablated and
evaluates the intact model at step 7; "both" ablates at all four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from dit_lens import ablation
from dit_lens.capture import begins_alike, encode, evaluations, takes_levels_by_frame, trajectory_of
from dit_lens.clips import Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import SPLICES
from dit_lens.interventions import PathSegment, sweep, sweep_along
from dit_lens.lens import DiTLens
from dit_lens.measures.ablate_blocks import AT_ONCE
from dit_lens.running import Evaluation
from dit_lens.studies.ablations import Colours, by_frame, by_property, colours_of, scene_first
from dit_lens.studies.block_ablations import Absent, BySteps, Replacement, Write, material_of, writes_of
from dit_lens.studies.options import Options
from dit_lens.studies.readers import Reader
from dit_lens.studies.velocity_errors import error_from_break
from dit_lens.trajectory import Trajectory

READINGS = {"continuation": AT_ONCE[:1], "inversion": (AT_ONCE[1], "on the way", "both")}
Splits = tuple[Scenes, Scenes]  # to fit on, to test on


@dataclass(frozen=True)
class Ablations:
    """What is ablated in every clip.

    Attributes:
        replacements, writes: of every block.
        alpha: of the replacement "noise".
        seed: of all that is drawn.
    """

    replacements: tuple[Replacement, ...]
    writes: tuple[Write, ...]
    alpha: float
    seed: int

    def cells(self, blocks: int) -> list[Absent]:
        """Every replacement of every write of every block, blocks fastest."""
        return [Absent(*cell) for cell in product(self.replacements, self.writes, range(blocks))]


@dataclass(frozen=True, eq=False)
class States:
    """Probe inputs of the clips of some scenes, from the intact and the ablated model.

    Attributes:
        ids: of the scenes.
        whole: means by latent frame at the readout in the whole model (scene, role, feature).
        without: by reading, (scene, role, cell, feature).
        error: of the velocity from the break on, (scene, role, 1 + cell), the whole model first; None where no frames
            are given.
        colours: see `colours_of`.
    """

    ids: list[str]
    whole: np.ndarray
    without: Mapping[str, np.ndarray]
    error: np.ndarray | None
    colours: Colours | None


def paths_of(study: Options, lens: DiTLens, splits: Splits) -> list[Literal["continuation", "inversion"]]:
    """The paths to read on: a continuation too, where the clips of every scene begin alike."""
    if study.path == "continuation":
        return ["continuation"]
    all_begin_alike = SPLICES in study.spec.gives and SPLICES in study.fit_spec.gives and takes_levels_by_frame(lens)
    if all_begin_alike:
        latents = encode(lens.encode, [splits[1][0]]).shape[2]
        all_begin_alike = all(begins_alike(scene, latents) for split in splits for scene in split)
    return ["continuation", "inversion"] if all_begin_alike else ["inversion"]


@dataclass(frozen=True, eq=False)
class Readings:
    """Reads clips on the path of one model's probe, with the intact model and with each cell ablated.

    Attributes:
        away: steps before the readout at which a block is ablated on the way.
        batch_size: scenes to a batch.
    """

    reader: Reader
    ablations: Ablations
    away: Sequence[int]
    batch_size: int

    def means(self, train: Scenes) -> BySteps:
        """Mean writes of all blocks over training clips; empty unless the replacement "mean" is used."""
        if "mean" not in self.ablations.replacements:
            return {}
        lens = self.reader.lens
        writes = [write for block in range(lens.blocks) for write in writes_of(lens, block)]
        inputs = (self._inputs(list(batch))[0] for batch in by_property(train, self.batch_size))
        return ablation.means_over(lens, inputs, writes)

    def read(self, scenes: Scenes, means: BySteps, at_once: bool = False) -> States:
        """Probe inputs of every clip; unless `at_once`, also of ablations along the path, and the velocity's error."""
        readings = READINGS[self.reader.path.kind][: 1 if at_once else None]
        ids, rows, colours = list[str](), list[tuple[np.ndarray, ...]](), list[Colours | None]()
        title = f"{self.reader.lens.name}, {self.reader.path.kind}"
        for batch in map(list, tqdm(by_property(scenes, self.batch_size), desc=title, unit="batch")):
            rows.append(self._batch(batch, means, at_once))
            ids += [scene.id for scene in batch]
            colours.append(colours_of(batch))
        whole, *values = (np.concatenate(column) for column in zip(*rows, strict=True))
        without = dict(zip(readings, values, strict=False))
        error = values[len(readings)] if len(values) > len(readings) else None
        available = [labels for labels in colours if labels is not None]
        return States(ids, whole, without, error, np.concatenate(available) if len(available) == len(colours) else None)

    def _inputs(self, batch: Sequence[Scene]) -> tuple[dict[int, Evaluation], Trajectory | None]:
        """The evaluations to ablate, by step, and the trajectory that they lie on, if any."""
        reader, (step,) = self.reader, self.reader.steps
        if reader.path.kind == "continuation":
            return evaluations(reader.lens, batch, [step], reader.path), None
        trajectory = trajectory_of(reader.lens, batch, reader.path, until=step)
        return {number: reader.lens.evaluation(trajectory, number) for number in (*self.away, step)}, trajectory

    def _batch(self, batch: list[Scene], means: BySteps, at_once: bool) -> tuple[np.ndarray, ...]:
        """States of the whole model, states by reading, and errors where frames are given; (scene, role, ...) each."""
        lens, metric, chosen = self.reader.lens, {"states": by_frame(self.reader.probe)}, self.ablations
        (step,), (inputs, trajectory) = self.reader.steps, self._inputs(batch)
        material = material_of(lens, inputs, batch, chosen.replacements, means, (chosen.alpha, chosen.seed))
        writes = [writes_of(lens, block) for block in range(lens.blocks)]
        scored = self.reader.path.kind == "continuation" and not at_once
        if scored:
            metric["error"] = error_from_break(lens, batch, self.reader.path)
        absent = [cell.intervention(writes[cell.block], material) for cell in chosen.cells(lens.blocks)]
        once = sweep(lens, inputs[step], absent, metric)
        effects = [once]
        if trajectory is not None and not at_once:
            along = sweep_along(lens, PathSegment(trajectory, self.away, step), absent, metric)
            effects += [along.end, along.both]
        before = scene_first(once.before["states"].numpy(), batch)
        parts = [before, *(before[:, :, None] + scene_first(x.effect["states"].numpy(), batch) for x in effects)]
        if scored:
            error = once.before["error"][:, None]
            parts.append(scene_first(torch.cat([error, error + once.effect["error"]], 1).numpy(), batch))
        return tuple(parts)
