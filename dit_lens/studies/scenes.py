"""The scenes of a study: those to fit on and those to test on, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import xarray as xr

from dit_lens.clips import Scene
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.scenes import Scenes, all_scenes, divide, labelled_clips, labelled_pairs
from dit_lens.datasets.spec import MINIPHYS, PAIRS, DataSpec
from dit_lens.measures.labels import halves
from dit_lens.studies.options import DEMO, FOLDS, SHARE, Options

SIZES = (32, 64)


def scenes(study: Options, split: Literal["train", "test"]) -> Scenes:
    """The scenes to fit on, or to test on.

    Of a data set without a split to fit on, scenes are divided by group, stratified by property, by the study's seed.

    Raises:
        ValueError: fewer than requested, or too few for the folds of a probe.
        FileNotFoundError: no such root or file.
    """
    train, test = _divided(study)
    chosen = train if split == "train" else test
    if split == "train" and study.fits and len(set(chosen.groups)) < FOLDS:
        raise ValueError(
            f"got {len(set(chosen.groups))} training scenes · expected at least {FOLDS}, one for each fold of a probe ·"
            " raise --train, or include more --properties"
        )
    if split == "test" and len(set(chosen.groups)) < 2:
        raise ValueError(
            f"got {len(set(chosen.groups))} test scenes · expected at least 2, to compute an interval · raise --test"
        )
    return chosen


def everything(study: Options) -> Scenes:
    """All scenes of the data set, labelled or not, at most `--test` of them.

    Raises:
        ValueError: fewer than requested, or an unknown property. FileNotFoundError: no such root or file.
    """
    if study.spec.name != MINIPHYS:
        return _at_most(all_scenes(study.spec.load(framing(study)), study.properties or ()), study.test, "--test")
    _check_little_world(study)
    return all_scenes(_little_world(study, study.spec, study.spec.split or "test", study.test))


def divided(test: Scenes) -> tuple[Scenes, Scenes]:
    """Test scenes divided in two: those to rank on and those to report on; see `measures.labels.halves`."""
    places = {"place": ("scene", np.arange(len(test)))}
    coords = {"property": ("scene", test.properties), "group": ("scene", test.groups)}
    ranking, report = (half.place.values.tolist() for half in halves(xr.Dataset(places, coords)))
    return test.at(ranking), test.at(report)


def framing(study: Options) -> Framing:
    """The framing of the study: which frames, and at what size."""
    return Framing(
        count=study.frames or None,
        policy="resample" if study.frames else None,
        size=(study.size, study.size) if study.size else None,
        fit=study.fit if study.size else None,
    )


@lru_cache(maxsize=4)
def _divided(study: Options) -> tuple[Scenes, Scenes]:
    if study.spec.name == MINIPHYS:
        _check_little_world(study)
    if study.fit_on and study.fit_spec != study.spec:
        train = _at_most(_chosen(study, study.fit_spec, "train"), study.train, "--train")
        return train, _at_most(_chosen(study, study.spec, "test"), study.test, "--test")
    if study.spec.name == MINIPHYS:
        return _chosen(study, study.spec, "train"), _chosen(study, study.spec, "test")
    undivided = _chosen(study, study.spec, "test")
    if not study.fits:
        return undivided.at([]), _at_most(undivided, study.test, "--test")
    train, test = divide(undivided, _share(study, len(set(undivided.groups))), study.seed)
    return _at_most(train, study.train, "--train"), _at_most(test, study.test, "--test")


def _share(study: Options, groups: int) -> float:
    """The share of the scenes to fit on."""
    if study.train is None and study.test is None:
        return SHARE
    if study.train is None:
        return max(0.0, 1 - (study.test or 0) / groups)
    if study.test is None:
        return study.train / groups
    return study.train / (study.train + study.test)


def _chosen(study: Options, spec: DataSpec, part: Literal["train", "test"]) -> Scenes:
    """The comparable scenes of a data set."""
    comparable = labelled_pairs if PAIRS in spec.gives and type(study).NEEDS != ("labels",) else labelled_clips
    if spec.name != MINIPHYS:
        properties = study.properties or () if spec == study.spec else ()
        return comparable(spec.load(framing(study)), properties)
    split = "train" if part == "train" else spec.split or "test"
    count = DEMO[part] if getattr(study, part) is None else getattr(study, part)
    source = _little_world(study, spec, split, count)
    return comparable(source) if count else Scenes(source, [], None)


def _little_world(study: Options, spec: DataSpec, part: str, count: int | None) -> Sequence[Scene]:
    """`count` scenes of a part of miniphys."""
    options: dict[str, Any] = {"properties": study.properties} if study.properties else {}
    return DataSpec(MINIPHYS, part, options=spec.options).load(
        quadruplets=DEMO["test"] if count is None else count, seed=study.seed, size=study.size or SIZES[0], **options
    )


def _at_most(scenes: Scenes, count: int | None, option: str) -> Scenes:
    """`count` of the scenes, at even distances; all if None.

    Raises:
        ValueError: fewer scenes than `count`.
    """
    if count is None:
        return scenes
    if count > len(scenes):
        raise ValueError(
            f"got {option} {count} · expected at most {len(scenes)}, the number of scenes · leave {option} out to use"
            " all"
        )
    return scenes.first(count)


def _check_little_world(study: Options) -> None:
    from dit_lens.toy.miniphys import FRAMES

    if study.frames not in (0, FRAMES) or (study.size and study.size not in SIZES):
        raise ValueError(
            f"got --frames {study.frames} --size {study.size} on miniphys · expected {FRAMES} frames of {SIZES[0]} or"
            f" {SIZES[1]} pixels · leave both options out"
        )
