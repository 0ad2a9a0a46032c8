"""The batches of a store: failed items are named, and never replaced by others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dit_lens.capture.collecting import Collector, settle
from dit_lens.capture.feeding import by_scene, clips_of, evaluations
from dit_lens.capture.interaction import check_separated, parts_of
from dit_lens.capture.recipe import Recipe
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation
from dit_lens.store import Failure, Place, StoreWriter

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError)  # what data sets raise for a clip
FAILED = (FloatingPointError, ValueError)  # what one clip can raise for its whole batch

Items = Mapping[int, Scene]


def clips_in(scenes: Sequence[Scene], numbers: Iterable[int] | None = None) -> int:
    """The number of clips of the scenes, or of those with some indices; without reading frames.

    Where the data set does not know beforehand, all scenes are assumed to have as many as the first readable one.
    """
    chosen = list(range(len(scenes)) if numbers is None else numbers)
    outline: Any = getattr(scenes, "outline", None)
    if outline is not None:
        return sum(outline(number).clips for number in chosen)
    if isinstance(scenes, list | tuple):
        return sum(len(scenes[number].clips) for number in chosen)
    readable = (item for number in range(len(scenes)) for item in load(scenes, [number])[0].values())
    first = next(readable, None)
    return 0 if first is None else len(first.clips) * len(chosen)


def load(scenes: Sequence[Scene], numbers: Sequence[int]) -> tuple[dict[int, Scene], list[Failure]]:
    """The items with these indices, and the failures of those that cannot be read."""
    items: dict[int, Scene] = {}
    failures: list[Failure] = []
    for number in numbers:
        try:
            items[number] = scenes[number]
        except UNREADABLE as error:
            failures.append(Failure(number, "", _message(error)))
    return items, failures


@dataclass(frozen=True)
class Run:
    """The parts of a run of `fill`; `skips` says whether items that cannot be captured are left out."""

    lens: DiTLens
    scenes: Sequence[Scene]
    recipe: Recipe
    writer: StoreWriter
    skips: bool

    def numbers(self, batch: int) -> range:
        """The indices of a batch's items."""
        size = self.recipe.batch_size
        return range(len(self.scenes))[batch * size : (batch + 1) * size]

    def make(self, batch: int, dropped: Sequence[Failure] = ()) -> None:
        """Writes the shard of a batch; failing items are removed and the remaining ones captured again.

        Args:
            dropped: items that are left out from the start, such as those that kill their process.
        """
        without = {failure.item for failure in dropped}
        items, failures = load(self.scenes, [number for number in self.numbers(batch) if number not in without])
        self.stop_at(failures, batch)
        failures = [*dropped, *failures]
        while items:
            try:
                self._write(batch, items, failures)
                return
            except FAILED as error:
                culprits = self._blame(items, error)
                self.stop_at(culprits, batch)
                failures += culprits
                items = {number: item for number, item in items.items() if number not in {f.item for f in culprits}}
        self.writer.note(batch, failures, done=True)

    def _write(self, batch: int, items: Items, failures: Sequence[Failure]) -> None:
        with self.writer.shard(batch, columns(list(items.values())), failures) as shard:
            for index, values in self._values(list(items.values())):
                shard.put(index, values)

    def _values(self, items: Sequence[Scene]) -> Iterator[tuple[int, dict[Place, Tensor]]]:
        """(index of the step, values) of one evaluation after the other."""
        return collected(self.lens, items, self.recipe)

    def _blame(self, items: Items, error: Exception) -> list[Failure]:
        """The failures of items that also fail alone.

        Raises:
            Exception: the error itself, where no item fails alone.
        """
        if len(items) == 1:
            ((number, item),) = items.items()
            return [Failure(number, item.id, _message(error))]
        culprits: list[Failure] = []
        for number, item in items.items():
            try:
                for _, values in self._values([item]):
                    self.writer.plan.check(values, len(item.clips))
            except FAILED as cause:
                culprits.append(Failure(number, item.id, _message(cause)))
        if not culprits:
            raise error
        return culprits

    def alone(self, number: int) -> None:
        """Captures one item and writes nothing; what it raises is for `make` to report."""
        with suppress(*UNREADABLE, *FAILED):
            for _ in self._values([self.scenes[number]]):
                pass

    def stop_at(self, failures: Sequence[Failure], batch: int) -> None:
        """Ends the run at failures, unless it skips them.

        Raises:
            ValueError: names the first one.
        """
        if not failures or self.skips:
            return
        self.writer.note(batch, failures, done=False)
        first = failures[0]
        raise ValueError(
            f"got item {first.item}{first.id and f' ({first.id})'}, which cannot be captured ({first.error}) · expected"
            " every clip to be readable · repair it and run again, or skip such clips (on_error='skip')"
        )


@torch.no_grad()
def collected(lens: DiTLens, scenes: Sequence[Scene], recipe: Recipe) -> Iterator[tuple[int, dict[Place, Tensor]]]:
    """(index of the step, values) of one evaluation after the other; clips scene by scene, on the CPU."""
    collector, ids = Collector(lens, recipe.takes), [clip.id for clip in clips_of(scenes)]
    parts: Bool[Tensor, "b f"] | None = None
    for index, evaluation in enumerate(evaluations(lens, scenes, recipe.steps, recipe.path).values()):
        parts = clip_parts(lens, scenes, evaluation, recipe) if index == 0 else parts  # the same at every step
        yield index, settle(collector.evaluate(lens, evaluation, parts), recipe.dtype, ids, by_scene(scenes))


def clip_parts(
    lens: DiTLens, scenes: Sequence[Scene], evaluation: Evaluation, recipe: Recipe
) -> Bool[Tensor, "b f"] | None:
    """The two parts of each clip, which interactions are between; None where the recipe takes none.

    Raises:
        ValueError: see `interaction.parts_of` and `interaction.check_separated`.
    """
    if not any(take.interaction for take in recipe.takes):
        return None
    parts = parts_of(scenes, lens.model.grid(evaluation).frames)
    check_separated(lens, evaluation, parts)
    return parts


def columns(scenes: Sequence[Scene]) -> dict[str, list[Any]]:
    """Metadata of each clip as columns, scene by scene."""
    rows = [(scene, clip) for scene in scenes for clip in scene.clips]
    by_column = {name: [getattr(clip, name) for _, clip in rows] for name in ("id", "role", "property", "possible")}
    of_scene = {"group": "group", "scene": "id", "crossed": "crossed"}
    return by_column | {name: [getattr(scene, key) for scene, _ in rows] for name, key in of_scene.items()}


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
