"""How many scenes does a probe need to separate possible from impossible clips, and does it learn more from more?

What: log odds of all test clips by model, readout, number of training scenes and draw: learning_curve-*.nc.
Why: an accuracy that still grows with the training scenes says that the probe is too short of data, not that the states
lack the label; a control that grows alike says that what the probe learns is in the clips.
How: probes are fitted on nested random subsets of the training scenes and scored on the same test scenes; cell and
penalty are chosen inside each subset. Readouts: the states, and what attention across the break adds to them.
Controls: control models with the same subsets (the null twin, a random initialisation).
Cost: by estimate ten minutes of one core with the defaults; --train 3000 --sizes 100 300 1000 3000 takes hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import SPLICES
from dit_lens.studies import ProbeStudy, Size

FOLDS = 5
HALVINGS = 4


@dataclass(frozen=True)
class Config(ProbeStudy):
    """Options of the analysis; --train is the largest number of scenes."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "path": "inversion", "sampler_steps": 10, "read_at": (5,), "train": 120, "test": 60,
    }  # fmt: skip

    readouts: tuple[Literal["blocks", "interaction"], ...] | None = None
    """What probes read, block outputs, or what attention across the break adds to them; by default both."""
    sizes: tuple[int, ...] | None = None
    """Numbers of training scenes; by default all of them, a half, a quarter and an eighth."""
    draws: int = 2
    """Number of random subsets of each size."""

    def resolved(self) -> Config:
        """With every unset option filled in."""
        splices = SPLICES in self.spec.gives
        return super(
            Config, replace(self, readouts=self.readouts or (("blocks", "interaction") if splices else ("blocks",)))
        ).resolved()

    def check(self) -> None:
        """Checks options as for every study.

        Raises:
            ValueError: see `ProbeStudy.check`; `--readout`, sizes below the number of folds or above `--train`.
        """
        super().check()
        for readout in self.readouts or ():
            replace(self, readout=readout)._check_readout()
        if self.readout != "blocks":
            raise ValueError(f"got --readout {self.readout} · expected --readouts, which names one or both")
        sizes = self.sizes or ()
        if self.draws < 1 or (sizes and not FOLDS <= min(sizes) <= max(sizes) <= (self.train or max(sizes))):
            raise ValueError(
                f"got --draws {self.draws} --sizes {' '.join(map(str, sizes))} of {self.train} training scenes ·"
                f" expected one or more draws, and sizes from {FOLDS} (one scene for each fold) to --train"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations for the second readout: the path again, and two runs at each place."""
        further = len(self.readouts or ()) - 1
        on_the_way = (self.sampler_steps or 0) * (self.path == "inversion")
        return further * (size.train / max(1, size.test) + 1) * size.clips * (on_the_way + 2 * size.steps)


CONFIG = asked(Config, __name__)

import numpy as np
import xarray as xr

from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.probing import Features, fit
from dit_lens.studies import encoders, outcome


def run(config: Config) -> xr.Dataset:
    """Log odds of the test clips by model, readout, number of training scenes and draw; and the chosen cells."""
    splits = {"train": config.scenes("train"), "test": config.scenes("test")}
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        question = question if parts else lens
        rows = [curve(config, lens, readout, splits) for readout in config.readouts or ()]
        parts[name] = xr.concat(rows, "readout")
    result = outcome.with_scenes(outcome.by_model(parts), config)
    crossed = {scene.id: scene.crossed for scene in splits["test"]}
    result = result.assign_coords(crossed=("scene", [crossed[name] for name in result.scene.values]))
    return outcome.finished(result, config, question)


def curve(config: Config, lens: DiTLens, readout: str, splits: Mapping[str, Scenes]) -> xr.Dataset:
    """The table of one model and one readout."""
    study = replace(config, readout=readout)
    encoder = encoders.states(study, lens, pooling=config.pooling).joined(config.joined_blocks)
    read = encoders.read_all(encoder, splits)
    train, test = read["train"], read["test"]
    rows = [
        [scored(train.at(rows), test, config) for rows in subsets(train, sizes(config, train), draw + config.seed)]
        for draw in range(config.draws)
    ]
    table = xr.concat([xr.concat(row, "size") for row in rows], "draw")
    return table.assign_coords(size=list(sizes(config, train)), draw=range(config.draws)).expand_dims(readout=[readout])


def scored(train: Features, test: Features, config: Config) -> xr.Dataset:
    """Log odds of the test clips by the probe that some training clips choose and fit, and its cell."""
    probes = fit(train, **config.fitting)
    cell = {f"chosen_{dim}": value for dim, value in zip(train.dims, probes.cell, strict=True)}
    logit = test.table(probes.logits(test)).reset_coords(drop=True)
    return xr.Dataset({"logit": logit, **cell, "strength": probes.strength})


def sizes(config: Config, train: Features) -> tuple[int, ...]:
    """Numbers of groups of training scenes, in rising order.

    Raises:
        ValueError: more than there are.
    """
    groups = len(np.unique(train.groups))
    if config.sizes and max(config.sizes) > groups:
        raise ValueError(
            f"got --sizes {max(config.sizes)} of {groups} training scenes · expected at most as many · raise --train"
        )
    halved = [groups // 2**i for i in range(HALVINGS)]
    return tuple(sorted({*(config.sizes or [size for size in halved if size >= FOLDS])}))


def subsets(train: Features, counts: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Rows of the clips of so many groups, each subset part of the next; the same for every model and readout."""
    names, of_clip = np.unique(train.groups, return_inverse=True)
    place = np.argsort(np.random.default_rng(seed).permutation(len(names)))
    return [np.flatnonzero(place[of_clip] < count) for count in counts]


if CONFIG is not None:
    answer(CONFIG, run)
