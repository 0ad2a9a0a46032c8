"""Is the physical state of an object linearly decodable from a model's states, also while the object is hidden?

What: R² of position, velocity, acceleration, angle and time to contact, seen and hidden: probe_state-*.nc with the sums
behind R² (source, path, sight, variable, place, scene).
Why: to judge whether an event is possible, a model must keep the state of a hidden object. This asks for the state
itself, not for the label.
How: lawful clips are read at one noise level; ridge regression on the tokens of a latent frame, chosen out of fold,
separately for seen and hidden views, and from seen to hidden; each frame's training mean is taken out.
Controls: the latent that the model reads ("x_σ"); control models, which see the other frames too; the clean latent and
the pixels of the view's frames, which cannot show what is hidden there.
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import TRACKS
from dit_lens.studies import Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    NEEDS: ClassVar[tuple[str, ...]] = (TRACKS,)
    DEMO: ClassVar[Mapping[str, Any]] = {
        # Gravity and incline have acceleration, incline ramps; gravity and solidity contacts ahead.
        "properties": ("continuity", "inertia", "gravity", "solidity", "incline", "collision"),
        "read_at": (11,),
        "train": 120,
        "test": 72,
    }
    ONE_PLACE: ClassVar[bool] = True

    also: tuple[Literal["continuation", "inversion", "noising"], ...] | None = None
    """Further paths to read on; by default inversion, if the main path is continuation."""

    def resolved(self) -> Config:
        """With every unset option filled in."""
        study = super().resolved()
        further = ("inversion",) if study.path == "continuation" else ()
        return replace(study, also=further if self.also is None else self.also)

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of the lawful clips of all scenes on the further paths."""
        inversions = (self.also or ()).count("inversion") * (self.sampler_steps or 0)
        return (size.train / max(1, size.test) + 1) * size.clips / 2 * (inversions + len(self.also or ()))


CONFIG = asked(Config, __name__)

import xarray as xr

from dit_lens.studies import outcome
from dit_lens.studies.paths import path_of, schedule, steps_of
from dit_lens.toy.view_probes import score
from dit_lens.toy.views import Read, latents, pixels, seen_and_hidden, states, truth, views


def run(config: Config) -> xr.Dataset:
    """The parts of R² (explained and total variance) on test scenes, for every source."""
    paths = [path_of(config, kind=kind) for kind in dict.fromkeys((config.path, *(config.also or ())))]
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        (step,) = steps_of(config, lens, config.scenes("test"))
        blocks = range(lens.blocks)
        by_path = [measured(config, states(lens, path, step, blocks), f"{name}, {path.kind}") for path in paths]
        parts[name] = xr.concat(by_path, xr.Variable("path", [path.kind for path in paths]))
        if len(parts) == 1:
            levels, question = schedule(config, lens, config.scenes("test")), lens
            count = lens.encode([config.scenes("test")[0].clips[0]]).shape[2]
            for source, read in (("latent", latents(lens)), ("pixels", pixels(count))):
                parts[source] = measured(config, read, source).expand_dims(path=[path.kind for path in paths])
    result = outcome.by_model(parts, join="outer", dim="source").sel(place=parts[question.name].place)
    return outcome.finished(outcome.with_scenes(result, config), config, question, sigma=levels.sigmas[step])


def measured(config: Config, read: Read, name: str) -> xr.Dataset:
    """The parts of R² on test scenes, by probes fitted on training scenes."""
    train, test = (
        views(scenes, read, seen_and_hidden, truth, config.batch_size, name)
        for scenes in (config.scenes("train"), config.scenes("test"))
    )
    return score(train, test)


if CONFIG is not None:
    answer(CONFIG, run)
