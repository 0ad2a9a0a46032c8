"""Do control models represent what lies within one half of a clip as well as the model does?

What: R² of position and velocity, accuracy of colour and shape, by model: decode_states-*.nc with the sums behind the
scores (source, target, scene). Within 3 points of the model, a model counts as a control.
Why: only then are they controls. A model that is blind to objects fails at physics for a trivial reason.
How: lawful clips are noised to one level; from the output of a block, in each latent frame where the first object is
visible, ridge regression and a ridge classifier decode its state; block and pooling by cross-validation.
Controls: control models, and the latent that the model reads ("input x_σ"), the same for all.
Cost: about five minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.datasets.spec import TRACKS
from dit_lens.studies import Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    NEEDS: ClassVar[tuple[str, ...]] = (TRACKS,)
    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null", "mini-wan-swap", "mini-wan-random"),
        "read_at": (8,),
        "train": 660,
        "test": 330,
    }
    ONE_PLACE: ClassVar[bool] = True

    blocks: tuple[int, ...] = ()
    """Blocks to choose from; by default those at one third, two thirds and the full depth."""

    def resolved(self) -> Config:
        """With every unset option filled in: clips are noised, so that all models get the same latents."""
        return super(Config, replace(self, path=self.path or "noising")).resolved()


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import xarray as xr
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.clips import Clip
from dit_lens.lens import DiTLens
from dit_lens.measures.decode_states import INPUT, NUMBERS, TARGETS
from dit_lens.measures.probe_state import FED
from dit_lens.stats import best_of
from dit_lens.studies import outcome
from dit_lens.studies.paths import path_of, schedule, steps_of
from dit_lens.toy.view_probes import share
from dit_lens.toy.views import Views, in_sight, states, views

STRENGTHS = tuple(float(strength) for strength in np.logspace(0, 6, 7))
Place = tuple[str, int]  # where features are read, and whether tokens lie side by side (0) or are averaged (1)


def run(config: Config) -> xr.Dataset:
    """Scores of every model on test scenes, and the lead of the model in question."""
    splits = config.scenes("train"), config.scenes("test")
    parts: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        blocks = chosen_blocks(config, lens)
        (step,) = steps_of(config, lens, splits[1])
        read = states(lens, path_of(config), step, blocks)
        train, test = (views(scenes, read, in_sight, truth, config.batch_size, name) for scenes in splits)
        parts[name] = score(train, test, [(str(block), pooling) for block in blocks for pooling in (0, 1)])
        if len(parts) == 1:
            parts[INPUT] = score(train, test, [(FED, 0)])
            sigma, question = schedule(config, lens, splits[1]).sigmas[step], lens
    result = outcome.with_scenes(outcome.by_model(parts, dim="source"), config)
    return outcome.finished(result, config, question, sigma=sigma, views=len(test.group))


def chosen_blocks(config: Config, lens: DiTLens) -> tuple[int, ...]:
    """The blocks to choose from.

    Raises:
        ValueError: a block that the model does not have.
    """
    if wrong := [block for block in config.blocks if not 0 <= block < lens.blocks]:
        raise ValueError(f"got --blocks {wrong[0]} for {lens.name} · expected 0 to {lens.blocks - 1}")
    thirds = {max(0, lens.blocks * part // 3 - 1) for part in (1, 2, 3)}
    return config.blocks or tuple(sorted(thirds))


def truth(clip: Clip, frames: np.ndarray) -> dict[str, np.ndarray]:
    """The true state over these frames: means of numbers, and names (colour, shape) at the last frame."""
    values = {target: getattr(clip.tracks[0], target)[frames] for target in TARGETS}
    return {target: in_view.mean(0) if target in NUMBERS else in_view[-1] for target, in_view in values.items()}


def score(train: Views, test: Views, places: Sequence[Place]) -> xr.Dataset:
    """`good` and `whole` by target and test scene, the ratio of whose sums is the score; and the `place` read."""
    groups = np.unique(test.group)
    good, total = np.zeros((2, len(TARGETS), len(groups)))
    chosen: list[Place] = []
    for i, target in enumerate(TARGETS):
        fit, y = _estimator(target), train.truth[target]
        cross_validated = (
            [_cross_validated(fit, train, place, target) for place in places] if len(places) > 1 else [0.0]
        )
        chosen.append(places[best_of(np.asarray(cross_validated))[0]])
        x, unseen = (part.features[chosen[-1][0]][chosen[-1][1]] for part in (train, test))
        parts = share(test.truth[target], np.asarray(fit.fit(x, y).predict(unseen)), y)
        good[i], total[i] = ([part[test.group == group].sum() for group in groups] for part in parts)
    names = ("target", "scene")
    labels = [place + ", mean" * pooling for place, pooling in chosen]
    return xr.Dataset(
        {"good": (names, good), "whole": (names, total), "place": ("target", labels)},
        coords={"target": list(TARGETS), "scene": groups},
    )


def _cross_validated(fit: Pipeline, train: Views, place: Place, target: str) -> float:
    """The out-of-fold score on training scenes."""
    x, y = train.features[place[0]][place[1]], train.truth[target]
    predicted = np.asarray(cross_val_predict(fit, x, y, groups=train.group, cv=GroupKFold(3)))
    good, total = share(y, predicted, y)
    return float(good.sum() / total.sum())


def _estimator(target: str) -> Pipeline:
    ridge = RidgeCV(STRENGTHS) if target in NUMBERS else RidgeClassifierCV(STRENGTHS)
    return make_pipeline(StandardScaler(), ridge)


if CONFIG is not None:
    answer(CONFIG, run)
