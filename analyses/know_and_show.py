"""Does a model generate what its states represent?

What: how often a probe, the likelihood and the model's own continuation prefer the possible outcome: know_and_show-*.nc
with margins (model, measure, scene, pair), ceiling (scene, role).
Why: a model may represent a law and not follow it, or follow it without a linear trace. Three answers on the same pairs
can be compared.
How: frames before the break are kept clean. Knowing: the probe's logit. Likelihood: the velocity error on later frames.
Showing: is the continuation closer to the possible outcome (tracker, pixels, latents, a separate encoder)?
Controls: the tracker on true clips through the autoencoder (the ceiling); a model that never saw possible clips and a
random initialisation (the floor); the same noise for all. Chance is one half.
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import ContinuationStudy, Size


@dataclass(frozen=True)
class Config(ContinuationStudy):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"read_at": (8, 11, 14), "train": 165, "test": 110}

    sigmas: tuple[float, ...] = (0.4, 0.8)
    """Noise levels at which the velocity error is measured, above 0 and up to 1."""
    draws: int = 2
    """Draws of noise over which the velocity error is averaged."""
    sampling: int = 12
    """Euler steps of a continuation."""

    def check(self) -> None:
        """Checks options as for every study, and the options of likelihood and sampling."""
        super().check()
        if not self.sigmas or not all(0 < sigma <= 1 for sigma in self.sigmas) or min(self.draws, self.sampling) < 1:
            raise ValueError(
                f"got --sigmas {' '.join(map(str, self.sigmas))} --draws {self.draws} --sampling {self.sampling} ·"
                " expected noise levels in (0, 1], at least 1 draw and at least 1 sampling step"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of velocity errors in two conditions, and of continuations of A and B."""
        return 2 * len(self.sigmas) * self.draws * size.clips + 2 * self.sampling


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from dit_lens.capture import alike
from dit_lens.clips import ROLES, Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures.surprise import CONDITION
from dit_lens.probing import fit
from dit_lens.studies import outcome
from dit_lens.studies.paths import path_of
from dit_lens.studies.readers import features
from dit_lens.studies.velocity_errors import velocity_errors
from dit_lens.toy import behaviour, truth
from dit_lens.toy.behaviour import FirstHalves

MEASURES = ("knowing", "likelihood", *(f"showing, {measure}" for measure in behaviour.MEASURES))
PAIRS = ("A, C", "B, D")
Margins = Float[xr.DataArray, "scene pair"]


def run(config: Config) -> xr.Dataset:
    """Margins of all models by all measures, and those of the true clips by the tracker.

    Raises:
        ValueError: test scenes of a property that no training scene has.
    """
    train, test = config.scenes("train"), config.scenes("test")
    check_properties(train, test)
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        parts[name] = xr.Dataset({"margin": margins(lens, train, test, config)})
        if len(parts) == 1:
            question = lens
            batches = alike(test, config.batch_size, frames_of(test), "true clips")
            true = xr.concat([true_clips(lens, batch) for batch in batches], "scene")
    result = outcome.by_model(parts).merge(true, compat="override", join="exact")
    crossed = xr.DataArray(
        [scene.crossed for scene in test], {"scene": [outline.id for outline in test.outlines]}, ("scene",)
    )
    result = outcome.with_scenes(result.assign_coords(crossed=crossed), config)
    return outcome.finished(result, config, question)


def check_properties(train: Scenes, test: Scenes) -> None:
    """Checks that the training scenes have every property of the test scenes.

    Raises:
        ValueError: a property is missing; names all that are.
    """
    missing = sorted({*test.properties} - {*train.properties})
    if missing:
        raise ValueError(
            f"got {len(train)} training scenes without {', '.join(missing)} · expected training scenes of every tested"
            " property · raise --train, or narrow --properties"
        )


def margins(lens: DiTLens, train: Scenes, test: Scenes, config: Config) -> Float[xr.DataArray, "measure scene pair"]:
    """Margins of one model."""
    measured = [knowing(lens, train, test, config), likelihood(lens, test, config)]
    by_states = xr.concat(measured, xr.Variable("measure", list(MEASURES[:2])), join="exact")
    return xr.concat([by_states, showing(lens, test, config)], "measure", join="outer")


def knowing(lens: DiTLens, train: Scenes, test: Scenes, config: Config) -> Margins:
    """Logit of the possible clip minus that of the impossible one, at the cell that training scenes choose."""
    read = features(config, lens, test, "test")
    return by_pair(read.table(fit(features(config, lens, train, "train")).logits(read)))


def likelihood(lens: DiTLens, test: Scenes, config: Config) -> Margins:
    """Error of the velocity on later frames of the impossible clip minus that on the possible one's."""
    prompt, batch = path_of(config).prompt, config.batch_size
    errors = velocity_errors(lens, test, config.sigmas, config.draws, config.seed, batch_size=batch, prompt=prompt)
    return -by_pair(errors.sel(condition=CONDITION).mean(("sigma", "frame")))


def by_pair(values: Float[xr.DataArray, "scene role"]) -> Margins:
    """Possible minus impossible clip of each pair."""
    roles = [pair.split(", ") for pair in PAIRS]
    pairs = [
        values.sel(role=possible, drop=True) - values.sel(role=impossible, drop=True) for possible, impossible in roles
    ]
    return xr.concat(pairs, xr.Variable("pair", list(PAIRS))).transpose("scene", "pair").reset_coords(drop=True)


def showing(lens: DiTLens, test: Sequence[Scene], config: Config) -> Float[xr.DataArray, "measure scene pair"]:
    """Margins of the model's continuations of A and of B."""
    parts: list[xr.DataArray] = []
    for batch in alike(test, config.batch_size, frames_of(test), f"{lens.name}, continuations"):
        halves = FirstHalves.of(lens, batch, config.seed)
        values = behaviour.margins(lens, halves, behaviour.continued(lens, halves, config.sampling))
        names = {"measure": list(MEASURES[2:]), "pair": list(PAIRS), "scene": [scene.id for scene in batch]}
        by_pair = values.T.reshape(-1, len(PAIRS), len(batch))
        parts.append(xr.DataArray(by_pair, names, ("measure", "pair", "scene")))
    return xr.concat(parts, "scene")


def true_clips(lens: DiTLens, batch: Sequence[Scene]) -> xr.Dataset:
    """The tracker's results on true clips that passed the autoencoder.

    Returns:
        `ceiling` (scene, role), the margins of all four clips, and `found` (scene, half, count), its detections of the
        object in A and B: see `truth.ceiling`.
    """
    halves = FirstHalves.of(lens, batch)
    margin = [
        behaviour.margins(lens, halves, continuation)[:, 0] for continuation in (halves.possible, halves.impossible)
    ]
    values = np.concatenate(margin).reshape(len(ROLES), len(batch)).T
    ceiling = xr.DataArray(values, {"scene": [scene.id for scene in batch], "role": list(ROLES)}, ("scene", "role"))
    tracked = truth.ceiling(lens, batch).drop_vars("hidden").rename(role="half")
    return xr.Dataset({"ceiling": ceiling, "found": tracked})


def frames_of(scenes: Sequence[Scene]) -> int:
    """The number of frames of a clip; scenes that break at the same frame can be continued in one batch."""
    return len(scenes[0].clips[0].frames)


if CONFIG is not None:
    answer(CONFIG, run)
