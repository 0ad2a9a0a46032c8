"""When in training does a model come to know the laws, and when can a probe detect it?

What: loss, surprise and probe accuracy by checkpoint, with intervals: follow_training-*.nc, along the training step.
Why: it shows whether knowledge of physics comes with the loss, and which measure detects it first.
How: the same measures at checkpoints of one training run: velocity error on possible clips, how much larger it is on
impossible ones from the break on, and accuracy of a probe on inverted clips and on continuations.
Controls: step 0 is the random initialisation from which training started.
Cost: about fifteen minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import PAIRS, SPLICES
from dit_lens.studies import Size, Study
from dit_lens.studies.options import CHECKPOINTS, NEEDS


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; the control is the initialisation, shown as step 0 (pass nothing to skip)."""

    NEEDS: ClassVar[tuple[str, ...]] = (PAIRS, CHECKPOINTS)
    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-random",), "path": "inversion", "read_at": (8, 11, 14), "train": 220, "test": 110,
    }  # fmt: skip

    checkpoints: tuple[int, ...] = (125, 250, 500, 1000, 2000, 4000)
    """Training steps whose checkpoints are measured, before the finished model."""
    last: int = 8000
    """Training step of the finished model."""
    also: tuple[Literal["inversion", "continuation"], ...] | None = None
    """Further paths on which probes are fitted."""
    sigmas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    """Noise levels at which velocity errors are measured."""

    def resolved(self) -> Config:
        """With every unset option filled in."""
        study = super().resolved()
        also: tuple[Any, ...] = ("continuation",) if SPLICES in study.spec.gives else ()
        return study if study.also is not None else replace(study, also=also)

    def check(self) -> None:
        """Checks options as for every study; also that the model has checkpoints and at most one initialisation."""
        from dit_lens.models import NAMES, RANDOM_INIT, checkpoint, locate

        folder = Path(locate(self.model) if self.model in NAMES else self.model)
        if not (folder / "checkpoints").is_dir():
            raise ValueError(
                f"got model {self.model}, which has no {NEEDS[CHECKPOINTS]} · expected mini-wan, or a model trained by"
                " the same script · see python -m dit_lens.toy.training --help"
            )
        for step in self.checkpoints:
            checkpoint(folder, step)
        super().check()
        if len(self.controls or ()) > 1 or not self.sigmas or not all(0 < level <= 1 for level in self.sigmas):
            raise ValueError(
                f"got --controls {' '.join(self.controls or ())}, --sigmas {' '.join(map(str, self.sigmas))} · expected"
                f" the initialisation ({RANDOM_INIT}) or no control, and noise levels above 0 and up to 1"
            )
        if "continuation" in (self.also or ()) and SPLICES not in self.spec.gives:
            raise ValueError(
                f"got --also continuation on {self.spec}, whose pairs do not share their first frames · leave --also"
                " out"
            )

    def models(self) -> list[str]:
        """Names to load: the initialisation, the checkpoints, the finished model."""
        from dit_lens.studies.lenses import names

        return [*names(self)[1:], *(f"{self.model}@step{step}" for step in self.checkpoints), self.model]

    def per_test_scene(self, size: Size) -> float:
        """Evaluations on the further paths, and of errors in two conditions."""
        return size.clips * (2 * len(self.sigmas) + len(self.also or ()) * size.steps * (1 + size.train / size.test))


CONFIG = asked(Config, __name__)

import numpy as np
import xarray as xr

from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures.follow_training import MEASURES
from dit_lens.measures.labels import mean_interval, signs
from dit_lens.measures.probe_blocks import chosen
from dit_lens.measures.selection import ALL
from dit_lens.measures.surprise import CONDITIONS, scores
from dit_lens.studies import outcome
from dit_lens.studies.paths import path_of
from dit_lens.studies.readers import features
from dit_lens.studies.scoring import scored
from dit_lens.studies.velocity_errors import velocity_errors

BOUNDS = ["estimate", "low", "high"]


def run(config: Config) -> xr.Dataset:
    """The measures at every checkpoint, with their 95% intervals over scenes."""
    splits = {"train": config.scenes("train"), "test": config.scenes("test")}
    steps = [0] * len(config.controls or ()) + [*config.checkpoints, config.last]
    rows: list[xr.Dataset] = []
    for _, lens in config.lenses():
        rows.append(measure(lens, splits, config))
    table = xr.concat(rows, xr.Variable("checkpoint", steps)).assign(scenes=len(splits["test"]))
    return outcome.finished(table, config, lens)


def measure(lens: DiTLens, splits: Mapping[str, Scenes], config: Config) -> xr.Dataset:
    """Estimates of one model (measure, bound), where bounds are estimate, low and high."""
    rows = errors(lens, splits["test"], config)
    for kind in dict.fromkeys([config.path, *(config.also or ())]):
        path = path_of(config, kind=kind)
        train, test = (features(config, lens, splits[part], part, path) for part in ("train", "test"))
        table = scored(train, test).expand_dims(source=[str(kind)])
        coords = {"property": ("scene", splits["test"].properties), "group": ("scene", splits["test"].groups)}
        best = chosen(table.assign_coords(coords))
        rows[str(kind)] = [float(best[key][0]) for key in ("accuracy", "low", "high")]
    names = [name for name in MEASURES if name in rows]
    values = np.array([rows[name] for name in names])
    return xr.Dataset({"value": (("measure", "bound"), values)}, {"measure": names, "bound": BOUNDS})


def errors(lens: DiTLens, test: Scenes, config: Config) -> dict[str, list[float]]:
    """Loss on possible clips, and surprise of all crossed scenes, in the last condition that scenes and model allow."""
    prompt = config.prompt if config.prompt == "caption" else None
    error = velocity_errors(
        lens, test, config.sigmas, 1, config.seed, batch_size=config.batch_size, prompt=prompt
    ).mean(("frame", "sigma"))
    coords = {"property": ("scene", test.properties), "group": ("scene", test.groups)}
    error = error.assign_coords(coords)
    whole_clips = error.sel(condition=CONDITIONS[0])
    loss = whole_clips.isel(role=np.flatnonzero(signs(whole_clips.role) > 0)).mean("role")
    ahead = scores(error.isel(condition=[-1])).isel(condition=0).sel(property=ALL)
    return {
        "loss": [float(part) for part in mean_interval(loss)],
        "surprise": [float(ahead[key]) for key in ("surprise", "low", "high")],
    }


if CONFIG is not None:
    answer(CONFIG, run)
