"""Rows of a table: what reads clips, be it states on a route or frames by a baseline, all in one layout.

The layout is that of `capture_pooled`: (quadruplet, role, step, block, feature). What takes frames has one step, and a
block for each of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from analyses.probe_blocks import Reading, Splits, Way, as_block, capture
from dit_lens import baselines
from dit_lens.baselines import Baseline, NotRunError
from dit_lens.capture import batches
from dit_lens.clips import ROLES, Quadruplet, stack_frames
from dit_lens.lens import DiTLens


@dataclass(frozen=True, eq=False)
class Source:
    """A row: quadruplets -> features (quadruplet, role, step, block, feature), and what they are made of."""

    name: str
    features: Callable[[Sequence[Quadruplet]], xr.DataArray]
    layers: tuple[str, ...]
    weights: str
    sees: str

    def on(self, change: baselines.Change, name: str) -> Source:
        """The same on clips whose frames are changed first; `name` is added to the row's."""
        changed = partial(baselines.in_quadruplet, change)

        def read(split: Sequence[Quadruplet]) -> xr.DataArray:
            return self.features([changed(quadruplet) for quadruplet in split])

        return replace(self, name=f"{self.name}, {name}", features=read)


def states(lens: DiTLens, route: Way, config: Reading) -> Source:
    """The output of every block of a model at some steps of a route."""
    return states_and_input(lens, route, config)[0]


def states_and_input(lens: DiTLens, route: Way, config: Reading) -> tuple[Source, Source]:
    """States as above, and the latents that the model was fed for them, both of one run for each split."""
    ran: list[tuple[Sequence[Quadruplet], xr.Dataset]] = []

    def run(split: Sequence[Quadruplet]) -> xr.Dataset:
        # By identity: clips whose frames were changed keep their ids.
        known = [made for other, made in ran if other is split]
        if not known:
            ran.append((split, capture(lens, config, route, split)))
        return known[0] if known else ran[-1][1]

    name, sees = f"{lens.name}, {route}", f"steps {', '.join(map(str, config.steps))} of {config.levels}"
    layers = tuple(f"block {i}" for i in range(lens.blocks))
    return (
        Source(name, lambda split: run(split).activation, layers, lens.name, sees),
        Source(f"{name}, input x_σ", lambda split: as_block(run(split).latent), ("latent",), "none", sees),
    )


def of_frames(baseline: Baseline, batch_size: int = 8) -> Source:
    """A baseline as a row: one step, a block for each layer."""
    read = partial(read_frames, baseline, batch_size=batch_size)
    return Source(baseline.name, read, baseline.layers, baseline.weights, baseline.sees)


def read_frames(baseline: Baseline, split: Sequence[Quadruplet], batch_size: int = 8) -> xr.DataArray:
    """Features of every clip, at step 0: the clean clip."""
    rows = [baseline(stack_frames([clip for q in batch for clip in q.clips])) for batch in batches(split, batch_size)]
    return in_layout(np.concatenate(rows), split)


def in_layout(features: np.ndarray, split: Sequence[Quadruplet]) -> xr.DataArray:
    """Features (clip, layer, feature) of the clips of a split, quadruplet by quadruplet, with what is known of them."""
    coordinates = {
        "quadruplet": [q.id for q in split],
        "property": ("quadruplet", [q.property for q in split]),
        "possible": (("quadruplet", "role"), [[clip.possible for clip in q.clips] for q in split]),
        "step": [0],
        "block": range(features.shape[1]),
    }
    values = features.reshape(len(split), len(ROLES), 1, *features.shape[1:])
    return xr.DataArray(values, coordinates, ("quadruplet", "role", "step", "block", "feature"))


def capture_all(source: Source, splits: Splits) -> dict[str, xr.DataArray]:
    """Features of a source by split."""
    return {part: source.features(split) for part, split in splits.items()}


def noise_row(source: Source) -> Source:
    """The row of the noise that is matched to a source."""
    return replace(source, name=f"noise matched to {source.name}", weights="none", sees="nothing")


def latents(lens: DiTLens, pooling: baselines.Pooling) -> Baseline:
    """The codec's latents of a model, on grids."""
    return baselines.on_grids(f"{lens.name}, latent", lens.encode, pooling)


def prompt(lens: DiTLens, pooling: baselines.Pooling) -> Baseline:
    """The embedding of the prompt that a model is told, which is the same for all clips."""
    told = next(iter(lens.conditioning.tensors.values())).float().mean((0, 1)).cpu().numpy()
    return baselines.constant("prompt embedding", told, pooling)


def load_all(specs: Sequence[str], load: Callable[[str], Any], missing: dict[str, str]) -> list[Any]:
    """The baselines that can run; of the others, the reason goes to `missing`."""
    loaded = []
    for spec in specs:
        try:
            loaded.append(load(spec))
        except NotRunError as error:
            missing[spec] = str(error)
    return loaded
