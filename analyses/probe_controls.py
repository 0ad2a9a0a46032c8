"""What is a probe's accuracy on a model's states worth, with every control scored by the same protocol?

What: accuracy, d', pairwise order and AUROC of each encoder and label: probe_controls-*.nc with log odds and labels of
all test clips (row, scene, role).
Why: published probe accuracies differ in protocol and controls. Here the protocol is one, so that only encoders differ.
How: a row is an encoder of clips and a label. A logistic probe is fitted in each of its cells on training scenes; the
cell is chosen out of fold there, and only its log odds on test scenes are scored, with intervals over scenes.
Controls: the latent read, frames shuffled or repeated, other prompts, control models, fidelity, latents, pixels, flow,
texture, matched noise; labels of tint, and of position, colour and background where tracked; random labels.
Cost: about ten minutes on one core with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import EncoderStudy, Size

OTHER_PROMPT = "a red ball rolls behind a wall"  # models without a text encoder get an embedding of the same norm


@dataclass(frozen=True)
class Config(EncoderStudy):
    """Options of the analysis."""

    ALSO: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("inversion", "noising"), ("noising",))

    baselines: tuple[str, ...] = ("pixels", "flow", "resnet=random")
    """Encoders of frames: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random."""

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of all scenes also with shuffled frames, a repeated frame and another prompt; and round trips."""
        back = (size.train / max(1, size.test) + 1) * size.clips * 2 * (self.sampler_steps or 0)
        return super().per_test_scene(size) + 3 * self.reading(size) + back


CONFIG = asked(Config, __name__)

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from dit_lens import baselines, fidelity
from dit_lens.baselines import Baseline
from dit_lens.baselines.catalogue import HUB_IDS
from dit_lens.clips import Clip, Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import TRACKS
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_controls import PHYSICS, RANDOM
from dit_lens.probing import Features, scene_labels
from dit_lens.probing.controls import GRID
from dit_lens.probing.transfer import carry
from dit_lens.studies import encoders, outcome
from dit_lens.studies.encoders import Encoder, read_all
from dit_lens.studies.paths import path_of
from dit_lens.toy.content import CONTENTS, content_labels

Read = Mapping[str, Features]


def run(config: Config) -> xr.Dataset:
    """Log odds of the test clips by row, and the controls that could not run."""
    missing = not_run(config.baselines)
    load = encoders.baseline_loader(config, config.pooling_of_frames)
    readers = list(encoders.load_all(config.baselines, load, missing))
    splits: dict[str, Scenes] = {"train": config.scenes("train"), "test": config.scenes("test")}
    rows: list[xr.Dataset] = []
    for _, lens in config.lenses():
        first = not rows
        for encoder, further_labels in of_model(lens, readers, config) if first else of_control(lens, config):
            read = read_all(encoder, splits)
            rows.append(row(encoder, PHYSICS, read, **config.fitting))
            if len(rows) == 1:
                drawn = encoders.noise_like(read, config.seed)
                question, noise = lens, row(encoder.as_noise(), PHYSICS, drawn, **config.fitting)
            rows += other_labels(encoder, read, splits, config) if further_labels else []
    result = xr.concat([*rows, noise], "row", data_vars="all", join="outer", coords="minimal", compat="override")
    result["not_run"] = "absent", [f"{name}: {reason}" for name, reason in missing.items()]
    result = outcome.with_scenes(result, config)
    crossed = {scene.id: scene.crossed for scene in splits["test"]}
    result = result.assign_coords(crossed=("scene", [crossed[name] for name in result.scene.values]))
    return outcome.finished(result, config, question)


def not_run(specs: Sequence[str]) -> dict[str, str]:
    """Controls that lack their weights, and the reason."""
    texture = HUB_IDS["resnet"]
    reasons = baselines.not_run(specs)
    return {f"texture by {texture}": "no weights were given; --baselines resnet=FOLDER"} if texture in reasons else {}


def of_model(lens: DiTLens, readers: Sequence[Baseline], config: Config) -> Iterator[tuple[Encoder, bool]]:
    """Encoders of the model in question, its states first; and whether the other labels are probed on each too."""
    for kind in dict.fromkeys([config.path, *(config.also or ())]):
        read, inputs = encoders.states_and_input(config, lens, path_of(config, kind=kind), config.pooling)
        yield read.joined(config.joined_blocks), kind == config.path
        yield inputs, False
    plain = encoders.states(config, lens, pooling=config.pooling).joined(config.joined_blocks)
    yield plain.on(baselines.shuffled(config.seed), "frames shuffled"), False
    yield plain.on(baselines.still(), "last frame only"), False
    if encoders.text_of(lens) is not None:
        swapped = encoders.states(config, otherwise(lens, config), pooling=config.pooling, store=False)
        yield swapped.joined(config.joined_blocks), False
    fidelities = baselines.round_trips(lens, config.sampler_steps or 0, f"{lens.name}, fidelity of inversion")
    clip_readers = [
        fidelities,
        encoders.latents(lens, config.pooling_of_frames),
        *encoders.prompt(lens, config.pooling_of_frames),
        *readers,
    ]
    for reader in clip_readers:
        yield encoders.of_frames(reader, config.batch_size), reader.name == "pixels"


def of_control(lens: DiTLens, config: Config) -> Iterator[tuple[Encoder, bool]]:
    """The states of a control model, on which all labels are probed."""
    yield encoders.states(config, lens, pooling=config.pooling).joined(config.joined_blocks), True


def otherwise(lens: DiTLens, config: Config) -> DiTLens:
    """The same model with another prompt."""
    conditioning = fidelity.perturbed(lens.conditioning, 1.0, config.seed)
    if lens.prompts.can_encode:
        conditioning = lens.encode_prompt(OTHER_PROMPT)
    return DiTLens(lens.pipeline, f"{lens.name}, prompt swapped", conditioning, verify=False)


def other_labels(encoder: Encoder, read: Read, splits: Mapping[str, Scenes], config: Config) -> Iterator[xr.Dataset]:
    """Rows of an encoder for the labels that are not physics."""
    recoloured = {part: encoders.recoloured(scenes, config.tinted) for part, scenes in splits.items()}
    for label in encoders.RECOLOURED:
        filmed = read_all(encoder, {part: by_label[label] for part, (_, by_label) in recoloured.items()})
        yield row(encoder, label, filmed, **config.fitting).assign_coords(
            scene=[outline.id for outline in recoloured["test"][0].outlines]
        )
    if TRACKS in config.spec.gives:
        clips = {part: without_frames(scenes) for part, scenes in splits.items()}
        for label in CONTENTS:
            shown = {
                part: relabelled(features, content_labels(clips[part], clips["train"], label))
                for part, features in read.items()
            }
            if all(features.clips.possible.nunique() == 2 for features in shown.values()):
                yield row(encoder, label, shown, **config.fitting)
    drawn = {
        part: relabelled(features, scene_labels(features.groups, config.seed).astype(float))
        for part, features in read.items()
    }
    yield row(encoder, RANDOM, drawn, **config.fitting)


def without_frames(scenes: Sequence[Scene]) -> list[Clip]:
    """The clips of scenes without their frames: ids, labels, tracks and factors."""
    return [replace(clip, frames=clip.frames[:0]) for scene in scenes for clip in scene.clips]


def relabelled(features: Features, labels: np.ndarray) -> Features:
    """The same clips with other labels: 1 or 0, or NaN where there is none."""
    possible = [None if np.isnan(label) else bool(label) for label in labels]
    return replace(features, clips=features.clips.assign(possible=np.array(possible, dtype=object)))


def row(encoder: Encoder, label: str, read: Read, **fitting: Any) -> xr.Dataset:
    """Log odds of the test clips by a probe chosen and fitted on training clips; NaN for a clip without a label."""
    test = read["test"]
    labelled = test.clips.possible.notna().to_numpy()
    transferred = carry(read["train"].labelled(), test, replace(GRID, **fitting))
    step, block = transferred.cell  # type: ignore[misc]
    truth = test.clips.possible.astype(float).to_numpy()
    values = {"logit": test.table(np.where(labelled, transferred.logits, np.nan)), "label": test.table(truth)}
    facts = {"chosen_step": step, "layer": encoder.layers[block], "weights": encoder.weights, "sees": encoder.sees}
    table = xr.Dataset({key: variable.reset_coords(drop=True) for key, variable in values.items()} | facts)
    return table.expand_dims("row").assign_coords(source=("row", [encoder.name]), asked=("row", [label]))


if CONFIG is not None:
    answer(CONFIG, run)
