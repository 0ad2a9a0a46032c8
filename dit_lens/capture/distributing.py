"""The batches of a store made by workers, each with its own lens; shards go from a worker to the store's folder.

A worker that dies is replaced and its batch made again. A batch that kills three workers is taken apart: each of its
items is captured alone, and those that kill two more workers are the failures, as if they had raised an error. Nothing
is lost or made twice: a batch is claimed by the worker that makes it, and indexed only when its shard is complete.

Worked example, batch 1 with the items 4 to 7, of which 6 crashes the decoder:

    Make(1) x 3 -> died        so Try(1, 4), Try(1, 5), Try(1, 6), Try(1, 7)
    Try(1, 6) x 2 -> died      the others end well: item 6 is the failure
    Make(1, dropped 6) -> made, where items are skipped; otherwise the run stops and names item 6
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dit_lens.capture.recipe import Recipe
from dit_lens.capture.storing import Run
from dit_lens.capture.surveying import circumstances
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.engines import Engine, Outcome, Pool, pool
from dit_lens.lens import DiTLens
from dit_lens.results import canonical
from dit_lens.store import Failure, Plan, StoreWriter
from dit_lens.store.plan import open_plan

MADE, HELD = "made", "held"
SAMPLE = 64  # values of each parameter that tell weights apart


@dataclass(frozen=True)
class Make:
    """The order to write a batch, without some of its items."""

    batch: int
    dropped: tuple[Failure, ...] = ()
    workers: int = 3  # that may die of it


@dataclass(frozen=True)
class Try:
    """The order to capture one item of a batch and write nothing."""

    batch: int
    item: int
    workers: int = 2  # that may die of it


@contextmanager
def distributed(run: Run, engine: Engine) -> Iterator[Callable[[Sequence[int]], Iterator[int]]]:
    """A context with a function that makes batches on an engine's workers, and yields the number of each.

    Raises:
        ValueError: the workers cannot make the same lens again; says why.
    """
    threads, gpus = int(run.writer.plan.asked["threads"]), run.lens.transformer.device.type == "cuda"
    with pool(engine, setup_of(run), threads=threads, gpus=gpus) as workers:
        yield _Course(run, workers).batches


class _Course:
    """The course of a run on workers: orders that go out, and what becomes of them."""

    def __init__(self, run: Run, workers: Pool):
        self.run, self.workers = run, workers
        self.deaths: Counter[Make | Try] = Counter()
        self.held: set[int] = set()
        self.apart: dict[int, tuple[Make, dict[int, Failure | None]]] = {}  # batches whose items are tried alone

    def batches(self, todo: Sequence[int]) -> Iterator[int]:
        """Makes batches, and yields the number of each when it is complete on disk."""
        for batch in todo:
            self.workers.submit(Make(batch))
        while self.workers.pending:
            outcome = self.workers.outcome()
            order = outcome.order
            if outcome.error is not None:
                raise outcome.error
            if outcome.died:
                self._lost(outcome)
            elif isinstance(order, Try):
                self._tried(order, None)
            elif outcome.value == MADE:
                yield order.batch
            elif order.batch not in self.held:  # retry at the end: its writer may have been killed by then
                self.held.add(order.batch)
                self.workers.submit(order)

    def _lost(self, outcome: Outcome) -> None:
        order = outcome.order
        self.deaths[order] += 1
        warnings.warn(
            f"got a worker that died ({outcome.died}) in batch {order.batch} · replaced it; death {self.deaths[order]}"
            f" of {order.workers} for this work",
            stacklevel=2,
        )
        if self.deaths[order] < order.workers:
            self.workers.submit(order)
        elif isinstance(order, Try):
            self._tried(order, Failure(order.item, "", f"ChildProcessError: its worker died ({outcome.died})"))
        else:
            self._take_apart(order)

    def _take_apart(self, order: Make) -> None:
        without = {failure.item for failure in order.dropped}
        self.apart[order.batch] = order, {}
        for item in self.run.numbers(order.batch):
            if item not in without:
                self.workers.submit(Try(order.batch, item))

    def _tried(self, order: Try, failure: Failure | None) -> None:
        make, findings = self.apart[order.batch]
        findings[order.item] = failure
        if len(findings) + len(make.dropped) < len(self.run.numbers(order.batch)):
            return
        culprits = [findings[item] for item in sorted(findings)]
        failures = tuple(culprit for culprit in culprits if culprit is not None)
        if not failures:
            raise ChildProcessError(
                f"got batch {order.batch}, which killed {make.workers} workers though none of its items does alone ·"
                " expected a batch that fits in memory · use a smaller --batch-size, or fewer --workers on a machine"
            )
        self.run.stop_at(failures, order.batch)
        self.workers.submit(Make(order.batch, (*make.dropped, *failures)))


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to capture as this process would, without the weights, which it loads itself.

    Attributes:
        model, options: what `DiTLens.from_pretrained` gets.
        name, conditioning: of the lens.
        weights: see `sample_of`.
        at: the folder that relative paths start from.
    """

    model: str
    options: Mapping[str, Any]
    name: str
    conditioning: Conditioning
    weights: str
    scenes: Sequence[Scene]
    recipe: Recipe
    folder: Path
    plan: Plan
    provenance: str
    skips: bool
    at: Path

    def __call__(self) -> Callable[[Make | Try], str]:
        """Loads the lens, once for all orders.

        Raises:
            ValueError: the lens, its weights or this machine differ from those of the plan; says in what.
            FileNotFoundError: the store's folder is not on this machine.
        """
        os.chdir(self.at)
        torch.set_num_threads(int(self.plan.asked["threads"]))
        lens = DiTLens.from_pretrained(self.model, verify=False, **self.options)
        lens.name = self.name
        lens.conditioning = self.conditioning.to(lens.model.device, lens.family.input_dtype(lens.transformer))
        self._check_same(lens)
        open_plan(self.folder)  # on a machine that does not share the folder it is missing
        writer = StoreWriter(self.folder, self.plan, self.provenance)
        run = Run(lens, self.scenes, self.recipe, writer, self.skips)
        return lambda order: carried_out(run, order)

    def _check_same(self, lens: DiTLens) -> None:
        here = circumstances(lens, self.recipe)
        others = [key for key, value in here.items() if canonical(value) != canonical(self.plan.asked[key])]
        if sample_of(lens) != self.weights:
            others.append("weights")
        if others:
            raise ValueError(
                f"got a worker with other {', '.join(others)} than the process that planned the store · expected the"
                f" same, so that values are equal to the byte · {self._remedy(others)}"
            )

    def _remedy(self, others: Sequence[str]) -> str:
        if "weights" in others:
            return "capture in this process (engine here), or save the changed model and load it from its folder"
        return "use machines with the same packages and devices"


@torch.no_grad()
def carried_out(run: Run, order: Make | Try) -> str:
    """Carries out an order in a worker; says whether the batch was made, or another writer holds it."""
    if isinstance(order, Try):
        run.alone(order.item)
        return MADE
    try:
        with run.writer.claim(order.batch):
            run.make(order.batch, order.dropped)
    except BlockingIOError:
        return HELD
    return MADE


def setup_of(run: Run) -> WorkerSetup:
    """What workers need to continue a run.

    Raises:
        ValueError: the lens exists in the memory of this process only, or hooks are active on it.
    """
    lens = run.lens
    if lens.model.hooked:
        raise ValueError(
            f"got hooks on {lens.name}, which workers would not have · expected none · capture in this process"
            " (engine here)"
        )
    if lens.source is None or any(isinstance(value, nn.Module) for value in lens.source[1].values()):
        raise ValueError(
            f"got a lens on {lens.name} whose weights are in the memory of this process only · expected one that"
            " workers can load too · make it by DiTLens.from_pretrained, or capture in this process (engine here)"
        )
    model, options = lens.source
    writer = run.writer
    return WorkerSetup(
        model, options, lens.name, _on_cpu(lens.conditioning), sample_of(lens),
        run.scenes, run.recipe, writer.folder, writer.plan, writer.provenance, run.skips, Path.cwd(),
    )  # fmt: skip


def _on_cpu(conditioning: Conditioning) -> Conditioning:
    return Conditioning({name: tensor.cpu() for name, tensor in conditioning.tensors.items()}, conditioning.prompt)


def sample_of(lens: DiTLens) -> str:
    """A digest of evenly spaced values of every parameter and buffer, which tells changed weights from loaded ones."""
    digest = sha256()
    for member in lens.model.members:
        tensors = {**dict(member.transformer.named_parameters()), **dict(member.transformer.named_buffers())}
        for name, tensor in sorted(tensors.items()):
            flat = tensor.detach().reshape(-1)
            chosen = flat[:: max(1, len(flat) // SAMPLE)].cpu()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + chosen.double().numpy().tobytes())
    return digest.hexdigest()
