"""Which blocks does plausibility need, and does it need them on the way to the readout or at the readout?

Method: a block is taken away: what it writes to the stream (all of it, or what its attention or its MLP alone writes)
is zero, the mean over training clips, or another clip's of the same law and step; or Gaussian noise is put on its
output (h + alpha std(h) eps, the block intervention of 'The Invisible Hand of Physics') or on the write. A frozen
probe, fitted on the whole model at `step`, reads what is left. Four readings:

- "half given": the first half given clean and the second noised; the block is away in the evaluation that is read;
- "at the readout": the same on a clip that was inverted to this level;
- "on the way": the block is away at the steps of `way` while the clip is inverted, and back when it is read: what it
  had written into x_sigma;
- "both": away on the way and at the readout.

Each effect is told by its label-odd part, A + B - C - D, in probe standard deviations: below 0, the possible and the
impossible come closer. Where states are read at one step alone, a probe is refitted too, and one for colour: knowledge
is gone only where the second falls. With the first half given, the velocity's error against the truth gives the change
of surprise, (C + D - A - B) / 2 in per cent of the whole model's error on possible clips.

Controls: a random write as long as the block's own at each token; a twin that never saw lawful clips (a random
initialisation by option). The largest |t| of all cells under random swaps of labels gives a threshold for the maps.
Not said: what a block does on the way where the first half is given clean, which is no trajectory.

Output: figures/data/ablate_blocks.nc with label-odd effects, counts and errors (model, reading, replacement, write,
block, quadruplet).
Cost: about six minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from analyses.ablate_blocks_changes import REPLACEMENTS, WRITES, Absent, BySteps, Replacement, Write, known, writes_of
from analyses.ablate_blocks_table import table
from analyses.ablations import SCORES, by_frame, by_property, by_quadruplet, logits, right, scores
from analyses.command import main
from analyses.frozen_probe import Options, cross_validate, fit_probe, load, route
from dit_lens import ablation
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import encode, evaluations, latent_splice, spliced_noise, travel
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.metrics import VelocityError
from dit_lens.probing import Probe
from dit_lens.running import Evaluation
from dit_lens.sweeps import Stretch, sweep, sweep_along
from dit_lens.trajectory import Trajectory

Way = Literal["continuation", "inversion"]
ROUTES: Mapping[Way, tuple[str, ...]] = {
    "continuation": ("half given",),
    "inversion": ("at the readout", "on the way", "both"),
}


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null",)
    """Models in which nothing must be found; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    properties: tuple[str, ...] = ("continuity", "inertia", "gravity", "permanence")
    """Which of its laws: by default those that mini-wan's states tell best."""
    step: int = 7
    """Step to read at, counted from data (0) to noise."""
    way: tuple[int, ...] = (4, 5, 6)
    """Steps on the way to it at which a block is away."""
    levels: int = 10
    """Steps of the sampler between data and noise (Euler)."""
    replacements: tuple[Replacement, ...] = ("mean", "noise", "random write")
    """What takes a block's place; also "zero" and "resample"."""
    writes: tuple[Write, ...] = WRITES
    """What of a block is taken away: all that it writes, or what one layer does."""
    alpha: float = 0.5
    """Noise in standard deviations of each token."""
    train: int = 40
    """Training quadruplets of all probes."""
    test: int = 16
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of all that is drawn at random, and of the random initialisation."""

    def on(self, way: Way) -> Options:
        """What a probe's fit is told of a way to noise."""
        return Options(path=way, step=self.step, levels=self.levels, batch_size=self.batch_size, seed=self.seed)


Cells = tuple[Float[np.ndarray, "q role cell"], Float[np.ndarray, "q score 2 cell"]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What is read of clips, role by role made quadruplet by quadruplet.

    Attributes:
        whole: means by latent frame at the readout in the whole model (q, role, feature).
        without: by reading, (q, role, cell, feature).
        error: of the velocity in the second half, (q, role, 1 + cell), the whole model first; None where no truth is.
    """

    whole: np.ndarray
    without: Mapping[str, np.ndarray]
    error: np.ndarray | None


def run(config: Config) -> xr.Dataset:
    """Readings of all models; every model is read at the blocks that the first chose.

    Raises:
        ValueError: too few quadruplets, no replacements or writes, or steps that are not on the way.
    """
    if not config.replacements or not config.writes:
        raise ValueError(
            f"got replacements {config.replacements} of {config.writes} · expected of {', '.join(REPLACEMENTS)}, of"
            f" {', '.join(WRITES)}"
        )
    if not config.way or not all(0 <= step < config.step for step in config.way):
        raise ValueError(
            f"got steps {config.way} on the way to {config.step} · expected one or more from 0 to {config.step - 1}"
        )
    splits = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    models: list[xr.Dataset] = []
    readout: dict[Way, int] = {}
    for name in (config.model, *config.controls):
        lens, routes = DiTLens.from_pretrained(name, seed=config.seed), []
        for way in ROUTES:
            accuracy, cells = cross_validate(lens, config.on(way), splits[0])
            readout.setdefault(way, int(accuracy.values[0].argmax()))
            probe = fit_probe(cells, config.step, readout[way], lens.name)
            routes.append(of_route(lens, config, way, probe, splits))
        errors = routes[0][["error"]]
        models.append(xr.concat([r.drop_vars("error", errors="ignore") for r in routes], "reading").merge(errors))
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "path": ", ".join(ROUTES)}
    result = xr.concat(models, xr.Variable("model", [config.model, *config.controls]))
    return result.assign_attrs(attrs | {"lens": lens.facts()})


def of_route(
    lens: DiTLens, config: Config, way: Way, probe: Probe, splits: tuple[Sequence[Quadruplet], Sequence[Quadruplet]]
) -> xr.Dataset:
    """`logit` in probe SDs, `counts` and `error` by reading, replacement ("none" is the whole model), write, block."""
    fit, test = (by_property(split, config.batch_size) for split in splits)
    reader = Reader(lens, config, way, probe, _means(lens, config, way, fit))
    seen = reader.read(fit, at_once_alone=True), reader.read(test)
    laws = [[q for batch in part for q in batch] for part in (fit, test)]
    scored = [_scored(probe, seen, laws, reading) for reading in ROUTES[way]]
    logit, counts = (np.stack([_placed(config, lens, values) for values in part]) for part in zip(*scored, strict=True))
    cells = "replacement", "write", "block"
    found: dict[str, tuple[tuple[str, ...], object]] = {
        "logit": (("reading", *cells, "quadruplet", "role"), logit),
        "counts": (("reading", *cells, "quadruplet", "score", "part"), counts),
        "readout": (("reading",), [block_of(probe.reads.point)] * len(scored)),
    }
    if seen[1].error is not None:
        found["error"] = (*cells, "quadruplet", "role"), _placed(config, lens, seen[1].error)
    coords = {
        "reading": list(ROUTES[way]), "replacement": ["none", *config.replacements], "write": list(config.writes),
        "block": range(lens.blocks), "quadruplet": [q.id for q in laws[1]], "role": list(ROLES),
        "property": ("quadruplet", [q.property for q in laws[1]]), "score": list(SCORES), "part": ["good", "of"],
    }  # fmt: skip
    return xr.Dataset(found, coords=coords)


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads clips on one way to noise, with the whole model and without each cell."""

    lens: DiTLens
    config: Config
    way: Way
    probe: Probe
    means: BySteps

    def read(self, batches: Sequence[list[Quadruplet]], at_once_alone: bool = False) -> Seen:
        """What the probe reads of every clip; along the way and of the velocity's error too unless told otherwise."""
        readings = ROUTES[self.way][: 1 if at_once_alone else None]
        whole: list[np.ndarray] = []
        errors: list[np.ndarray] = []
        without: dict[str, list[np.ndarray]] = {reading: [] for reading in readings}
        for batch in tqdm(batches, desc=f"{self.lens.name}, {self.way}", unit="batch"):
            before, effects, error = self._batch(batch, at_once_alone)
            whole.append(before)
            errors += [] if error is None else [error]
            for reading, effect in zip(readings, effects, strict=True):
                without[reading].append(before[:, :, None] + effect)
        found = {reading: np.concatenate(parts) for reading, parts in without.items()}
        return Seen(np.concatenate(whole), found, np.concatenate(errors) if errors else None)

    def _batch(
        self, batch: list[Quadruplet], at_once_alone: bool
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        """States of the whole model, effects on them by reading, and errors."""
        lens, config, metric = self.lens, self.config, {"states": by_frame(self.probe)}
        fed, path = _fed(lens, config, self.way, batch)
        own = known(lens, fed, batch, self.means, (config.alpha, config.seed))
        cells, writes = cells_of(config, lens), [writes_of(lens, block) for block in range(lens.blocks)]
        told = self.way == "continuation" and not at_once_alone
        truth = {"error": _truth(lens, config, batch)} if told else {}
        changes = [cell.at_once(writes[cell.block], own, config.step) for cell in cells]
        once = sweep(lens, fed[config.step], changes, metric | truth)
        effects = [once]
        if path is not None and not at_once_alone:
            together = [cell.along(writes[cell.block], own) for cell in cells]
            along = sweep_along(lens, Stretch(path, config.way, config.step), together, metric)
            effects += [along.end, along.both]
        states = [by_quadruplet(one.effect["states"].numpy()) for one in effects]
        before = by_quadruplet(once.before["states"].numpy())
        if not told:
            return before, states, None
        error = once.before["error"][:, None]
        return before, states, by_quadruplet(torch.cat([error, error + once.effect["error"]], 1).numpy())


def cells_of(config: Config, lens: DiTLens) -> list[Absent]:
    """Every replacement of every write of every block, blocks fastest."""
    return [Absent(*cell) for cell in product(config.replacements, config.writes, range(lens.blocks))]


def _means(lens: DiTLens, config: Config, way: Way, batches: Sequence[list[Quadruplet]]) -> BySteps:
    """Mean writes of all blocks over training clips."""
    writes = [write for block in range(lens.blocks) for write in writes_of(lens, block)]
    return ablation.means_over(lens, [_fed(lens, config, way, batch)[0] for batch in batches], writes)


def _fed(
    lens: DiTLens, config: Config, way: Way, batch: Sequence[Quadruplet]
) -> tuple[dict[int, Evaluation], Trajectory | None]:
    """The evaluations that are changed, by step, and the trajectory on which they lie, if they lie on one."""
    if way == "continuation":
        return evaluations(lens, batch, (config.step,), route(config.on(way))), None
    path = travel(lens, batch, route(config.on(way)), until=config.step)
    return {step: lens.evaluation(path, step) for step in (*config.way, config.step)}, path


def _truth(lens: DiTLens, config: Config, batch: Sequence[Quadruplet]) -> VelocityError:
    """The error against noise - data in the second half, of clips whose first half is given clean."""
    clean, told = encode(lens.encode, batch), route(config.on("continuation"))
    cut, noise = latent_splice(clean, batch[0]), spliced_noise(clean, batch, told.seed)
    return VelocityError(noise - clean, (slice(cut, None), slice(None), slice(None)))


def _scored(probe: Probe, seen: tuple[Seen, Seen], laws: Sequence[Sequence[Quadruplet]], reading: str) -> Cells:
    """Logits (q, role, 1 + cell) in probe SDs and counts (q, score, part, 1 + cell), the whole model first.

    Probes are refitted where training clips were read so, too; elsewhere counts of their scores are NaN.
    """
    fit, test = seen
    logit = logits(probe, np.concatenate([test.whole[:, :, None], test.without[reading]], 2))
    counts = np.full((len(SCORES), 2, *logit.shape[::2]), np.nan)
    for cell in np.flatnonzero(np.isfinite(logit).all((0, 1))):
        if reading in fit.without:
            x, y = ((s.whole if cell == 0 else s.without[reading][:, :, cell - 1]) for s in seen)
            counts[..., cell] = scores(probe, x, y, laws)
        else:
            counts[0, ..., cell] = right(logit[:, :, cell])
    return logit / probe.spread, np.moveaxis(counts, 2, 0)


def _placed(config: Config, lens: DiTLens, values: Float[np.ndarray, "*rest cell"]) -> np.ndarray:
    """(replacement, write, block, *rest) of values that the whole model comes first in."""
    shape = len(config.replacements), len(config.writes), lens.blocks
    cells = np.moveaxis(values, -1, 0)
    whole = np.broadcast_to(cells[0], (1, *shape[1:], *cells.shape[1:]))
    return np.concatenate([whole, cells[1:].reshape(*shape, *cells.shape[1:])])


if __name__ == "__main__":
    from figures.ablate_blocks import draw

    main(Config, run, table, draw, "ablate_blocks", __doc__)
