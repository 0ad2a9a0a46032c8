"""Is the physical state of an object linearly decodable from a model's states, also while the object is hidden?

Why: to judge whether an event is possible, a model must keep the state of a hidden object. This asks for the state
itself, not for the label.

Method: lawful clips are read at one noise level, as a continuation (frames before the break kept clean, others noised)
and along the inversion. Every latent frame is a view: its tokens at the input and after each block, side by side or
averaged (whichever is better out of fold). Ridge regression, its strength chosen the same way on training scenes,
decodes the position, velocity and acceleration (scenes with gravity, between contacts) of the first object, the angle
at which it slides, and the number of frames until it meets a wall or the ground. Views with the object visible in at
least half of the frames ("seen") and views with it fully occluded in all ("hidden") have separate probes; the probe of
seen views is also applied to hidden ones: is the state kept in the same form? Features and truth are taken relative to
the training mean of their latent frame, and one probe reads all frames, so that time in the clip, alone or with
position, predicts nothing. `decode_states` asks another question of such views: may a model serve as a control?

Controls: the latent that the model reads ("x_σ"); control models, which see the other frames too; the autoencoder's
clean latent and the pixels of the view's frames, which cannot show what is hidden there.

Output: probe_state-*.nc with the sums behind R²: (source, path, sight, variable, place, scene).

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
