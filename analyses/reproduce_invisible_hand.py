"""Does the table of "The Invisible Hand of Physics" (arXiv 2606.05328) reproduce, published beside measured?

What: accuracy by data set and reader, as published, by each protocol, and nested: reproduce_invisible_hand-*.nc with
scores by row, protocol and seed, transfers between data sets, and what was not run.
Why: its protocols report the best cell on the clips that chose it. Nested selection shows how much of the score that
adds.
How: states of every block averaged over tokens, a linear probe for each cell, by three published protocols; nested:
cell and penalty chosen inside the other folds. Data for evaluation only are scored by probes of other data.
Controls: control models, the autoencoder's latents, noise with the mean and covariance of the states, encoders of
frames; what lacks weights or data is listed.
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

from itertools import permutations

import numpy as np
import xarray as xr

from dit_lens.measures.reference_numbers import not_run, number
from dit_lens.measures.reproduce_invisible_hand import NONE
from dit_lens.probing import Features
from dit_lens.studies import encoders, outcome
from dit_lens.studies.data_sets import Absent, Data, Source, labelled, of_baseline, of_model
from dit_lens.studies.protocol_scores import by_protocol, check_enough, nested, on_other_data


def run(config: Config) -> xr.Dataset:
    """Scores by row (data set and reader), transfers between data sets, and what was not run.

    Raises:
        ValueError: no data set to fit a probe on, or one with too few scenes for a protocol.
    """
    absent: Absent = {}
    data = load(config, absent)
    missing: dict[str, str] = {}
    loaded = list(encoders.load_all(config.encoders, encoders.baseline_loader(config, "tokens"), missing))
    absent |= {("all", spec.partition("=")[0]): reason for spec, reason in missing.items()}
    rows: list[xr.Dataset] = []
    carried: list[xr.Dataset] = []
    for name, lens in config.lenses():
        kind = config.published if config.published and not rows else name
        sources = of_model(lens, kind, data, None if rows else config.seed)
        question = lens if not rows else question
        for source in sources:
            _score(source, data, config, (rows, carried, absent))
    for spec, baseline in zip((spec for spec in config.encoders if spec not in missing), loaded, strict=True):
        kind, _, weights = spec.partition("=")
        label = f"{kind}, random" if weights.startswith("random") else spec.split("=")[0]
        _score(of_baseline(baseline, label, kind.partition("+")[0], data), data, config, (rows, carried, absent))
    named = {kind for kind, _, weights in (spec.partition("=") for spec in config.encoders) if weights[:6] != "random"}
    absent |= not_run({spec.name for spec in config.specs}, {config.published, *named}, absent)
    parts = [xr.concat(part, name, data_vars="all") for name, part in (("row", rows), ("transfer", carried)) if part]
    result = xr.merge(parts, compat="override", join="exact")
    result["not_run"] = "absent", [f"{name} × {reader}: {reason}" for (name, reader), reason in absent.items()]
    return outcome.finished(
        result, config, question, dataset=", ".join(dataset.name for dataset in data), split="as named"
    )


def _score(
    source: Source, data: list[Data], config: Config, into: tuple[list[xr.Dataset], list[xr.Dataset], Absent]
) -> None:
    """Adds a row for every data set that a probe may be fitted on, and transfers of its probes to all others."""
    rows, carried, absent = into
    for dataset, features in zip(data, source.features, strict=True):
        if config.may_fit(dataset.study.spec):
            rows.append(scored(source, dataset, features, config))
            continue
        published = number(dataset.study.spec.name, source.kind)
        absent[dataset.name, source.kind] = "for evaluation only: its authors do not allow training a probe on it" + (
            f"; published {published}" if published else ""
        )
    for (train, fitted), (test, unseen) in permutations(zip(data, source.features, strict=True), 2):
        if config.may_fit(train.study.spec):
            carried.append(transferred(source, (train.name, fitted), (test.name, unseen)))


def load(config: Config, absent: Absent) -> list[Data]:
    """The data sets that have labels, each with at most --test scenes; for the others, `absent` gets the reason.

    Raises:
        ValueError: none to fit a probe on, or too few scenes in one.
    """
    loaded = labelled(config, config.specs, absent)
    fitted = [dataset for dataset in loaded if config.may_fit(dataset.study.spec)]
    for dataset in fitted:
        check_enough(dataset.name, dataset.scenes, config.protocols)
    if not fitted:
        raise ValueError(
            f"got {', '.join(dataset.name for dataset in loaded)} · expected a data set on which a probe may be fitted"
            " · add another with --also, or pass --fit-on one of these if you have permission"
        )
    return loaded


def scored(source: Source, data: Data, clips: Features, config: Config) -> xr.Dataset:
    """A row: what protocols report and what was published, and the nested scores."""
    published = number(data.study.spec.name, source.kind)
    low, high = (np.nan, np.nan) if published is None else published.ends
    about = {
        "published": NONE if published is None else str(published), "published_low": low, "published_high": high,
        "weights": source.weights,
    }  # fmt: skip
    row = by_protocol(clips, config.protocols, config.seeds).assign({**about, **nested(clips)})
    coords = {"data": data.name, "reader": source.name, "kind": source.kind}
    return row.expand_dims("row").assign_coords({key: ("row", [value]) for key, value in coords.items()})


def transferred(source: Source, train: tuple[str, Features], test: tuple[str, Features]) -> xr.Dataset:
    """Scores on one data set by a probe chosen and fitted on another."""
    values = {f"transfer_{name}": value for name, value in on_other_data(train[1], test[1]).items()}
    labels = {"train": train[0], "test": test[0], "transfer_reader": source.name}
    coordinates = {key: ("transfer", [value]) for key, value in labels.items()}
    return xr.Dataset(values).expand_dims("transfer").assign_coords(coordinates)


if CONFIG is not None:
    answer(CONFIG, run)
