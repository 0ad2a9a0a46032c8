"""Does the table of "The Invisible Hand of Physics" (arXiv 2606.05328) reproduce, published beside measured?

Why: its protocols report the best cell on the clips that chose it. Nested selection shows how much of the score that
adds.

Method: states of every block at some steps of the path, averaged over all tokens; encoders and controls likewise. One
linear probe for each cell, by the three published protocols (`dit_lens.probing.protocols`), two of which report the
best cell of the very clips that chose it. Beside them "nested": each clip is scored by a probe whose cell and penalty
were chosen inside the other folds, groups never split, with the 95% interval over groups. "Other data" is a probe
chosen and fitted on one data set and scored on another.

Controls: control models, the autoencoder's latents, Gaussian noise with the mean and covariance of the model's states,
and encoders of frames. By default: mini-wan, its null twin and a random initialisation on miniphys. Real rows need
    --model FOLDER --published wan --data intphys=ROOT --also inflevel=ROOT --frames 97 --size 256
    --encoders flow resnet=FOLDER vjepa2=FOLDER videomae=FOLDER --sampler-steps 100 --read-at 10 20 ...
What could not run for lack of weights or data is listed with the reason. Sets for evaluation only (InfLevel, IntPhys 2)
forbid training on them: they are scored by probes of other data, unless --fit-on names them, as the paper did.

Output: reproduce_invisible_hand-*.nc with scores by row, protocol and seed, transfers, and what was not run.

Cost: about four minutes of one core with the defaults; data that changed on disk are not noticed: delete the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import EVALUATION_ONLY, LABELS, MINIPHYS, SPLICES, DataSpec
from dit_lens.studies import Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --test is the maximum number of scenes per data set, which the protocols divide."""

    NEEDS: ClassVar[tuple[str, ...]] = (LABELS,)
    READOUTS: ClassVar[tuple[str, ...]] = ("blocks", "interaction")
    DEMO: ClassVar[Mapping[str, Any]] = {"path": "inversion", "sampler_steps": 10, "read_at": (3, 5, 7), "test": 44}

    also: tuple[str, ...] | None = None
    """Further data sets, as NAME[:SPLIT][=ROOT]."""
    published: Literal["", "wan", "cogvideox", "ltx"] = ""
    """Published row to compare the model in question with."""
    encoders: tuple[str, ...] = ("pixels", "flow", "resnet=random")
    """Other encoders: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random."""
    protocols: tuple[Literal["paper-v1", "released-code", "website"], ...] = ("paper-v1", "released-code", "website")
    """Published protocols to score by."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the protocols' splits and training."""

    def resolved(self) -> Config:
        """With every unset option filled in; scenes are not divided, as protocols do that themselves."""
        unseen = (f"{MINIPHYS}:unseen",) if self.spec.name == MINIPHYS else ()
        return super(
            Config, replace(self, train=self.train or 0, also=unseen if self.also is None else self.also)
        ).resolved()

    def check(self) -> None:
        """Checks options as for every study, for all data sets.

        Raises:
            ValueError, FileNotFoundError: got · expected · remedy.
        """
        super().check()
        if self.train or not self.protocols or not self.seeds:
            raise ValueError(
                f"got --train {self.train}, {len(self.protocols)} protocols, {len(self.seeds)} seeds · expected no"
                " --train (the protocols divide the --test scenes), and one or more protocols and seeds"
            )
        for spec in self.specs:
            spec.check_root()
            if self.path == "continuation" and SPLICES not in spec.gives:
                raise ValueError(
                    f"got --path continuation on {spec}, whose pairs do not share their first frames · expected pairs"
                    " that do · use --path inversion or noising"
                )

    @property
    def specs(self) -> list[DataSpec]:
        """All data sets, the one in question first."""
        further = [DataSpec.parse(text) for text in (*(self.also or ()), *filter(None, [self.fit_on]))]
        return [self.spec, *(spec for i, spec in enumerate(further) if spec not in [self.spec, *further[:i]])]

    def may_fit(self, spec: DataSpec) -> bool:
        """Whether a probe may be fitted on a data set."""
        return spec.name not in EVALUATION_ONLY or bool(self.fit_on and self.fit_spec == spec)

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of the further data sets, assumed to be equally large."""
        return len(self.specs[1:]) * size.clips * ((self.sampler_steps or 0) + size.steps)


CONFIG = asked(Config, __name__)

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import xarray as xr

from dit_lens import baselines
from dit_lens.baselines import Baseline
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures.reference_numbers import AVERAGE, EXAMPLES, NUMBERS, REGRESSION, UNWEIGHED, WEIGHED, number
from dit_lens.measures.reproduce_invisible_hand import NESTED
from dit_lens.probing import PROTOCOLS, Features, Grid, carry, pairs_in_order, score
from dit_lens.studies import encoders, outcome

GRID = Grid((1e-3, 1e-2, 1e-1), progress=False)
Absent = dict[tuple[str, str], str]  # data set, reader -> why it was not run


@dataclass(frozen=True, eq=False)
class Data:
    """A data set of the table: its name there, the study of it alone, and its scenes."""

    name: str
    study: Config
    scenes: Scenes


@dataclass(frozen=True, eq=False)
class Reader:
    """One reader of the table; `kind` is the published row that it belongs to, or its name."""

    name: str
    kind: str
    weights: str
    features: tuple[Features, ...]


def run(config: Config) -> xr.Dataset:
    """Scores by row (data set and reader), transfers between data sets, and what was not run.

    Raises:
        ValueError: no data set to fit a probe on, or one with too few scenes for a protocol.
    """
    absent: Absent = {}
    data = load(config, absent)
    loaded = [(spec, encoder) for spec in config.encoders if (encoder := load_encoder(spec, config, absent))]
    rows: list[xr.Dataset] = []
    carried: list[xr.Dataset] = []
    for name, lens in config.lenses():
        kind = config.published if config.published and not rows else name
        readers = of_model(lens, kind, data, None if rows else config.seed)
        question = lens if not rows else question
        for reader in readers:
            _score(reader, data, config, (rows, carried, absent))
    for spec, baseline in loaded:
        kind, _, weights = spec.partition("=")
        label = f"{kind}, random" if weights.startswith("random") else spec.split("=")[0]
        _score(of_baseline(baseline, label, kind.partition("+")[0], data), data, config, (rows, carried, absent))
    absent |= unpublished(config, absent)
    parts = [xr.concat(part, name, data_vars="all") for name, part in (("row", rows), ("transfer", carried)) if part]
    result = xr.merge(parts, compat="override", join="exact")
    result["not_run"] = "absent", [f"{name} × {reader}: {reason}" for (name, reader), reason in absent.items()]
    return outcome.finished(
        result, config, question, dataset=", ".join(dataset.name for dataset in data), split="as named"
    )


def _score(
    reader: Reader, data: list[Data], config: Config, into: tuple[list[xr.Dataset], list[xr.Dataset], Absent]
) -> None:
    """Adds a row for every data set that a probe may be fitted on, and transfers of its probes to all others."""
    rows, carried, absent = into
    for dataset, features in zip(data, reader.features, strict=True):
        if config.may_fit(dataset.study.spec):
            rows.append(scored(reader, dataset, features, config))
            continue
        published = number(dataset.study.spec.name, reader.kind)
        absent[dataset.name, reader.kind] = "for evaluation only: its authors do not allow training a probe on it" + (
            f"; published {published}" if published else ""
        )
    for (train, fitted), (test, unseen) in permutations(zip(data, reader.features, strict=True), 2):
        if config.may_fit(train.study.spec):
            carried.append(transferred(reader, (train.name, fitted), (test.name, unseen)))


# Data.


def load(config: Config, absent: Absent) -> list[Data]:
    """The data sets that have labels, each with at most --test scenes; for the others, `absent` gets the reason.

    Raises:
        ValueError: none to fit a probe on, or too few scenes in one.
    """
    loaded: list[Data] = []
    for name, spec in zip(names(config.specs), config.specs, strict=True):
        if LABELS not in spec.gives:
            absent[name, "all"] = REGRESSION.get(spec.name, "its labels are hidden")
            continue
        study = config if spec == config.spec else alone(config, spec)
        scenes = study.scenes("test")
        scenes = scenes if config.test is None else scenes.first(config.test)
        if config.may_fit(spec):
            check_enough(name, scenes, config)
        loaded.append(Data(name, study, scenes))
    if not any(config.may_fit(dataset.study.spec) for dataset in loaded):
        raise ValueError(
            f"got {', '.join(dataset.name for dataset in loaded)} · expected a data set on which a probe may be fitted"
            " · add another with --also, or pass --fit-on one of these if you have permission"
        )
    return loaded


def alone(config: Config, spec: DataSpec) -> Config:
    """The study of one of the further data sets."""
    data = f"{spec}={spec.root}" if spec.root else str(spec)
    count = config.test if spec.name == MINIPHYS else None
    return replace(config, data=data, data_options=(), properties=(), fit_on="", also=(), test=count)


def names(specs: list[DataSpec]) -> list[str]:
    """Names of the data sets in the table; with their roots where two names are equal."""
    labels = [str(spec) for spec in specs]
    return [
        f"{name} ({Path(s.root).name})" if labels.count(name) > 1 else name
        for name, s in zip(labels, specs, strict=True)
    ]


def check_enough(name: str, scenes: Scenes, config: Config) -> None:
    """Checks that every protocol can divide the scenes of a data set, and that both labels occur.

    Raises:
        ValueError: names the data set.
    """
    groups, labels = np.array(scenes.groups), {label for outline in scenes.outlines for label in outline.labels}
    if not {True, False} <= labels:
        raise ValueError(
            f"got {name}, whose clips all have one label · expected possible and impossible clips · use another split"
        )
    try:
        GRID.split(groups)
        for protocol in config.protocols:
            PROTOCOLS[protocol].split(groups, 0)
    except ValueError as error:
        raise ValueError(f"{error} · data set {name}") from error


# Readers.


def of_model(lens: DiTLens, kind: str, data: list[Data], seed: int | None) -> Iterator[Reader]:
    """The states of a model; for the model in question also noise matched to them, and its latents."""
    pooling = "tokens" if data[0].study.readout == "blocks" else "moments"  # the paper reads means of tokens
    read = [encoders.states(dataset.study, lens, pooling=pooling)(dataset.scenes).labelled() for dataset in data]
    yield Reader(kind, kind, lens.name, tuple(read))
    if seed is not None:
        noise = tuple(encoders.matched_noise(features, seed + i) for i, features in enumerate(read))
        yield Reader(f"noise matched to {kind}", "noise", "none", noise)
        yield of_baseline(encoders.latents(lens, "tokens"), f"latent of {kind}", "latent", data)


def of_baseline(baseline: Baseline, name: str, kind: str, data: list[Data]) -> Reader:
    """The layers of a baseline."""
    rows = [encoders.of_frames(baseline, dataset.study.batch_size)(dataset.scenes).labelled() for dataset in data]
    return Reader(name, kind, baseline.weights, tuple(rows))


def load_encoder(spec: str, config: Config, absent: Absent) -> Baseline | None:
    """An encoder; None if it cannot run, with the reason added to `absent`."""
    try:
        return baselines.load(spec, "tokens", config.seed, config.device)
    except baselines.NotRunError as error:
        absent["all", spec.partition("=")[0]] = str(error)
        return None


# Scores.


def scored(reader: Reader, data: Data, clips: Features, config: Config) -> xr.Dataset:
    """A row: reported accuracy and pairwise accuracy by protocol and seed, and the nested scores."""
    shape = (len(config.protocols), len(config.seeds))
    reported, pairwise = np.empty(shape), np.empty(shape)
    reported_clips = np.empty(shape[0], int)
    for cell in np.ndindex(shape):
        result = PROTOCOLS[config.protocols[cell[0]]].run(
            clips.cells, clips.labels, clips.groups, config.seeds[cell[1]]
        )
        logits = result.logits[result.cells.index(result.best)]
        reported[cell], reported_clips[cell[0]] = result.reported, len(result.clips)
        pairwise[cell] = pairs_in_order(logits, clips.labels[result.clips], clips.scenes[result.clips])
    outputs = GRID.nested(clips.cells, clips.labels, clips.groups).outputs
    nested = score(outputs, clips.labels, clips.groups, scenes=clips.scenes)
    published = number(data.study.spec.name, reader.kind)
    ends = (
        (np.nan, np.nan) if published is None else (np.nan if published.low is None else published.low, published.high)
    )
    row = xr.Dataset(
        {
            "reported": (("protocol", "split_seed"), reported),
            "reported_pairwise": (("protocol", "split_seed"), pairwise),
            "reported_clips": ("protocol", reported_clips),
            "published": "—" if published is None else str(published),
            "published_low": ends[0],
            "published_high": ends[1],
            "weights": reader.weights,
            **{name: float(getattr(nested, name)) for name in NESTED},
        },
        {"protocol": list(config.protocols), "split_seed": list(config.seeds)},
    )
    coords = {"data": data.name, "reader": reader.name, "kind": reader.kind}
    return row.expand_dims("row").assign_coords({key: ("row", [value]) for key, value in coords.items()})


def transferred(reader: Reader, train: tuple[str, Features], test: tuple[str, Features]) -> xr.Dataset:
    """Scores on one data set by a probe chosen and fitted on another."""
    unseen = test[1]
    scores = score(carry(train[1], unseen, GRID).logits, unseen.labels, unseen.groups, scenes=unseen.scenes)
    values = {f"transfer_{name}": float(getattr(scores, name)) for name in NESTED}
    labels = {"train": train[0], "test": test[0], "transfer_reader": reader.name}
    coordinates = {key: ("transfer", [value]) for key, value in labels.items()}
    return xr.Dataset(values).expand_dims("transfer").assign_coords(coordinates)


def unpublished(config: Config, known: Absent) -> Absent:
    """Published rows that are not in this run, and the options that would add them."""
    datasets = {spec.name for spec in config.specs}
    named = {kind for kind, _, weights in (spec.partition("=") for spec in config.encoders) if weights[:6] != "random"}
    readers = {config.published, *named, "latent", "noise"}
    absent: Absent = {}
    for data in (name for name in NUMBERS if name != AVERAGE):
        for reader in (*WEIGHED, *UNWEIGHED):
            folder = EXAMPLES.get(reader, "")
            model = f"--model {folder} --published {reader}"
            option = model if reader in WEIGHED[:3] else f"--encoders {reader}{f'={folder}' if folder else ''}"
            missing = [f"no data (--also {data}=ROOT)"] * (data not in datasets)
            missing += [f"{'no weights' if folder else 'not asked for'} ({option})"] * (reader not in readers)
            if missing and not {(data, reader), ("all", reader), (data, "all")} & known.keys():
                absent[data, reader] = f"{' and '.join(missing)}; published {number(data, reader)}"
    return absent | {
        (data, "all"): f"not given; {reason}" for data, reason in REGRESSION.items() if data not in datasets
    }


if CONFIG is not None:
    answer(CONFIG, run)
