"""Several data sets in one study: which have labels, the study of each alone, and what is read from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dit_lens.baselines import Baseline
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import LABELS, MINIPHYS, DataSpec
from dit_lens.lens import DiTLens
from dit_lens.measures.reference_numbers import REGRESSION
from dit_lens.probing import Features
from dit_lens.studies import encoders
from dit_lens.studies.study import Study

Absent = dict[tuple[str, str], str]  # data set, reader -> why it was not run


@dataclass(frozen=True, eq=False)
class Data:
    """A data set of a table: its name there, the study of it alone, and its scenes."""

    name: str
    study: Study
    scenes: Scenes


@dataclass(frozen=True, eq=False)
class Source:
    """A model or another encoder, and its features on every data set.

    Attributes:
        kind: the published row that it belongs to, or its name.
        weights: what its numbers come from.
        features: in the order of the data sets.
    """

    name: str
    kind: str
    weights: str
    features: tuple[Features, ...]


def labelled(study: Study, specs: Sequence[DataSpec], absent: Absent) -> list[Data]:
    """The data sets that have labels, each with at most --test scenes; for the others, `absent` gets the reason."""
    loaded: list[Data] = []
    for name, spec in zip(names(specs), specs, strict=True):
        if LABELS not in spec.gives:
            absent[name, "all"] = REGRESSION.get(spec.name, "its labels are hidden")
            continue
        single = study if spec == study.spec else alone(study, spec)
        scenes = single.scenes("test")
        loaded.append(Data(name, single, scenes if study.test is None else scenes.first(study.test)))
    return loaded


def alone(study: Study, spec: DataSpec) -> Study:
    """The study of another data set alone, with the same options."""
    data = f"{spec}={spec.root}" if spec.root else str(spec)
    count = study.test if spec.name == MINIPHYS else None
    return replace(study, data=data, data_options=(), properties=(), fit_on="", test=count)


def names(specs: Sequence[DataSpec]) -> list[str]:
    """Names of the data sets in the table; with their roots where two names are equal."""
    labels = [str(spec) for spec in specs]
    return [
        f"{name} ({Path(s.root).name})" if labels.count(name) > 1 else name
        for name, s in zip(labels, specs, strict=True)
    ]


def of_model(lens: DiTLens, kind: str, data: Sequence[Data], seed: int | None) -> Iterator[Source]:
    """The states of a model; for the model in question also noise matched to them, and its latents.

    Args:
        kind: see `Source`.
        seed: of the noise; None for a control model, of which states alone are read.
    """
    pooling = "tokens" if data[0].study.readout == "blocks" else "moments"  # the paper reads means of tokens
    read = [encoders.states(dataset.study, lens, pooling=pooling)(dataset.scenes).labelled() for dataset in data]
    yield Source(kind, kind, lens.name, tuple(read))
    if seed is not None:
        noise = tuple(encoders.matched_noise(features, seed + i) for i, features in enumerate(read))
        yield Source(f"noise matched to {kind}", "noise", "none", noise)
        yield of_baseline(encoders.latents(lens, "tokens"), f"latent of {kind}", "latent", data)


def of_baseline(baseline: Baseline, name: str, kind: str, data: Sequence[Data]) -> Source:
    """The layers of a baseline."""
    rows = [encoders.of_frames(baseline, dataset.study.batch_size)(dataset.scenes).labelled() for dataset in data]
    return Source(name, kind, baseline.weights, tuple(rows))
