"""The options that all questions share, and the defaults that follow the model and the data.

Light: importing it, and checking options, costs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from dit_lens import models
from dit_lens.datasets.spec import CROSSED, EVALUATION_ONLY, LABELS, MINIPHYS, PAIRS, SPLICES, TRACKS, DataSpec
from dit_lens.engines import Engine
from dit_lens.models.facts import ModelFacts, describe

CHECKPOINTS = "checkpoints"
NEEDS: Mapping[str, str] = {
    LABELS: "clips labelled possible or impossible",
    PAIRS: "pairs of a possible and an impossible clip",
    SPLICES: "pairs that share their first frames",
    CROSSED: "crossed scenes, whose impossible clips are spliced from the halves of the possible ones",
    TRACKS: "true positions and colours of objects",
    CHECKPOINTS: "checkpoints of the model's training",
}
RANDOM = "random"
FOLDS = 5  # of a probe
STRENGTH = 0.02  # of a probe: scikit-learn's C, that of `probing.STRENGTH`
SHARE = 0.6  # of the scenes that probes are fitted on, for a data set without splits
LEVELS = (1 / 3, 1 / 2, 2 / 3)
DEVICES = r"(cpu|cuda|mps|xpu|hpu|npu|meta)(:\d+)?"
# What unset options are for the bundled models on miniphys.
DEMO: Mapping[str, Any] = {
    "controls": ("mini-wan-null", "mini-wan-random"),
    "properties": (),
    "path": "continuation",
    "sampler_steps": 20,
    "read_at": (14,),
    "train": 150,
    "test": 30,
}
LAWS = ("continuity", "inertia", "gravity", "permanence")  # those that mini-wan's states decode best
# Options that decide no value of a result beyond rounding.
FREE = ("device_map", "offload", "batch_size", "store", "engine", "workers", "address", "yes", "out")


@dataclass(frozen=True)
class Size:
    """How large a study is, for its price.

    Attributes:
        blocks, heads: of the model.
        train, test: scenes.
        clips: of a scene.
        steps: places to read at.
    """

    blocks: int
    heads: int
    train: int
    test: int
    clips: int
    steps: int


@dataclass(frozen=True)
class Options:
    """Options of every question: model, data, conditioning, path, compute, output.

    A question adds one to four options, declares what it needs, and defines what unset options are for
    the bundled models on miniphys.
    """

    NEEDS: ClassVar[tuple[str, ...]] = (PAIRS,)
    DEMO: ClassVar[Mapping[str, Any]] = {}
    ONE_PLACE: ClassVar[bool] = False
    READOUTS: ClassVar[tuple[str, ...]] = ("blocks",)

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a Hugging Face hub id."""
    controls: tuple[str, ...] | None = None
    """Control models, expected to show no effect; random is the model with new weights (pass nothing to skip)."""
    revision: str = ""
    """Revision (branch, tag or commit) of a model on the hub."""
    device: str = "cpu"
    """Device that models run on: cpu, cuda, cuda:1, mps, ..."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the transformer; auto is bfloat16 above a billion parameters. Latents stay float32."""
    device_map: str = ""
    """How to spread the transformer over several devices, such as balanced."""
    offload: Literal["none", "model"] = "none"
    """model: keep only the running part of the pipeline on the device."""
    name: str = ""
    """Label of the model in results; its name if empty."""
    data: str = MINIPHYS
    """Data set, NAME[:SPLIT][=ROOT], such as intphys:dev=/data/intphys."""
    data_options: tuple[str, ...] = ()
    """Further options of the data set's reader, as KEY=VALUE."""
    fit_on: str = ""
    """Data set to fit probes on, NAME[:SPLIT][=ROOT]; if empty, --data itself, divided by scene."""
    properties: tuple[str, ...] | None = None
    """Physical properties to include; by default all."""
    frames: int = 0
    """Number of frames of a clip, sampled at even distances; 0 keeps all."""
    size: int = 0
    """Height and width to which frames are resized, in pixels; 0 keeps the original size."""
    fit: Literal["crop", "letterbox"] = "crop"
    """How frames are fitted to --size: cropped, or padded with bars."""
    train: int | None = None
    """Number of scenes to fit probes on; by default 60 per cent of a data set without a training split."""
    test: int | None = None
    """Number of scenes to test on; by default all others."""
    prompt: str = ""
    """Text prompt; the word caption uses the caption of each clip."""
    guidance: float = 1.0
    """Scale of classifier-free guidance during the inversion; 1 means no guidance."""
    path: Literal["continuation", "inversion", "noising"] | None = None
    """How clips get to noise: continuation (first frames stay clean), inversion, or noising (random noise mixed in)."""
    solver: Literal["euler", "implicit_euler", "midpoint", "heun", "fireflow"] = "euler"
    """Solver of the inversion."""
    sampler_steps: int | None = None
    """Number of sampler steps between data and noise; by default 50."""
    read_at: tuple[int | float, ...] | None = None
    """Where activations are read: sampler steps, counted from data (0) to noise, or noise levels such as 0.5."""
    readout: Literal["blocks", "interaction"] = "blocks"
    """What probes read: block outputs, or what attention across the break of a scene adds to them (interaction)."""
    block: int | None = None
    """Block after which probes read; by default chosen on training scenes."""
    cell_rule: Literal["one_error", "best"] = "one_error"
    """Which cell a probe reads: the first within one standard error of the best out of fold, or the best itself."""
    batch_size: int = 8
    """Number of scenes in a batch."""
    store: str = ""
    """Folder in which captured activations are kept, to be reused by other runs."""
    engine: Literal["here", "processes", "ray"] = "here"
    """Where activations are captured into --store: this process, local processes, or actors of a Ray cluster."""
    workers: int = 2
    """Number of processes or actors, each with a copy of the model."""
    address: str = "local"
    """Ray cluster: local starts one, auto takes the one on this machine, ray://HOST:PORT is a remote one."""
    seed: int = 0
    """Seed of all random numbers: data, noise, splits and random weights."""
    yes: bool = False
    """Run without confirmation, whatever the cost."""
    out: str = ""
    """Folder for results and figures; by default figures/data and figures/out."""

    # Defaults that follow the model and the data.

    @cached_property
    def spec(self) -> DataSpec:
        """The data set."""
        return DataSpec.parse(self.data, self.data_options)

    @cached_property
    def fit_spec(self) -> DataSpec:
        """The data set that probes are fitted on."""
        return DataSpec.parse(self.fit_on) if self.fit_on else self.spec

    @property
    def bundled(self) -> bool:
        """Whether the model in question comes with the package, or was trained like one that does."""
        return models.split_name(self.model).base in models.NAMES

    def resolved(self) -> Self:
        """The study with every unset option filled in, according to its model and data.

        Raises:
            ValueError, FileNotFoundError: an option that does not go with another; see `check`.
        """
        demo = {**DEMO, **type(self).DEMO}
        little_world = self.spec.name == MINIPHYS
        general: dict[str, Any] = {"controls": (RANDOM,), "path": "inversion", "sampler_steps": 50, "read_at": LEVELS}
        if self.ONE_PLACE:
            general["read_at"] = (LEVELS[1],)
        chosen = {key: demo[key] if self.bundled else value for key, value in general.items()}
        if SPLICES not in self.spec.gives and chosen["path"] == "continuation":
            chosen["path"] = "inversion"
        for key in ("train", "test", "properties"):
            chosen[key] = demo[key] if little_world else () if key == "properties" else None
        given_names = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        resolved = replace(self, **{key: value for key, value in chosen.items() if key not in given_names})
        resolved.check()
        return resolved

    def check(self) -> None:
        """Checks that options go together and the data have what the question needs; reads no weights and no frames.

        Raises:
            ValueError, FileNotFoundError: got · expected · remedy.
        """
        self._check_model()
        self._check_numbers()
        self._check_readout()
        self._check_engine()
        for spec in (self.spec, self.fit_spec):
            spec.check_root()
        missing = [need for need in type(self).NEEDS if need != CHECKPOINTS and need not in self.spec.gives]
        if missing:
            raise ValueError(
                f"got data {self.spec}, which has no {NEEDS[missing[0]]} · expected one that has, such as"
                f" {_serving(missing[0])} · python -m analyses lists what each question needs"
            )
        if self.path == "continuation" and SPLICES not in self.spec.gives:
            raise ValueError(
                f"got path continuation on {self.spec}, whose pairs do not share their first frames · expected"
                f" {_serving(SPLICES)} · use --path inversion or noising"
            )
        if self.spec.name in EVALUATION_ONLY and self.fits and not self.fit_on:
            raise ValueError(
                f"got {self.spec} to fit a probe on, whose authors allow evaluation only · expected another data set in"
                f" --fit-on · if you have permission, pass --fit-on {self.data}"
            )

    @property
    def fits(self) -> bool:
        """Whether the question fits probes, and so needs training scenes."""
        return self.train != 0

    @cached_property
    def facts(self) -> ModelFacts:
        """Facts of the model in question, from its configs; no weights are read."""
        return describe(self.model, self.revision or None)

    def _check_model(self) -> None:
        for name in self.controls or ():
            if name != RANDOM:
                describe(name)
        if not re.fullmatch(DEVICES, self.device):
            raise ValueError(f"got --device {self.device} · expected a device such as cpu, cuda, cuda:1, mps or xpu")
        facts = self.facts
        facts.supports(self.path or "inversion").check(self.model, self.path or "inversion")
        if self.frames:
            facts.check_frames(self.frames)
        if self.size:
            facts.check_size(self.size, self.size)

    def _check_readout(self) -> None:
        if self.readout not in type(self).READOUTS:
            raise ValueError(
                f"got readout {self.readout}, a difference of two runs · expected blocks, whose probe reads one"
                " activation · probe_blocks, probe_controls, compare_encoders and reproduce_invisible_hand take others"
            )
        if self.readout == "interaction" and SPLICES not in self.spec.gives:
            raise ValueError(
                f"got readout interaction on {self.spec}, whose pairs do not share frames · expected"
                f" {_serving(SPLICES)} · use --readout blocks"
            )

    @property
    def runs_on(self) -> Engine:
        """Where activations are captured.

        Raises:
            ValueError: see `Engine`.
        """
        return Engine(self.engine, self.workers, self.address)

    @property
    def shared_folder(self) -> str:
        """The folder that workers capture into; empty without one."""
        return self.store

    def _check_engine(self) -> None:
        if self.runs_on.elsewhere and not self.shared_folder:
            raise ValueError(
                f"got --engine {self.engine} without --store · expected a folder that all workers share · pass --store"
                " FOLDER, or leave --engine out"
            )

    def _check_numbers(self) -> None:
        for key, least in {"frames": 0, "size": 0, "sampler_steps": 1, "batch_size": 1, "train": 0, "test": 1}.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"got --{key.replace('_', '-')} {value} · expected {least} or more")
        steps, places = self.sampler_steps or 0, self.read_at or ()
        if not places or (self.ONE_PLACE and len(places) != 1):
            expected = "one place" if self.ONE_PLACE else "one or more places"
            raise ValueError(f"got --read-at {' '.join(map(str, places))} · expected {expected}, such as 14 or 0.5")
        for place in places:
            inside = 0 <= place <= (1 if isinstance(place, float) else steps)
            if not inside:
                raise ValueError(
                    f"got --read-at {place} · expected a step from 0 (data) to {steps} (noise), or a noise level in [0,"
                    " 1] such as 0.5 · steps count from data to noise"
                )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of one clip for each test scene and model, beside those that read the scene."""
        return 0.0


def _serving(need: str) -> str:
    """The data sets that meet a need."""
    from dit_lens.datasets.spec import GIVES

    return ", ".join(name for name, gives in GIVES.items() if need in gives)


def options_of(study: Options, without: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a study by name, in plain values."""
    rows = {field.name: getattr(study, field.name) for field in fields(study) if field.name not in without}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in rows.items()}
