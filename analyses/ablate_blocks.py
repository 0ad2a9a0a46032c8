"""Which blocks does plausibility need, and does it need them along the inversion or at the readout?

Why: ablation asks whether a block is necessary. In an inverted clip a block has already acted at earlier steps, so an
ablation at the readout alone can miss what it wrote before.

Method: the write of a block to the stream (all of it, or that of its attention or MLP alone) is replaced by zero, by
the mean over training clips, by that of another clip of the same property and step, or by a random write; or Gaussian
noise is added to its output (h + alpha std(h) eps, as in 'The Invisible Hand of Physics') or to the write. A frozen
probe, fitted on the intact model, reads the resulting states, in up to four ways: "half given" (frames before the break
are kept clean, the block is ablated in the evaluation that is read), and on inverted clips "at the readout" (ablated in
the evaluation that is read), "on the way" (ablated at the last inversion steps before it) and "both". Effects are
changes of the label effect (possible minus impossible clips, averaged over the pairs of a scene: (A + B - C - D) / 2,
or A - C for one pair), in probe SDs: below 0, possible and impossible clips move closer. Where one step is read, a
probe is also refitted, and one for colour where it is known: information is lost only where the refitted probe fails
too. With clean frames, the change of surprise is measured too, in per cent of the intact model's error on possible
clips.

Controls: a random write of the same length at each token; control models; the largest |t| over all cells under random
swaps of labels. Ablation during a continuation is not measured: a continuation has no trajectory.

Output: ablate_blocks-*.nc with logits, counts and errors (model, reading, replacement, write, block, scene).

Cost: about six minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study

Kind = Literal["zero", "mean", "resample", "noise", "random write"]
Write = Literal["all", "attn_out", "mlp_out"]
SOLVERS = ("euler", "implicit_euler", "heun")  # which evaluate at steps alone


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --path inversion gives all four readings, --path continuation only "half given"."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null",), "properties": LAWS, "path": "inversion", "sampler_steps": 10, "read_at": (7,),
        "train": 40, "test": 16,
    }  # fmt: skip
    ONE_PLACE: ClassVar[bool] = True

    replacements: tuple[Kind, ...] = ("mean", "noise", "random write")
    """What replaces the write of a block."""
    writes: tuple[Write, ...] = ("all", "attn_out", "mlp_out")
    """Which writes are ablated: all of a block, or those of its attention or MLP."""
    alpha: float = 0.5
    """Standard deviation of the added noise, relative to that of each token."""
    away: int = 3
    """Number of inversion steps before the readout at which a block is ablated ("on the way")."""

    def check(self) -> None:
        """That options go together.

        Raises:
            ValueError: no replacements or writes, or a path or solver that does not evaluate at steps alone.
        """
        super().check()
        if not self.replacements or not self.writes or self.away < 1:
            raise ValueError(
                f"got --replacements {' '.join(self.replacements)} --writes {' '.join(self.writes)} --away {self.away}"
                " · expected one or more replacements (zero, mean, resample, noise, random write), one or more writes"
                " (all, attn_out, mlp_out), and --away 1 or more"
            )
        if self.path == "noising" or (self.path == "inversion" and self.solver not in SOLVERS):
            raise ValueError(
                f"got --path {self.path} --solver {self.solver} · expected an inversion by {', '.join(SOLVERS)} (these"
                " solvers evaluate the model only at steps), or a continuation · change --path or --solver"
            )

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each cell at the readout, of training scenes too; whole forwards along the trajectory."""
        cells = len(self.replacements) * len(self.writes) * size.blocks
        once = 0.5 * (1 + size.train / max(1, size.test)) * 2
        return size.clips * cells * (once + (self.path == "inversion") * (self.away + 2))


CONFIG = asked(Config, __name__)

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from tqdm import tqdm

from dit_lens import ablation
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import (
    NoisePath,
    begins_alike,
    clean_frames,
    encode,
    evaluations,
    spliced_noise,
    takes_levels_by_frame,
    trajectory_of,
)
from dit_lens.clips import Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import SPLICES
from dit_lens.interventions import PathSegment, sweep, sweep_along
from dit_lens.lens import DiTLens
from dit_lens.measures.ablate_blocks import AT_ONCE
from dit_lens.measures.ablation import NONE
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation
from dit_lens.studies import outcome
from dit_lens.studies.ablations import (
    Colours,
    by_frame,
    by_property,
    check_donors,
    check_points,
    colours_of,
    logits,
    right,
    scene_first,
    scores,
    scores_there,
)
from dit_lens.studies.block_ablations import Absent, BySteps, material_of, points_of, writes_of
from dit_lens.studies.paths import path_of, steps_of
from dit_lens.studies.readers import Reader, reader_of
from dit_lens.trajectory import Trajectory

READINGS = {"continuation": AT_ONCE[:1], "inversion": (AT_ONCE[1], "on the way", "both")}
Splits = tuple[Scenes, Scenes]


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


def run(config: Config) -> xr.Dataset:
    """Readings of all models; every model is read after the blocks that the first model chose.

    Raises:
        ValueError: too few scenes, or no step before the readout. KeyError: a model without such writes.
    """
    splits = config.scenes("train"), config.scenes("test")
    if "resample" in config.replacements:
        for split in splits:
            check_donors(split)
    parts: dict[str, xr.Dataset] = {}
    blocks: dict[str, Mapping[int, int]] = {}
    for _, lens in config.lenses():
        check_lens(config, lens, splits[1])
        first, kinds = (lens, paths_of(config, lens, splits)) if not parts else (first, kinds)
        tables: list[xr.Dataset] = []
        for kind in kinds:
            reader = reader_of(config, lens, path_of(config, kind=kind), blocks.get(kind))
            blocks[kind] = reader.blocks
            tables.append(Bench(config, reader, means_of(config, reader, splits[0])).table(splits))
        errors = [table[["error"]] for table in tables if "error" in table]
        readings = xr.concat([table.drop_vars("error", errors="ignore") for table in tables], "reading")
        parts[lens.name] = xr.merge([readings, *errors])
    return outcome.finished(outcome.with_scenes(outcome.by_model(parts), config), config, first)


def check_lens(config: Config, lens: DiTLens, test: Sequence[Scene]) -> None:
    """Checks that a model has the writes to ablate, and that a step lies before the readout."""
    chosen = [f"hook_{write}" for write in config.writes if write != "all"]
    for block in range(lens.blocks):
        check_points(lens, [*points_of(lens, block), *(f"blocks.{block}.{name}" for name in chosen)])
    (step,) = steps_of(config, lens, test, path_of(config, kind="noising"))
    if step == 0:
        raise ValueError(
            f"got --read-at {' '.join(map(str, config.read_at or ()))}, the clean clip · expected a step above 0"
        )


def paths_of(config: Config, lens: DiTLens, splits: Splits) -> list[Literal["continuation", "inversion"]]:
    """The paths to read on: a continuation too, where the clips of every scene begin alike."""
    if config.path == "continuation":
        return ["continuation"]
    all_begin_alike = SPLICES in config.spec.gives and SPLICES in config.fit_spec.gives and takes_levels_by_frame(lens)
    if all_begin_alike:
        latents = encode(lens.encode, [splits[1][0]]).shape[2]
        all_begin_alike = all(begins_alike(scene, latents) for split in splits for scene in split)
    return ["continuation", "inversion"] if all_begin_alike else ["inversion"]


def fed_with(config: Config, reader: Reader, batch: Sequence[Scene]) -> tuple[dict[int, Evaluation], Trajectory | None]:
    """The evaluations to ablate, by step, and the trajectory that they lie on, if any."""
    (step,) = reader.steps
    if reader.path.kind == "continuation":
        return evaluations(reader.lens, batch, [step], reader.path), None
    trajectory = trajectory_of(reader.lens, batch, reader.path, until=step)
    steps = (*steps_away(config, step), step)
    return {number: reader.lens.evaluation(trajectory, number) for number in steps}, trajectory


def steps_away(config: Config, step: int) -> range:
    """The steps before the readout at which a block is ablated."""
    return range(max(0, step - config.away), step)


def means_of(config: Config, reader: Reader, train: Scenes) -> BySteps:
    """Mean writes of all blocks over training clips; empty unless the replacement "mean" is used."""
    if "mean" not in config.replacements:
        return {}
    writes = [write for block in range(reader.lens.blocks) for write in writes_of(reader.lens, block)]
    inputs = (fed_with(config, reader, list(batch))[0] for batch in by_property(train, config.batch_size))
    return ablation.means_over(reader.lens, inputs, writes)


@dataclass(frozen=True, eq=False)
class Bench:
    """Reads clips on one path, with the intact model and with each cell ablated."""

    config: Config
    reader: Reader
    means: BySteps

    @property
    def cells(self) -> list[Absent]:
        """Every replacement of every write of every block, blocks fastest."""
        config, blocks = self.config, range(self.reader.lens.blocks)
        return [Absent(*cell) for cell in product(config.replacements, config.writes, blocks)]

    def table(self, splits: Splits) -> xr.Dataset:
        """`logit` in probe SDs, `counts`, `error` by reading, replacement ("none": whole model), write and block."""
        fit, test = self.read(splits[0], at_once=True), self.read(splits[1])
        readings, probe, roles = READINGS[self.reader.path.kind], self.reader.probe, list(splits[1].roles or ())
        scored = [_scored(self.reader, fit, test, reading, roles) for reading in readings]
        logit, counts = (np.stack([self._placed(values) for values in part]) for part in zip(*scored, strict=True))
        cells = "replacement", "write", "block"
        variables: dict[str, tuple[tuple[str, ...], object]] = {
            "logit": (("reading", *cells, "scene", "role"), logit),
            "counts": (("reading", *cells, "scene", "score", "part"), counts),
            "readout": (("reading",), [block_of(probe.reads.point)] * len(readings)),
        }
        if test.error is not None:
            variables["error"] = (*cells, "scene", "role"), self._placed(test.error)
        coords = {
            "reading": list(readings), "replacement": [NONE, *self.config.replacements],
            "write": list(self.config.writes), "block": range(self.reader.lens.blocks), "role": roles,
            "score": scores_there((fit.colours, test.colours)), "part": ["good", "of"], "scene": test.ids,
        }  # fmt: skip
        return xr.Dataset(variables, coords=coords)

    def read(self, scenes: Scenes, at_once: bool = False) -> States:
        """Probe inputs of every clip; unless `at_once`, also of ablations along the path, and the velocity's error."""
        readings = READINGS[self.reader.path.kind][: 1 if at_once else None]
        ids, rows, colours = list[str](), list[tuple[np.ndarray, ...]](), list[Colours | None]()
        batches = by_property(scenes, self.config.batch_size)
        title = f"{self.reader.lens.name}, {self.reader.path.kind}"
        for batch in map(list, tqdm(batches, desc=title, unit="batch")):
            rows.append(self._batch(batch, at_once))
            ids += [scene.id for scene in batch]
            colours.append(colours_of(batch))
        whole, *values = (np.concatenate(column) for column in zip(*rows, strict=True))
        without = dict(zip(readings, values, strict=False))
        error = values[len(readings)] if len(values) > len(readings) else None
        available = [labels for labels in colours if labels is not None]
        return States(ids, whole, without, error, np.concatenate(available) if len(available) == len(colours) else None)

    def _batch(self, batch: list[Scene], at_once: bool) -> tuple[np.ndarray, ...]:
        """States of the whole model, states by reading, and errors where frames are given; (scene, role, ...) each."""
        config, lens, metric = self.config, self.reader.lens, {"states": by_frame(self.reader.probe)}
        (step,), (inputs, trajectory) = self.reader.steps, fed_with(config, self.reader, batch)
        material = material_of(lens, inputs, batch, config.replacements, self.means, (config.alpha, config.seed))
        writes = [writes_of(lens, block) for block in range(lens.blocks)]
        scored = self.reader.path.kind == "continuation" and not at_once
        if scored:
            metric["error"] = error_from_break(lens, batch, self.reader.path)
        absent = [cell.intervention(writes[cell.block], material) for cell in self.cells]
        once = sweep(lens, inputs[step], absent, metric)
        effects = [once]
        if trajectory is not None and not at_once:
            segment = PathSegment(trajectory, steps_away(config, step), step)
            along = sweep_along(lens, segment, absent, metric)
            effects += [along.end, along.both]
        before = scene_first(once.before["states"].numpy(), batch)
        parts = [before, *(before[:, :, None] + scene_first(x.effect["states"].numpy(), batch) for x in effects)]
        if scored:
            error = once.before["error"][:, None]
            parts.append(scene_first(torch.cat([error, error + once.effect["error"]], 1).numpy(), batch))
        return tuple(parts)

    def _placed(self, values: Float[np.ndarray, "*rest cell"]) -> np.ndarray:
        """Values as (replacement, write, block, *rest), from cells of which the first is the intact model."""
        shape = len(self.config.replacements), len(self.config.writes), self.reader.lens.blocks
        cells = np.moveaxis(values, -1, 0)
        whole = np.broadcast_to(cells[0], (1, *shape[1:], *cells.shape[1:]))
        return np.concatenate([whole, cells[1:].reshape(*shape, *cells.shape[1:])])


def error_from_break(lens: DiTLens, batch: Sequence[Scene], path: NoisePath) -> Readout:
    """Velocity error on the frames from each clip's break on, earlier frames being given clean."""
    clean = encode(lens.encode, batch, path.crossing)
    truth, latents = (spliced_noise(clean, batch, path.seed) - clean).float(), clean.shape[2]
    scored = torch.arange(latents) >= torch.tensor(clean_frames(batch, latents))[:, None]

    def error(velocity: torch.Tensor, cache: Mapping[str, torch.Tensor]) -> torch.Tensor:
        square = (velocity.float() - truth.to(velocity.device)).square()
        frames, mask = reduce(square, "b c f h w -> b f", "mean"), scored.to(square)
        return (frames * mask).sum(1) / mask.sum(1)

    return Readout(error)


def _scored(
    reader: Reader, fit: States, test: States, reading: str, roles: Sequence[str]
) -> tuple[Float[np.ndarray, "scene role cell"], Float[np.ndarray, "scene score 2 cell"]]:
    """Logits in probe SDs and counts of correct clips, the intact model first.

    Probes are refitted where training clips were read so, too; elsewhere counts of their scores are NaN.
    """
    probe, colours = reader.probe, (fit.colours, test.colours)
    logit = logits(probe, np.concatenate([test.whole[:, :, None], test.without[reading]], 2))
    counts = np.full((len(scores_there(colours)), 2, *logit.shape[::2]), np.nan)
    for cell in np.flatnonzero(np.isfinite(logit).all((0, 1))):
        if reading in fit.without:
            x, y = ((s.whole if cell == 0 else s.without[reading][:, :, cell - 1]) for s in (fit, test))
            counts[..., cell] = scores(probe, x, y, roles, colours)
        else:
            counts[0, ..., cell] = right(logit[:, :, cell], roles)
    return logit / probe.spread, np.moveaxis(counts, 2, 0)


if CONFIG is not None:
    answer(CONFIG, run)
