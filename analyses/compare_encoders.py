"""Do the states of a video diffusion model separate possible from impossible clips better than other encoders do?

What: accuracy per clip by encoder and label, and pairwise surprise: compare_encoders-*.nc with logits of all test clips
by source and label, and surprises.
Why: a probe's accuracy means little alone. Self-supervised video encoders, optical flow or pixel statistics may reach
the same.
How: one logistic probe for all: the model on each path, latents, pixels, optical flow, ResNet, VideoMAE, V-JEPA 2
(random unless weights are given). Layer and step are chosen out of fold on training scenes, scored once on test.
Controls: control models; the prompt embedding; noise with the mean and covariance of the states; one frame alone;
shuffled frames; two labels beside physics, a tint and a change of tint at the break.
Cost: about five minutes of one core with the defaults; ViT-L at 256 pixels takes seconds per clip on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import EncoderStudy, Size

DRAWS = 2  # draws of noise for the surprise of the model itself


@dataclass(frozen=True)
class Config(EncoderStudy):
    """Options of the analysis."""

    ALSO: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("inversion",), ())

    encoders: tuple[str, ...] = (
        "pixels",
        "pixels+moments",
        "flow",
        "resnet=random",
        "resnet=random+moments",
        "videomae=random",
        "vjepa2=random",
        "vjepa2=random+moments",
        "vjepa2=random+still",
        "vjepa2=random+shuffled",
    )
    """Encoders: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random; optionally with +moments,
    +still or +shuffled. For videomae and vjepa2 surprise is scored too."""
    sigmas: tuple[float, ...] = (0.4, 0.8)
    """Noise levels at which the model's velocity error is measured (its surprise), above 0 and up to 1."""

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of all encoders, and of the velocity errors in two conditions."""
        return super().per_test_scene(size) + 2 * DRAWS * len(self.sigmas) * size.clips


CONFIG = asked(Config, __name__)

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from dit_lens import baselines
from dit_lens.baselines import Baseline
from dit_lens.baselines.catalogue import SURPRISES
from dit_lens.clips import Scene, stack_frames
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.probing import Features, fit
from dit_lens.studies import encoders, outcome
from dit_lens.studies.encoders import RECOLOURED, Encoder, read_all
from dit_lens.studies.paths import path_of
from dit_lens.studies.scoring import scored
from dit_lens.studies.velocity_errors import velocity_errors

PHYSICS = "physics"
KEPT = ["chosen_step", "chosen_block", "logit", "own_logit", "transfer_logit"]
Labels = Mapping[str, Mapping[str, Sequence[Scene]]]
Read = Mapping[str, Mapping[str, Features]]


def run(config: Config) -> xr.Dataset:
    """Logits of the test clips by source, for physics and for the other labels; surprises; what was not run."""
    missing = baselines.not_run(config.encoders)
    readers = list(
        encoders.load_all(config.encoders, encoders.baseline_loader(config, config.pooling_of_frames), missing)
    )
    train, test = config.scenes("train"), config.scenes("test")
    scorers, labels = list(surprise_scorers(config, test, missing)), labelled(train, test, config.tinted)
    parts: list[xr.Dataset] = []
    surprises: list[xr.DataArray] = []
    for _, lens in config.lenses():
        states = encoders.states(config, lens, pooling=config.pooling).joined(config.joined_blocks)
        for encoder in [states] if parts else [states, *further_encoders(lens, readers, config)]:
            read = {label: read_all(encoder, splits) for label, splits in labels.items()}
            parts.append(row(encoder, read, **config.fitting))
            if len(parts) == 1:
                noise = {label: encoders.noise_like(features, config.seed) for label, features in read.items()}
                question, control = lens, row(encoder.as_noise(), noise, **config.fitting)
        surprises.append(velocity_surprise(lens, test, config))
    result: xr.Dataset = xr.concat([*parts, control], "source", data_vars="all", coords="minimal", compat="override")
    surprises += [encoder_surprise(scorer, test) for scorer in scorers]
    result["surprise"] = xr.concat(surprises, "scorer")
    result["not_run"] = "absent", [f"{name}: {reason}" for name, reason in missing.items()]
    crossed = xr.DataArray([scene.crossed for scene in test], {"scene": result.scene}, ("scene",))
    return outcome.finished(outcome.with_scenes(result.assign_coords(crossed=crossed), config), config, question)


def labelled(train: Scenes, test: Scenes, tinted: int) -> Labels:
    """Training and test scenes, for physics and for each of the other labels."""
    splits = {"train": train, "test": test}
    recoloured = {part: encoders.recoloured(scenes, tinted)[1] for part, scenes in splits.items()}
    return {PHYSICS: splits} | {
        label: {part: by_label[label] for part, by_label in recoloured.items()} for label in RECOLOURED
    }


def further_encoders(lens: DiTLens, readers: Sequence[Baseline], config: Config) -> Iterator[Encoder]:
    """Encoders beside the main row: the states of the model in question on further paths, then all others."""
    for kind in dict.fromkeys(config.also or ()):
        if kind != config.path:
            further = encoders.states(config, lens, path_of(config, kind=kind), config.pooling)
            yield further.joined(config.joined_blocks)
    pooling = config.pooling_of_frames
    for reader in (encoders.latents(lens, pooling), *encoders.prompt(lens, pooling), *readers):
        yield encoders.of_frames(reader, config.batch_size)


def row(encoder: Encoder, read: Read, **fitting: Any) -> xr.Dataset:
    """Logits of the test clips at the chosen layer, for physics (see `scoring.scored`) and the other labels."""
    table = scored(read[PHYSICS]["train"], read[PHYSICS]["test"], **fitting)[KEPT]
    layer = encoder.layers[int(table.chosen_block)]
    table = table.assign(layer=layer, weights=encoder.weights, sees=encoder.sees).reset_coords(drop=True)
    for label in RECOLOURED:
        train, test = read[label]["train"], read[label]["test"]
        table[f"{label} logit"] = ("tinted", "role"), test.table(fit(train, **fitting).logits(test)).values
    return table.expand_dims(source=[encoder.name])


# Surprise.


def velocity_surprise(lens: DiTLens, test: Scenes, config: Config) -> xr.DataArray:
    """Surprise of the model: its velocity error, averaged over noise levels, in the last condition of all scenes."""
    errors = velocity_errors(
        lens, test, config.sigmas, DRAWS, config.seed, batch_size=config.batch_size, prompt=path_of(config).prompt
    ).mean(("sigma", "frame"))
    finite = np.isfinite(errors.transpose("condition", ...).values).all((1, 2))
    chosen = errors.isel(condition=np.flatnonzero(finite)[-1])
    return _surprise(f"{lens.name}, velocity", str(chosen.condition.item()), test, chosen.values)


def surprise_scorers(config: Config, test: Scenes, missing: dict[str, str]) -> Iterator[Baseline]:
    """Encoders that predict frames; for one without weights or frames, `missing` gets the reason."""
    specs = [spec for spec in config.encoders if spec.partition("=")[0] in SURPRISES and "+" not in spec]

    def load(spec: str) -> Baseline:
        scorer = baselines.load_surprise(spec, config.seed, config.device)
        try:
            scorer(stack_frames(test[0].clips[:1]))
        except ValueError as error:
            raise baselines.NotRunError(f"no surprise: {error}") from error
        return scorer

    return encoders.load_all(specs, load, missing)


def encoder_surprise(scorer: Baseline, test: Scenes) -> xr.DataArray:
    """The surprise of an encoder, averaged over the numbers of frames given."""
    values = encoders.read_frames(scorer, test).mean((1, 2))
    return _surprise(scorer.name, scorer.sees, test, values.reshape(len(test), -1))


def _surprise(name: str, sees: str, test: Scenes, values: np.ndarray) -> xr.DataArray:
    """One row of surprises, of clips scene by scene."""
    coords = {"scene": [outline.id for outline in test.outlines], "role": list(test[0].roles)}
    scorer_coords = {"scorer": [name], "scored": ("scorer", [sees])}
    return xr.DataArray(values[None], {**scorer_coords, **coords}, ("scorer", "scene", "role"))


if CONFIG is not None:
    answer(CONFIG, run)
