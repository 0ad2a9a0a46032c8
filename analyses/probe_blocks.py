"""Where along depth and noise level is plausibility linearly decodable, and does the trained model compute it?

What: a map of accuracy over steps and blocks, and the chosen cell: probe_blocks-*.nc with accuracies (source, step,
block) and logits of the chosen cells.
Why: it is the first question to any model. The answer also chooses the block and step at which other analyses read.
How: clips are taken to noise along a path; block outputs are averaged over the tokens of each latent frame; a logistic
probe's cell (step, block) is chosen out of fold on training scenes and scored once on test scenes.
Controls: the latent that is read; noising in place of inversion; control models; latents and pixels, and their
deviation over time; another autoencoder's latents; lawful changes; probes of all other properties.
Cost: about half an hour of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.studies import ProbeStudy, Size


@dataclass(frozen=True)
class Config(ProbeStudy):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null", "mini-wan-swap", "mini-wan-random"),
        "read_at": (4, 8, 11, 14, 17),
        "train": 330,
        "test": 220,
        "path": "inversion",
    }

    also: tuple[Literal["inversion", "noising", "continuation"], ...] | None = None
    """Further paths to read on; noising, the baseline of inversion, is read for the model in question only."""
    autoencoder: str | None = None
    """Second autoencoder whose latents are probed too: mini-vae, or a folder; by default none."""
    unseen: int | None = None
    """Number of additional miniphys test scenes with shapes, colours or layouts that never occur in training."""

    def resolved(self) -> Config:
        """With every unset option filled in."""
        study = super().resolved()
        demo = study.spec.name == "miniphys"
        unset: dict[str, Any] = {
            "also": ("noising", "continuation") if self.bundled and demo else ("noising",),
            "autoencoder": "mini-vae" if demo else "",
            "unseen": 132 if demo else 0,
        }
        study = replace(study, **{key: value for key, value in unset.items() if getattr(study, key) is None})
        if study.unseen and not demo:
            raise ValueError(
                f"got --unseen {study.unseen} on {study.spec} · expected miniphys, the only data set with an unseen"
                " split · leave --unseen out"
            )
        return study

    def per_test_scene(self, size: Size) -> float:
        """Evaluations on the further paths, over all scenes."""
        return (size.train / max(1, size.test) + 1) * size.clips * size.steps * len(self.also or ())


CONFIG = asked(Config, __name__)

from pathlib import Path

import torch
import xarray as xr
from diffusers import AutoencoderKLWan

from dit_lens import models
from dit_lens.clips import stack_frames
from dit_lens.datasets.scenes import Scenes, labelled_pairs
from dit_lens.datasets.spec import DataSpec
from dit_lens.lens import DiTLens
from dit_lens.studies import encoders, outcome
from dit_lens.studies.encoders import Encoder
from dit_lens.studies.paths import path_of, schedule
from dit_lens.studies.scoring import scored
from dit_lens.video import to_tensor


def run(config: Config) -> xr.Dataset:
    """Accuracies by source, and the chosen cell of each with its scores on test scenes."""
    splits = {"train": config.scenes("train"), "test": config.scenes("test")}
    if config.unseen:
        splits["unseen"] = unseen(config)
    parts: list[xr.Dataset] = []
    for name, lens in config.lenses():
        first = not parts
        for kind in dict.fromkeys([config.path, *(config.also or ())]):
            if not first and kind == "noising" and config.path != "noising":
                continue
            path = path_of(config, kind=kind)
            read, inputs = encoders.states_and_input(config, lens, path, config.pooling, fed=first)
            read = read.joined(config.joined_blocks)
            source = name if kind == "inversion" else f"{name}, {kind}"
            parts.append(row(read, splits, source, name, str(kind), "states", **config.fitting))
            if first or len(parts) == 1:
                parts.append(row(inputs, splits, f"{source}, input x_σ", name, str(kind), "input", **config.fitting))
        if first:
            levels, question = schedule(config, lens, splits["test"]), lens
            place = int(parts[0].step[0])
            parts += [
                row(encoder, splits, encoder.name, encoder.name, "", "clip", place, **config.fitting)
                for encoder in whole_clips(lens, config)
            ]
    result = xr.concat(parts, "source", data_vars="all", join="outer", coords="minimal", compat="override")
    result = result.assign_coords(sigma=("step", [levels.sigmas[int(step)] for step in result.step.values]))
    crossed = [scene.crossed for scene in splits["test"]]
    result = outcome.with_scenes(result, config).assign_coords(crossed=("scene", crossed), readout=config.readout)
    return outcome.finished(result, config, question)


def row(
    encoder: Encoder,
    splits: Mapping[str, Scenes],
    source: str,
    reader: str,
    path: str,
    kind: str,
    place: int = 0,
    **fitting: Any,
) -> xr.Dataset:
    """Scores of one source, with its reader, path and kind as coordinates.

    Args:
        place: the step to file features of whole clips under, which have none.
        **fitting: how probes are fitted and the cell is chosen; see `probing.fit`.
    """
    read = {part: encoder(scenes, "train" if part == "train" else "test") for part, scenes in splits.items()}
    if kind == "clip":
        read = {part: replace(features, cells={(place, 0): features.cell(0, 0)}) for part, features in read.items()}
    grid = scored(read["train"], read["test"], read.get("unseen"), **fitting).drop_vars("sigma", errors="ignore")
    coords = {"reader": ("source", [reader]), "path": ("source", [path]), "kind": ("source", [kind])}
    return grid.expand_dims(source=[source]).assign_coords(coords)


def unseen(config: Config) -> Scenes:
    """Scenes with shapes, colours or layouts that occur in no training."""
    options: dict[str, Any] = {"properties": config.properties} if config.properties else {}
    source = DataSpec("miniphys", "unseen").load(
        quadruplets=config.unseen, seed=config.seed, size=config.size or 32, **options
    )
    return labelled_pairs(source)


def whole_clips(lens: DiTLens, config: Config) -> list[Encoder]:
    """Encoders of whole clips, without the transformer: latents and pixels."""

    def pixels(clips: Any) -> torch.Tensor:
        return to_tensor(stack_frames(clips))

    def deviation(clips: Any) -> torch.Tensor:
        return pixels(clips).std(dim=2, keepdim=True)

    flat = [
        encoders.of_latents("latent", lens.encode),
        encoders.of_latents("pixels", pixels),
        encoders.of_latents("pixels, std over time", deviation),
    ]
    if not config.autoencoder:
        return flat
    vae: Any = AutoencoderKLWan.from_pretrained(models.locate_autoencoder(config.autoencoder)).eval()

    @torch.no_grad()
    def encoded(clips: Any) -> torch.Tensor:
        return torch.cat([vae.encode(part).latent_dist.mode() for part in pixels(clips).split(16)])

    name = f"latent of {Path(config.autoencoder).name}"
    spliced = encoders.of_latents(f"{name}, spliced", encoded, "latent")
    return [*flat, encoders.of_latents(name, encoded), *([spliced] if "crossed" in config.spec.gives else [])]


if CONFIG is not None:
    answer(CONFIG, run)
