"""Batch by batch into the store: what fails is named, and another item is never put in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dit_lens.capture import travel
from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.filling.collecting import Collector, settle
from dit_lens.filling.recipe import Recipe
from dit_lens.lens import DiTLens
from dit_lens.store import Failure, Filling, Place

ON_ERROR = ("stop", "skip")
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError)  # what data sets raise for a clip
FAILED = (FloatingPointError, ValueError)  # what a clip can make of its batch

Items = Mapping[int, Quadruplet]


@torch.no_grad()
def fill(
    lens: DiTLens,
    quadruplets: Sequence[Quadruplet],
    recipe: Recipe,
    filling: Filling,
    on_error: str = "stop",
    progress: str | None = None,
) -> None:
    """Makes every batch that is not whole on disk; a batch that another writer has is left to it.

    Args:
        filling: by the plan that `survey` gave for the same lens, data and recipe.
        on_error: at an item that cannot be read or gives values that are not finite, "stop", or "skip" it; either way
            it is named in the store's errors. A full disk, or values too large for the dtype, always stop.
        progress: name of a progress bar.

    Raises:
        ValueError: the run stopped at an item; names it.
        OSError: the disk is full. OverflowError: a value is too large for the dtype that was asked for.
    """
    run = _Run(lens, quadruplets, recipe, filling, check_choice(on_error, ON_ERROR, "on_error") == "skip")
    filling.begin()
    todo = filling.todo()
    clips = [len(ROLES) * len(run.numbers(batch)) for batch in range(filling.plan.batches)]
    done = sum(clips) - sum(clips[batch] for batch in todo)
    with tqdm(total=sum(clips), initial=done, desc=progress, unit="clip", disable=progress is None) as bar:
        passed: set[int] = set()
        for batch in todo:
            with ExitStack() as claim:
                try:
                    claim.enter_context(filling.claim(batch))
                except BlockingIOError:
                    if batch not in passed:  # once more at the end: who had it may have been killed by then
                        passed.add(batch)
                        todo.append(batch)
                    continue
                run.make(batch)
                bar.update(clips[batch])


def load(quadruplets: Sequence[Quadruplet], numbers: Sequence[int]) -> tuple[dict[int, Quadruplet], list[Failure]]:
    """The items of these numbers, and those that cannot be read."""
    items: dict[int, Quadruplet] = {}
    failures: list[Failure] = []
    for number in numbers:
        try:
            items[number] = quadruplets[number]
        except UNREADABLE as error:
            failures.append(Failure(number, "", _told(error)))
    return items, failures


@dataclass(frozen=True)
class _Run:
    """See `fill`."""

    lens: DiTLens
    quadruplets: Sequence[Quadruplet]
    recipe: Recipe
    filling: Filling
    skips: bool

    def numbers(self, batch: int) -> range:
        """Items of a batch."""
        size = self.recipe.batch_size
        return range(len(self.quadruplets))[batch * size : (batch + 1) * size]

    def make(self, batch: int) -> None:
        """A shard of what can be captured of a batch; items that fail at it are taken out and the rest made anew."""
        items, failures = load(self.quadruplets, self.numbers(batch))
        self._stop_at(failures, batch)
        while items:
            try:
                self._write(batch, items, failures)
                return
            except FAILED as error:
                found = self._blame(items, error)
                self._stop_at(found, batch)
                failures += found
                items = {number: item for number, item in items.items() if number not in {f.item for f in found}}
        self.filling.note(batch, failures, done=True)

    def _write(self, batch: int, items: Items, failures: Sequence[Failure]) -> None:
        with self.filling.shard(batch, columns(list(items.values())), failures) as shard:
            for index, values in self._values(list(items.values())):
                shard.put(index, values)

    def _values(self, items: Sequence[Quadruplet]) -> Iterator[tuple[int, dict[Place, Tensor]]]:
        """(index of the step, values) of one evaluation after the other."""
        collector = Collector(self.lens, self.recipe.takes)
        path = travel(self.lens, items, self.recipe.route, until=max(self.recipe.steps))
        for index, step in enumerate(self.recipe.steps):
            taken = collector.evaluate(self.lens, path, step)
            yield index, settle(taken, self.recipe.dtype, path.clip_ids)

    def _blame(self, items: Items, error: Exception) -> list[Failure]:
        """The items that fail also by themselves.

        Raises:
            Exception: the error itself, where none does.
        """
        if len(items) == 1:
            ((number, item),) = items.items()
            return [Failure(number, item.id, _told(error))]
        found: list[Failure] = []
        for number, item in items.items():
            try:
                for _, values in self._values([item]):
                    self.filling.plan.check(values, len(ROLES))
            except FAILED as own:
                found.append(Failure(number, item.id, _told(own)))
        if not found:
            raise error
        return found

    def _stop_at(self, failures: Sequence[Failure], batch: int) -> None:
        if not failures or self.skips:
            return
        self.filling.note(batch, failures, done=False)
        first = failures[0]
        raise ValueError(
            f"got item {first.item}{first.id and f' ({first.id})'}, which cannot be captured ({first.error})"
            " · mend it and go on, or skip what fails (on_error='skip')"
        )


def columns(items: Sequence[Quadruplet]) -> dict[str, list[Any]]:
    """What a store says of each clip, quadruplet by quadruplet."""
    clips = [clip for item in items for clip in item.clips]
    return {name: [getattr(clip, name) for clip in clips] for name in ("id", "group", "role", "property", "possible")}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
