"""Can the inverted path be trusted, and does its error alone reveal the label?

What: a table of solvers by number of steps, a report of one solver step by step with a verdict on each metric, and
AUROC of the error for the label: invert_clips-*.nc.
Why: every probe on inverted states assumes that they are the states of the sampler. A good round trip does not prove
this: it can be exact by construction.
How: cost, round trip (latents, pixels), distance from a fine solution of the ODE and from known noise, change in
bfloat16, and probe accuracy, of each solver; clips of the data set and of a folder of yours; other prompts.
Controls: the sampler's own path from known noise (latents, streams, patterns, logits), beside the distance of two
clips; the autoencoder alone; a random initialisation; an AUROC of 0.5 reveals nothing.
Cost: about ten minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import LABELS
from dit_lens.studies import Size, Study

NEUTRAL = "a video"  # says nothing of a clip


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --solver and --sampler-steps set the step-by-step report, --read-at the probes."""

    NEEDS: ClassVar[tuple[str, ...]] = (LABELS,)
    ONE_PLACE: ClassVar[bool] = True
    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-random",), "path": "inversion", "sampler_steps": 25, "read_at": (0.6,), "train": 66,
        "test": 44,
    }  # fmt: skip

    solver: Literal["euler", "implicit_euler", "midpoint", "heun", "fireflow"] = "heun"
    """Solver of the step-by-step report."""
    step_counts: tuple[int, ...] = (10, 20, 40)
    """Numbers of steps compared in the table of solvers."""
    fine: int = 100
    """Heun steps of the reference solution."""
    shift: float = 2.0
    """Shift of the noise levels towards noise in an extra Heun row of the table; 1 leaves the row out."""
    shown: int = 2
    """Number of test scenes in the table and the report."""
    probe_scenes: int = 6
    """Number of training scenes, and of test scenes, for the probe in each cell of the table."""
    folder: str = ""
    """Folder of further clips (with or without clips.csv), fitted to the data set's frames and size."""
    prompts: tuple[str, ...] = (NEUTRAL, "a red ball rolls behind a wall")
    """Prompts to compare with --prompt, for models with a text encoder."""

    def resolved(self) -> Config:
        """With every unset option filled in: clips are inverted."""
        return super(Config, replace(self, path=self.path or "inversion")).resolved()

    def check(self) -> None:
        """Checks options as for every study; also that the path is inversion and no number is too small."""
        super().check()
        if self.path != "inversion":
            raise ValueError(
                f"got --path {self.path} · expected inversion, which this analysis is about · leave --path out"
            )
        if not self.step_counts or min(*self.step_counts, self.fine, self.shown) < 1 or self.probe_scenes < 5:
            raise ValueError(
                f"got --step-counts {' '.join(map(str, self.step_counts))}, --fine {self.fine}, --shown {self.shown},"
                f" --probe-scenes {self.probe_scenes} · expected one or more step counts, every number at least 1, and"
                " at least 5 --probe-scenes"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of the round trip, of the table of solvers, and of the reports."""
        table = 5 * 15 * sum(self.step_counts) * (self.shown + self.probe_scenes / 2) / max(1, size.test)
        return size.clips * (table + 2 * (self.sampler_steps or 0) * (1 + 7 * self.shown / max(1, size.test)))


CONFIG = asked(Config, __name__)

from pathlib import Path

import xarray as xr

from dit_lens.clips import Clip, Scene
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.spec import DataSpec
from dit_lens.studies import outcome
from dit_lens.studies.inversions.labels import label_table
from dit_lens.studies.inversions.probes import fit_probe
from dit_lens.studies.inversions.prompts import prompt_table
from dit_lens.studies.inversions.reports import report
from dit_lens.studies.inversions.solvers import Compared, solver_table
from dit_lens.studies.paths import schedule


def run(config: Config) -> xr.Dataset:
    """The table of solvers, the reports, and how well fidelity predicts labels."""
    train, test = config.scenes("train"), config.scenes("test")
    few = test[: config.shown]
    sources: dict[str, list[Scene] | list[Clip]] = {str(config.spec): few}
    if config.folder:
        sources[Path(config.folder).name] = files(config.folder, few[0].clips[0])
    reports: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        if not reports:
            probe = fit_probe(lens, train, schedule(config, lens, test), config, f"{name}, probe")
            question, probing = lens, (train[: config.probe_scenes], test[: config.probe_scenes])
            compared = Compared(config.step_counts, config.fine, config.shift)
            parts = [solver_table(lens, config, few, probing, compared), label_table(lens, test, probe, config)]
            parts += prompt_table(lens, few, config, config.prompts)
        watched = None if reports else probe
        tables = [report(lens, clips, watched, config) for clips in sources.values()]
        reports[name] = xr.concat(tables, xr.Variable("data", list(sources)), compat="override", coords="minimal")
    result = xr.merge([*parts, outcome.by_model(reports, join="outer")], compat="equals", join="exact")
    return outcome.finished(result, config, question)


def files(folder: str, like: Clip) -> list[Clip]:
    """The clips of a folder, in the number and size of the frames of another clip."""
    count, height, width, _ = like.frames.shape
    framing = Framing(count=count, policy="resample", size=(height, width), fit="crop")
    return [clip for scene in DataSpec("folder", root=folder).load(framing, fps=like.fps) for clip in scene.clips]


if CONFIG is not None:
    answer(CONFIG, run)
