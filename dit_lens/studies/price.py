"""The cost of a study, from one timed evaluation: printed before the work, to be confirmed where it is large."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dit_lens.cache.estimate import clock, readable_time
from dit_lens.capture import evaluations
from dit_lens.capture.interaction import cut_runs
from dit_lens.flow import Solver
from dit_lens.lens import DiTLens
from dit_lens.running import some
from dit_lens.studies.lenses import load, names
from dit_lens.studies.options import Options, Size
from dit_lens.studies.paths import path_of, schedule
from dit_lens.studies.scenes import scenes

MINUTES, GIGABYTES = 60.0, 20.0  # above these, --yes is required


@dataclass(frozen=True)
class Price:
    """The cost of a study.

    Attributes:
        evaluations: of the transformer on one clip, of all models together.
        seconds: of one of them.
        bytes: of captured features, of one model.
    """

    evaluations: float
    seconds: float
    bytes: float

    @property
    def minutes(self) -> float:
        """The time of all evaluations, one after the other."""
        return self.evaluations * self.seconds / 60

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.0f} MB" if self.bytes < 1e9 else f"{self.bytes / 1e9:.1f} GB"
        return (
            f"about {self.evaluations:,.0f} evaluations of one clip, {self.seconds:.2g} s each: at most"
            f" {readable_time(60 * self.minutes)}, less in"
            f" batches; {size} of activations"
        )


@torch.no_grad()
def price(study: Options, lens: DiTLens, models: int = 0) -> Price:
    """The price of a study, by one timed evaluation of one clip of its first test scene.

    Args:
        models: the number of models; those of the study unless given.
    """
    test = scenes(study, "test")
    train = scenes(study, "train") if study.fits else test.at([])
    scene = test[0]
    levels = schedule(study, lens, [scene])
    (evaluation,) = evaluations(lens, [scene], [len(levels) // 2], path_of(study, kind="noising")).values()
    single_clip = some(evaluation, slice(0, 1))
    lens.model.velocity(single_clip)  # the first run also allocates
    start = clock(lens.model.members[0].device)
    lens.model.velocity(single_clip)
    seconds = clock(lens.model.members[0].device) - start
    places = len(study.read_at or ())
    size = Size(lens.blocks, lens.heads, len(train), len(test), len(scene.clips), places)
    on_the_way = Solver(study.solver).evaluations(len(levels)) if study.path == "inversion" else 0
    each_place = 1 if study.readout == "blocks" else 1 + cut_runs(lens)
    reading = (size.train + size.test) * size.clips * (on_the_way + places * each_place)
    total = (models or len(names(study))) * (reading + size.test * study.per_test_scene(size))
    width = lens.heads * getattr(lens.transformer.config, "attention_head_dim", 64)
    frames = lens.model.grid(single_clip).frames
    return Price(total, seconds, 4.0 * size.train * size.clips * places * size.blocks * width * frames)


def each(study: Options, models: Sequence[str] = ()) -> Iterator[tuple[str, DiTLens]]:
    """Each model of a study in turn, by name; the cost is printed once the first is loaded.

    Args:
        models: names to load; the model in question and its controls unless given.
    """
    loaded = models or names(study)
    for i, name in enumerate(loaded):
        lens = load(study, name)
        if i == 0:
            announce(study, lens, len(loaded))
        yield lens.name, lens


def announce(study: Options, lens: DiTLens, models: int = 0) -> None:
    """Prints the cost of a study, and asks for confirmation where it is large.

    Raises:
        ValueError: see `check_agreed`.
    """
    cost = price(study, lens, models)
    print(f"cost    {cost}", file=sys.stderr)
    if note := study.facts.supports(study.path or "inversion").reason:
        print(f"note    {study.path}: {note}", file=sys.stderr)
    check_agreed(study, cost.minutes, cost.bytes)


def check_agreed(study: Options, minutes: float, size: float) -> None:
    """Checks that a large cost is confirmed, by --yes or at the terminal.

    Args:
        size: in bytes.

    Raises:
        ValueError: a large cost without confirmation.
    """
    if study.yes or (minutes <= MINUTES and size <= GIGABYTES * 1e9):
        return
    question = f"more than {MINUTES:g} minutes or {GIGABYTES:g} GB; continue? [y/N] "
    if sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes"):
        return
    raise ValueError(
        f"got a cost above {MINUTES:g} minutes or {GIGABYTES:g} GB · expected less, or --yes · use fewer scenes"
        " (--train, --test), read at fewer steps (--read-at) or take fewer sampler steps (--sampler-steps), or confirm"
        " with --yes"
    )
