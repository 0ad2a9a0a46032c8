"""The one loop over clips: scenes x path x reductions -> features by cell, in memory or from a store on disk."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dit_lens.capture.collecting import Collector
from dit_lens.capture.feeding import NoisePath, batches, encode, schedule_of
from dit_lens.capture.recipe import INTERACTION, Recipe, Take
from dit_lens.capture.stores import filled_store, scene_ids
from dit_lens.capture.storing import collected, columns
from dit_lens.choices import check_choice
from dit_lens.clips import Scene
from dit_lens.engines import Engine
from dit_lens.lens import DiTLens
from dit_lens.probing.features import Features
from dit_lens.reductions import STEPS
from dit_lens.store import Store

POOLINGS = {"frames": "space_mean", "tokens": "mean", "moments": "space_moments"}
Pooling = Literal["frames", "tokens", "moments"]


@dataclass(frozen=True)
class StoreFolder:
    """The folder of stores in which captured activations are kept between questions.

    Attributes:
        folder: of stores, one for each thing captured.
        asked: the inputs that determine the values, beside model, path and steps: the data, the weights, the code.
        engine: where missing batches are captured.
    """

    folder: Path
    asked: Mapping[str, Any]
    engine: Engine = field(default_factory=Engine)


def capture(
    lens: DiTLens, scenes: Sequence[Scene], recipe: Recipe, kept: StoreFolder | None = None, progress: str | None = None
) -> dict[str, Features]:
    """Captured features of every clip, by variable, such as "resid_post.space_mean": cells (step, block).

    Args:
        recipe: takes, steps and path.
        kept: a folder of stores. What it already holds is read, and what is missing is captured into it, so that a
            killed run can continue; nothing is kept unless given.
        progress: name of the progress bar.

    Raises:
        ValueError: no scenes; a reduction over axes that a point does not have; values that are not finite.
        KeyError: unknown hook point. IndexError: unknown step.
    """
    if not len(scenes):
        raise ValueError("got no scenes · expected at least one · request more scenes, or other properties")
    if kept is not None:
        store = filled_store(lens, scenes, recipe, kept.folder, kept.asked, progress, engine=kept.engine)
        return {name: of_store(store, name, scenes, recipe, lens.name) for name in variables(lens, recipe)}
    values: dict[str, dict[tuple[int, int | None], list[Tensor]]] = {}
    rows: dict[str, list[Any]] = {}
    sigmas: dict[int, float] = {}
    for batch in batches(scenes, recipe.batch_size, progress):
        for index, kept_values in collected(lens, batch, recipe):
            for (name, place), tensor in kept_values.items():
                cells = values.setdefault(name, {})
                cells.setdefault((recipe.steps[index], place), []).append(tensor)
        for name, column in columns(batch).items():
            rows.setdefault(name, []).extend(column)
        sigmas = sigmas or _sigmas(lens, batch, recipe)
    blocks = _blocks(lens, recipe)
    return {
        name: Features(
            {
                (step, 0 if place is None else blocks[name][place]): _flat(parts)
                for (step, place), parts in cells.items()
            },
            pd.DataFrame(rows),
            parts=_parts(name, next(iter(cells.values()))[0]),
            point=_template(name, name in blocks),
            sigmas=sigmas,
            name=lens.name,
        )
        for name, cells in values.items()
    }


def features(
    lens: DiTLens,
    scenes: Sequence[Scene],
    steps: Sequence[int],
    path: NoisePath,
    point: str = "resid_post",
    pooling: Pooling = "frames",
    interaction: bool = False,
    batch_size: int = 8,
    kept: StoreFolder | None = None,
    progress: str | None = None,
) -> Features:
    """Token means of a point of every block: cells (step, block), a row for each clip, scene by scene.

    Args:
        steps: of the path, counted from data.
        point: short name of a point of the blocks, such as "resid_post", "attn_out" or "attn.z".
        pooling: mean over the tokens of each latent frame, side by side ("frames"), or over all ("tokens"); or mean
            and standard deviation over the tokens of each latent frame ("moments").
        interaction: what attention across each scene's break adds to the activation (see `capture.interaction`).
        batch_size: scenes to a batch.
        kept, progress: see `capture`.
    """
    recipe = Recipe((pooled(point, pooling, interaction),), tuple(steps), path, batch_size)
    (result,) = capture(lens, scenes, recipe, kept, progress).values()
    return result


def pooled(point: str = "resid_post", pooling: Pooling = "frames", interaction: bool = False) -> Take:
    """A take of a point of every block, pooled over tokens (see `features`)."""
    reduction = POOLINGS[check_choice(pooling, POOLINGS, "pooling")]
    *room, short = point.split(".")
    return Take.parse(f"{INTERACTION * interaction}blocks.*.{'.'.join([*room, f'hook_{short}'])}={reduction}")


def variables(lens: DiTLens, recipe: Recipe) -> list[str]:
    """The variables that a recipe keeps, in forward order."""
    collector = Collector(lens, recipe.takes)
    return list(dict.fromkeys(name for point in collector.points for name in collector.wanted[point]))


def of_store(store: Store, name: str, scenes: Sequence[Scene], recipe: Recipe, made_by: str) -> Features:
    """A variable of a store as features of these scenes, at the steps of a recipe."""
    values = store[name].sel(step=list(recipe.steps))
    blocks = values.block.values.tolist() if "block" in values.dims else [0]
    cells: dict[Hashable, np.ndarray] = {}
    for step in recipe.steps:
        at_step = values.sel(step=step)
        for block in blocks:
            cell = (at_step.sel(block=block) if "block" in values.dims else at_step).values
            cells[step, block] = cell.reshape(len(cell), -1).astype(np.promote_types(cell.dtype, np.float32))
    frames = values.sizes.get("frame", 1) if name.endswith(".space_mean") else 1
    sigmas = dict(zip(store.plan.steps, store.plan.sigmas, strict=True))
    all_features = Features(
        cells, store.clips, parts=frames, point=_template(name, "block" in values.dims),
        sigmas={step: sigmas[step] for step in recipe.steps}, name=made_by,
    )  # fmt: skip
    rows = store.clips.groupby("scene", sort=False).indices
    return all_features.at(np.concatenate([rows[scene] for scene in scene_ids(scenes)]))


def _sigmas(lens: DiTLens, batch: Sequence[Scene], recipe: Recipe) -> dict[int, float]:
    """The noise level of each step, for clips of this size."""
    schedule = schedule_of(lens, recipe.path, encode(lens.encode, batch[:1]))
    return {step: schedule.sigmas[step] for step in recipe.steps}


def _blocks(lens: DiTLens, recipe: Recipe) -> dict[str, list[int]]:
    return Collector(lens, recipe.takes).blocks


def _flat(parts: Sequence[Tensor]) -> np.ndarray:
    values = torch.cat(list(parts))
    return values.to(torch.promote_types(values.dtype, torch.float32)).flatten(1).numpy()


def _parts(name: str, first: Tensor) -> int:
    """The number of latent frames whose means are concatenated."""
    return first.shape[1] if name.endswith(".space_mean") else 1


def _template(name: str, blocked: bool) -> str:
    """The hook point whose token means a variable holds, such as "blocks.{block}.attn.hook_z" for "attn.z.mean".

    Empty for other reductions and for interactions, which are no linear function of one activation.
    """
    point, _, reduction = name.rpartition(".")
    *room, short = point.split(".")
    if reduction not in ("space_mean", "mean") or short in (*STEPS, "interaction"):
        return ""
    return ".".join([*(["blocks.{block}"] if blocked else []), *room, f"hook_{short}"])
