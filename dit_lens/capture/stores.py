"""Stores that questions share: an earlier capture is reused, a missing one is made in a new store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dit_lens import results
from dit_lens.capture.filling import fill
from dit_lens.capture.recipe import Recipe
from dit_lens.capture.surveying import survey
from dit_lens.clips import Scene
from dit_lens.engines import Engine
from dit_lens.lens import DiTLens
from dit_lens.results import canonical
from dit_lens.store import Plan, Store, StoreWriter, open_store
from dit_lens.store.plan import PLAN, open_plan

# Batching and compression change no value beyond rounding.
FREE = ("takes", "batch_size", "threads")


def filled_store(
    lens: DiTLens,
    scenes: Sequence[Scene],
    recipe: Recipe,
    folder: Path,
    asked: Mapping[str, Any],
    progress: str | None = None,
    *,
    engine: Engine | None = None,
) -> Store:
    """The store in `folder` with a recipe's captures of the scenes; created, or continued, where needed.

    Raises:
        ValueError: see `survey` and `fill`.
    """
    engine = engine or Engine()
    with engine.shared_threads():
        plan, _ = survey(lens, scenes, recipe, asked)
    for candidate in _candidates(folder, plan):
        store = open_store(candidate)
        if holds(store, scenes):
            return store
    home = folder / f"{re.sub(r'[^A-Za-z0-9.@_-]+', '-', lens.name).strip('-')}-{plan.digest[:12]}"
    writer = StoreWriter(home, plan, results.provenance(lens=lens.facts(), **dict(asked)))
    fill(lens, scenes, recipe, writer, progress=progress, engine=engine)
    return open_store(home)


def holds(store: Store, scenes: Sequence[Scene]) -> bool:
    """Whether a store has these scenes, each with the requested clips in their roles.

    A pair taken from a scene has the scene's id, but not its roles or its order of clips.
    """
    stored = store.clips.groupby("scene", sort=False).agg({"role": tuple, "possible": tuple})
    roles, outline = (getattr(scenes, name, None) for name in ("roles", "outline"))
    for i, name in enumerate(scene_ids(scenes)):
        if name not in stored.index:
            return False
        labels = outline(i).labels if outline else tuple(clip.possible for clip in scenes[i].clips)
        expected = scenes[i].roles if outline is None else roles
        row = stored.loc[name]
        if row["possible"] != labels or (expected is not None and row["role"] != tuple(expected)):
            return False
    return True


def scene_ids(scenes: Sequence[Scene]) -> list[str]:
    """The ids of scenes, without reading frames where the data set lists them."""
    outline: Any = getattr(scenes, "outline", None)
    return [outline(i).id if outline else scenes[i].id for i in range(len(scenes))]


def _candidates(folder: Path, plan: Plan) -> Iterator[Path]:
    """Finished stores of the same model, data and path that hold everything planned, or more."""
    for path in sorted(folder.glob(f"*/{PLAN}")):
        try:
            stored, _ = open_plan(path.parent)
            store = open_store(path.parent)
        except (ValueError, FileNotFoundError):
            continue  # unfinished, damaged or foreign: opening or continuing it raises its error
        if not store.missing and _serves(stored, plan):
            yield path.parent


def _serves(stored: Plan, planned: Plan) -> bool:
    """Whether a stored plan has the same values as a planned one, and covers it."""
    stored_facts, planned_facts = (
        {key: value for key, value in plan.asked.items() if key not in FREE} for plan in (stored, planned)
    )
    variables = {variable.name: variable for variable in stored.variables}
    return (
        canonical(stored_facts) == canonical(planned_facts)
        and set(planned.steps) <= set(stored.steps)
        and all(
            name in variables
            and replace(variables[name], points=(), labels={}) == replace(needed, points=(), labels={})
            for name, needed in ((variable.name, variable) for variable in planned.variables)
        )
    )
