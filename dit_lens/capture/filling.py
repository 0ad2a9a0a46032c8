"""A store filled batch by batch, in this process or by the workers of an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import torch
from tqdm import tqdm

from dit_lens.capture.distributing import distributed
from dit_lens.capture.recipe import Recipe
from dit_lens.capture.storing import Run, clips_in
from dit_lens.choices import check_choice
from dit_lens.clips import Scene
from dit_lens.engines import Engine
from dit_lens.lens import DiTLens
from dit_lens.store import StoreWriter

ON_ERROR = ("stop", "skip")


@dataclass(frozen=True)
class Share:
    """The part of the batches that one of several jobs makes: number 1, 2, ... of `jobs`.

    Worked example: of 7 batches, Share(2, 3) has 1 and 4, and Share(1, 3) has 0, 3 and 6.

    Raises:
        ValueError: no such number.
    """

    number: int = 1
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.jobs:
            raise ValueError(
                f"got shard {self.number}/{self.jobs} · expected 1/N to N/N · number the jobs of an array from 1, as"
                " in sbatch --array=1-8"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """A share from "2/8".

        Raises:
            ValueError: another form, or no such number.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if numbers is None:
            raise ValueError(f"got shard {text!r} · expected I/N, such as 2/8 for the second of eight jobs")
        return cls(int(numbers[1]), int(numbers[2]))

    def of(self, batches: Sequence[int]) -> list[int]:
        """Those of the batches, by their numbers, that belong to this job."""
        return [batch for batch in batches if batch % self.jobs == self.number - 1]


@torch.no_grad()
def fill(
    lens: DiTLens,
    scenes: Sequence[Scene],
    recipe: Recipe,
    writer: StoreWriter,
    on_error: str = "stop",
    progress: str | None = None,
    *,
    engine: Engine | None = None,
    share: Share | None = None,
) -> None:
    """Captures every batch that is not complete on disk; a batch that another writer has claimed is left to it.

    Args:
        writer: by the plan that `survey` gave for the same lens, data and recipe.
        on_error: at an item that cannot be read or gives values that are not finite, "stop", or "skip" it; either way
            it is named in the store's errors. A full disk, or values too large for the dtype, always stop.
        progress: name of a progress bar.
        engine: where batches are made; in this process unless given. See `distributing` for what happens to workers
            that die. Plan and engine must agree on the number of threads (see `Engine.shared_threads`).
        share: the batches to make; all unless given.

    Raises:
        ValueError: the run stopped at an item; names it. Or the workers of an engine cannot load the same lens.
        OSError: the disk is full. OverflowError: a value is too large for the requested dtype.
        ChildProcessError: workers of an engine die, at no item in particular.
    """
    run = Run(lens, scenes, recipe, writer, check_choice(on_error, ON_ERROR, "on_error") == "skip")
    with ExitStack() as pool:
        if engine is None or not engine.elsewhere:
            make = lambda batches: _here(run, batches)  # noqa: E731
        else:
            make = pool.enter_context(distributed(run, engine))
        writer.begin()
        batches = (share or Share()).of(range(writer.plan.batches))
        missing = {*writer.todo()}
        clips = {batch: clips_in(scenes, run.numbers(batch)) for batch in batches}
        done = sum(count for batch, count in clips.items() if batch not in missing)
        with tqdm(total=sum(clips.values()), initial=done, desc=progress, unit="clip", disable=progress is None) as bar:
            for batch in make([batch for batch in batches if batch in missing]):
                bar.update(clips[batch])


def _here(run: Run, todo: list[int]) -> Iterator[int]:
    """Makes batches in this process, and yields the number of each."""
    passed: set[int] = set()
    for batch in todo:
        with ExitStack() as claim:
            try:
                claim.enter_context(run.writer.claim(batch))
            except BlockingIOError:
                if batch not in passed:  # retry at the end: its writer may have been killed by then
                    passed.add(batch)
                    todo.append(batch)
                continue
            run.make(batch)
        yield batch
