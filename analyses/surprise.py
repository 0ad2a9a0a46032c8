"""Is the model's own velocity error larger on impossible clips than on possible ones?

What: error on impossible minus possible clips, in per cent of that on possible ones: surprise-*.nc with errors, and
their peaks in time (model, condition, sigma, scene, role).
Why: the error is the model's own measure of what it expects. It needs no probe and no labels to fit on.
How: squared error of the velocity (noise - data) at several levels and draws, the same noise for all; of the whole
clip, of frames from the break on, and with earlier frames kept clean; mean and maximum over time.
Controls: a random initialisation (0 in crossed scenes). On miniphys also a model that never saw lawful clips (near 0),
and one in whose world colours change behind the occluder (below 0 on colour).
Cost: about ten minutes on two cores with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --read-at sets the noise levels. Nothing is fitted: --train only sets scenes aside."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null", "mini-wan-swap", "mini-wan-random"),
        "read_at": (0.2, 0.4, 0.6, 0.8, 0.95),
        "test": 220,
        "train": 0,
    }

    draws: int = 4
    """Draws of noise over which errors are averaged."""

    def resolved(self) -> Config:
        """With every unset option filled in: clips are noised, and all scenes are tested on."""
        return super(Config, replace(self, path=self.path or "noising", train=self.train or 0)).resolved()

    def check(self) -> None:
        """Checks options as for every study; also that the path is noising and no noise level is 0 (a clean clip)."""
        super().check()
        if self.path != "noising":
            raise ValueError(
                f"got --path {self.path} · expected noising, on which the velocity error is defined · leave --path out"
            )
        if self.draws < 1 or not all(self.read_at or ()):
            raise ValueError(
                f"got --read-at {' '.join(map(str, self.read_at or ()))}, {self.draws} draws · expected steps and noise"
                " levels above 0 (0 is the clean clip), and at least 1 draw"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of all draws, with and without clean first frames."""
        return 2 * self.draws * size.clips * size.steps


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens.studies import outcome
from dit_lens.studies.velocity_errors import levels_of, velocity_errors


def run(config: Config) -> xr.Dataset:
    """Velocity errors of every clip and their peaks, by model, condition and noise level."""
    test = config.scenes("test")
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        if not parts:
            levels, question = levels_of(config, lens, test), lens
        prompt = config.prompt if config.prompt == "caption" else None
        errors = velocity_errors(
            lens, test, levels, config.draws, config.seed, batch_size=config.batch_size, prompt=prompt
        )
        parts[name] = xr.Dataset({"error": errors.mean("frame"), "peak": errors.max("frame")})
    result = outcome.with_scenes(outcome.by_model(parts, join="outer"), config)
    return outcome.finished(result, config, question)


if CONFIG is not None:
    answer(CONFIG, run)
