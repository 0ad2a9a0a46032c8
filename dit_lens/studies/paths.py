"""The path of a study's clips to noise, and the steps of that path at which it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dit_lens.capture import NoisePath, encode, schedule_of
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.studies.options import Options
from dit_lens.trajectory import Schedule


def path_of(study: Options, **changed: Any) -> NoisePath:
    """The study's path to noise; keyword arguments replace single options."""
    options = {
        "kind": study.path, "sampler_steps": study.sampler_steps, "solver": study.solver, "seed": study.seed,
        "prompt": "caption" if study.prompt == "caption" else None, "guidance": study.guidance,
    }  # fmt: skip
    return NoisePath(**(options | changed))


def schedule(study: Options, lens: DiTLens, scenes: Sequence[Scene], path: NoisePath | None = None) -> Schedule:
    """The noise levels of the study's path for clips of these scenes' size."""
    return schedule_of(lens, path or path_of(study), encode(lens.encode, [scenes[0]]))


def steps_of(study: Options, lens: DiTLens, scenes: Sequence[Scene], path: NoisePath | None = None) -> list[int]:
    """The steps that the study reads at, for clips of these scenes' size."""
    return steps(study, schedule(study, lens, scenes, path))


def steps(study: Options, schedule: Schedule) -> list[int]:
    """The steps to read at: those of `read_at`, and the nearest step to each of its noise levels."""
    places = study.read_at or ()
    chosen = [schedule.step_at(place) if isinstance(place, float) else schedule.check_step(place) for place in places]
    return list(dict.fromkeys(chosen))
