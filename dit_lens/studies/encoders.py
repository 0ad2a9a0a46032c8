"""Encoders, which turn the clips of scenes into features: a model's states on a path, or a baseline on frames.

All return `Features` with cells (step, block). Encoders of frames have one step, 0 (the clean clip), and a block per
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch

from dit_lens import baselines
from dit_lens.baselines import Baseline, MatchedNoise, NotRunError
from dit_lens.capture import Encoder as LatentEncoder
from dit_lens.capture import NoisePath, Pooling, Recipe, Take, batches, by_scene, capture, clips_of, encode, pooled
from dit_lens.capture.storing import columns
from dit_lens.clips import Scene, stack_frames
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.probing import Features
from dit_lens.studies.paths import path_of, steps_of
from dit_lens.studies.readers import kept
from dit_lens.studies.study import Study

Part = Literal["train", "test"]
INPUT = Take.parse("hook_latent=none")
# Labels without physics: how scenes are filmed.
RECOLOURED = {"tint": baselines.tint_pair, "tint change": baselines.tint_change}


class Changed(Sequence[Scene]):
    """Scenes that are changed as they are read, for example by `baselines.tint_pair`.

    Their activations are never kept in a store: a clip whose frames were changed may have the id that it had before.
    """

    def __init__(self, scenes: Sequence[Scene], change: Callable[[Scene], Scene]):
        self.scenes, self.change = scenes, change

    def __len__(self) -> int:
        return len(self.scenes)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        chosen = self.scenes[index]
        return self.change(chosen) if isinstance(chosen, Scene) else [self.change(scene) for scene in chosen]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A row of a table.

    Attributes:
        name: what it is called.
        read: scenes, and whether they are to fit or to test on -> features.
        layers: names of its blocks.
        weights: what its numbers come from.
        sees: which frames or noise levels.
    """

    name: str
    read: Callable[[Sequence[Scene], Part], Features]
    layers: tuple[str, ...]
    weights: str
    sees: str

    def __call__(self, scenes: Sequence[Scene], part: Part = "test") -> Features:
        """Features of every clip, scene by scene, under the encoder's name."""
        return self.read(scenes, part).renamed(self.name)

    def on(self, change: baselines.Change, name: str) -> Encoder:
        """The encoder of clips whose frames are changed first; `name` is appended to its name."""

        def read(scenes: Sequence[Scene], part: Part) -> Features:
            return self.read(Changed(scenes, partial(baselines.in_scene, change)), part)

        return replace(self, name=f"{self.name}, {name}", read=read)

    def joined(self, blocks: int) -> Encoder:
        """The encoder with so many consecutive blocks side by side in each cell (see `Features.joined`)."""
        return replace(self, read=lambda scenes, part: self.read(scenes, part).joined(blocks)) if blocks > 1 else self

    def as_noise(self) -> Encoder:
        """The encoder's name and cells for noise that is matched to its features."""
        return replace(self, name=f"noise matched to {self.name}", weights="none", sees="nothing")


# A model's states.


def states(
    study: Study, lens: DiTLens, path: NoisePath | None = None, pooling: Pooling = "frames", store: bool = True
) -> Encoder:
    """The output of every block at the steps of a study, along its path or another.

    Of the readout "interaction" it is what attention across each scene's break adds to these outputs.

    Args:
        store: whether to keep activations in the study's store; False for a model with another conditioning.
    """
    return states_and_input(study, lens, path, pooling, fed=False, store=store)[0]


def states_and_input(
    study: Study,
    lens: DiTLens,
    path: NoisePath | None = None,
    pooling: Pooling = "frames",
    fed: bool = True,
    store: bool = True,
) -> tuple[Encoder, Encoder]:
    """States as of `states`, and the model's input latents, both of one run for each split."""
    interaction = study.readout == "interaction"
    noise_path, runs = path or path_of(study), list[tuple[Sequence[Scene], dict[str, Features]]]()
    takes = (pooled("resid_post", pooling, interaction), *((INPUT,) if fed else ()))

    def run(scenes: Sequence[Scene], part: Part) -> dict[str, Features]:
        for read_scenes, result in runs:  # by identity: clips whose frames were changed keep their ids
            if read_scenes is scenes:
                return result
        recipe = Recipe(takes, tuple(steps_of(study, lens, scenes, noise_path)), noise_path, study.batch_size)
        runs.append((scenes, capture(
            lens, scenes, recipe, kept(study, lens, part) if store and not isinstance(scenes, Changed) else None,
            f"{lens.name}, {noise_path.kind}, {part} scenes",
        )))  # fmt: skip
        return runs[-1][1]

    name, sees = (
        f"{lens.name}, {noise_path.kind}",
        f"places {_listed(study.read_at)} of {noise_path.sampler_steps} steps",
    )
    layers = tuple(f"block {i}" for i in range(lens.blocks))
    of_states = f"resid_post{'.interaction' * interaction}.{takes[0].reductions[0]}"
    of_input = "latent.none"
    return (
        Encoder(name, lambda scenes, part: run(scenes, part)[of_states], layers, lens.name, sees),
        Encoder(f"{name}, input x_σ", lambda scenes, part: run(scenes, part)[of_input], ("latent",), "none", sees),
    )


# Encoders of frames.


def of_frames(baseline: Baseline, batch_size: int = 8) -> Encoder:
    """A baseline as a row: one step, a block for each layer."""

    def read(scenes: Sequence[Scene], part: Part) -> Features:
        return from_arrays(scenes, read_frames(baseline, scenes, batch_size))

    return Encoder(baseline.name, read, baseline.layers, baseline.weights, baseline.sees)


def read_frames(baseline: Baseline, scenes: Sequence[Scene], batch_size: int = 8) -> np.ndarray:
    """Features (clip, layer, feature) of every clip, scene by scene."""
    rows = [baseline(stack_frames(clips_of(batch)))[by_scene(batch)] for batch in batches(scenes, batch_size)]
    return np.concatenate(rows)


def of_latents(name: str, encoder: LatentEncoder, crossing: str = "pixels", batch_size: int = 16) -> Encoder:
    """Latents of whole clips by an autoencoder, or any other function to (b, c, f, h, w)."""

    def read(scenes: Sequence[Scene], part: Part) -> Features:
        rows = [encode(encoder, batch, crossing)[by_scene(batch)] for batch in batches(scenes, batch_size)]
        flat = np.concatenate([row.flatten(1).float().cpu().numpy() for row in rows])
        return from_arrays(scenes, flat[:, None])

    return Encoder(name, read, ("clip",), "none", "all frames")


def from_arrays(scenes: Sequence[Scene], values: np.ndarray) -> Features:
    """Features (clip, layer, feature) of the clips of scenes, scene by scene, with their labels."""
    rows: dict[str, list[Any]] = {}
    for batch in batches(scenes, 16):
        for name, column in columns(batch).items():
            rows.setdefault(name, []).extend(column)
    cells = {(0, layer): values[:, layer] for layer in range(values.shape[1])}
    return Features(cells, pd.DataFrame(rows))


def latents(lens: DiTLens, pooling: baselines.Pooling) -> Baseline:
    """The autoencoder's latents of a model, on grids."""
    return baselines.on_grids(f"{lens.name}, latent", lens.encode, pooling)


def text_of(lens: DiTLens) -> torch.Tensor | None:
    """The text embedding (b, m, d) in a model's conditioning; None for a model without text."""
    embeddings = (x for x in lens.conditioning.tensors.values() if x.is_floating_point() and x.ndim == 3)
    return next(embeddings, None)


def prompt(lens: DiTLens, pooling: baselines.Pooling) -> list[Baseline]:
    """The text embedding of a model, the same for all clips; an empty list for a model without text."""
    embedding = text_of(lens)
    if embedding is None:
        return []
    return [baselines.constant("prompt embedding", embedding.float().mean((0, 1)).cpu().numpy(), pooling)]


def matched_noise(features: Features, seed: int) -> Features:
    """Gaussian noise with the mean and covariance of features, cell by cell, in place of them."""
    return noise_like({"": features}, seed)[""]


def noise_like(parts: Mapping[str, Features], seed: int) -> dict[str, Features]:
    """Noise in place of the features of every part, matched in each cell to the first part (the training clips)."""
    rng, first = np.random.default_rng(seed), next(iter(parts.values()))
    cells: dict[str, dict[Any, np.ndarray]] = {part: {} for part in parts}
    for key, x in first.cells.items():
        matched = MatchedNoise.of(x)
        for part, features in parts.items():
            cells[part][key] = matched.draw(len(features), rng).astype(np.float32)
    return {
        p: replace(features, cells=cells[p], name=f"noise matched to {features.name}") for p, features in parts.items()
    }


def recoloured(scenes: Scenes, count: int) -> tuple[Scenes, dict[str, Changed]]:
    """At most `count` scenes at even distances, one of each group, and their changed copies by label of `RECOLOURED`.

    Further scenes of a group are mostly of the same possible clip.
    """
    chosen = scenes.at([scenes.groups.index(group) for group in dict.fromkeys(scenes.groups)]).first(count)
    return chosen, {label: Changed(chosen, change) for label, change in RECOLOURED.items()}


def read_all(encoder: Encoder, splits: Mapping[str, Sequence[Scene]]) -> dict[str, Features]:
    """Features of the clips of each split; those of "train" are kept apart where activations are kept."""
    return {name: encoder(scenes, "train" if name == "train" else "test") for name, scenes in splits.items()}


def load_all(specs: Sequence[str], load: Callable[[str], Any], missing: dict[str, str]) -> Iterator[Any]:
    """The baselines that can run; for the others, `missing` gets the reason."""
    for spec in specs:
        try:
            yield load(spec)
        except NotRunError as error:
            missing[spec] = str(error)


def baseline_loader(study: Study, pooling: baselines.Pooling) -> Callable[[str], Baseline]:
    """A function that loads a baseline by name, on the study's device."""
    return partial(baselines.load, pooling=pooling, seed=study.seed, device=study.device)


def _listed(places: Sequence[int | float] | None) -> str:
    return ", ".join(f"{place:.2g}" for place in places or ())
