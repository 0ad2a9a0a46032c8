"""A pair of runs, and the metric as a function of one activation, without rerunning the blocks before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.attribution.integrals import Side
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.interventions.effects import is_after, last, run
from dit_lens.interventions.intervention import refuse_hooks
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, MetricFunction, Run, bind, differentiable
from dit_lens.running import Evaluation, Request, count, repeat
from dit_lens.trajectory import Trajectory

Place = Evaluation | tuple[Trajectory, int]
LATENT = "hook_latent"


@dataclass(frozen=True, eq=False)
class Rerun:
    """The metric of a run in which one point takes another value: (rows, ...) -> (rows,), differentiable.

    Rows are any number of concatenated copies of the run's clips.

    Attributes:
        evaluation: of the run.
        run: the unedited run, with the streams that enter the point's block.
        reads: what the metric reads.
        function: the metric, bound to a pair of runs.
    """

    lens: DiTLens
    point: str
    evaluation: Evaluation
    run: Run
    reads: tuple[str, ...]
    function: MetricFunction

    def __call__(self, value: Float[Tensor, "rows *rest"]) -> Float[Tensor, " rows"]:
        """The metric at each row's value."""
        copies = len(value) // count(self.evaluation)
        velocity, cache = self._from_point(repeat(self.evaluation, copies), value, copies)
        velocities = [None] * copies if velocity is None else velocity.chunk(copies)
        parts = {name: tensor.chunk(copies) for name, tensor in cache.items()}
        measured = (
            self.function(velocities[i], {**self.run.cache, **{name: part[i] for name, part in parts.items()}})
            for i in range(copies)
        )
        result = torch.cat(list(measured))
        return differentiable(result) if torch.is_grad_enabled() and value.requires_grad else result

    def _from_point(self, evaluation: Evaluation, value: Tensor, copies: int):
        """Runs the point's block and the later ones, as far as the metric reads."""
        block = block_of(self.point)
        entering = [] if block is None else self.lens.table.entering(block)
        later = [name for name in self.reads if not entering or not is_after(self.lens, entering[0], name)]
        request = Request(later, stop_at=last(self.lens, [self.point, *later]) if self.reads else None)

        def put(x: Tensor, hook: object) -> Tensor:
            return value

        if block is None:
            return self.lens.model.run_with(evaluation, {self.point: [put]}, request)
        streams = {name: _copied(self.run.cache[name], copies) for name in entering}
        return self.lens.model.run_suffix(evaluation, block, streams, {self.point: put}, request)


@dataclass(frozen=True, eq=False)
class Between:
    """A clean and a corrupted evaluation, each run once, and a metric bound to them.

    Attributes:
        points: hook points to attribute to, in forward order.
        reads: what the metric reads.
        runs: of corrupted and clean, with the points, what the metric reads, and what enters the points' blocks.
    """

    lens: DiTLens
    clean: Evaluation
    corrupted: Evaluation
    points: tuple[str, ...]
    metric: Metric
    runs: tuple[Run, Run]

    @property
    def function(self) -> MetricFunction:
        """The metric for this pair."""
        corrupted, clean = self.runs
        return bind(self.metric, clean, corrupted)

    def ends(self, point: str) -> tuple[Tensor, Tensor]:
        """The values of a point in the corrupted run and in the clean one."""
        corrupted, clean = self.runs
        return corrupted.cache[point], clean.cache[point]

    def rerun(self, point: str, around: Side) -> Rerun:
        """The metric as a function of a point's value, all else as in one of the runs."""
        index = 1 if around == "clean" else 0
        evaluation = (self.corrupted, self.clean)[index]
        return Rerun(self.lens, point, evaluation, self.runs[index], self.metric.points, self.function)

    def run_with(self, functions: Mapping[str, Sequence[HookFunction]]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """A whole evaluation with hooks, and its activations at the points and at what the metric reads."""
        request = Request((*self.points, *self.metric.points))
        return self.lens.model.run_with(self.corrupted, functions, request)


def between(lens: DiTLens, clean: Place, corrupted: Place, points: NamesFilter, metric: Metric) -> Between:
    """A clean and a corrupted run as a pair, with the metric bound to them.

    Raises:
        KeyError: unknown hook point. RuntimeError: hooks are active.
        ValueError: runs that do not pair up, or no point that the metric depends on.
    """
    refuse_hooks(lens)
    names = _before(lens, [point.name for point in lens.table.select(points, lens.name)], metric.points)
    blocks = {block for name in names if (block := block_of(name)) is not None}
    streams = [name for block in sorted(blocks) for name in lens.table.entering(block)]
    first, second = (
        place if isinstance(place, Evaluation) else lens.evaluation(*place) for place in (clean, corrupted)
    )
    with torch.no_grad():
        runs = [run(lens, evaluation, [metric], (LATENT, *names, *streams)) for evaluation in (second, first)]
    latents = [tuple(pair_run.cache[LATENT].shape) for pair_run in runs]
    if latents[0] != latents[1] or first.sigma != second.sigma:
        raise ValueError(
            f"got clean latents {latents[1]} at sigma {first.sigma:g} and corrupted ones {latents[0]} at"
            f" {second.sigma:g} · expected as many of one size at one level"
        )
    return Between(lens, first, second, names, metric, (runs[0], runs[1]))


def block_of(point: str) -> int | None:
    """The block of a point; None for one outside of blocks, which takes the whole model."""
    parts = point.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


def _before(lens: DiTLens, names: Sequence[str], reads: tuple[str, ...]) -> tuple[str, ...]:
    """The points that do not come after everything that a metric reads."""
    if not names:
        raise ValueError("got no points · expected at least one, such as 'hook_latent'")
    earlier = tuple(name for name in names if not reads or not is_after(lens, name, last(lens, reads)))
    if not earlier:
        raise ValueError(
            f"got {names[0]}, which lies behind {', '.join(reads)} · expected a point that the metric depends on"
        )
    return earlier


def _copied(x: Tensor, copies: int) -> Tensor:
    return x.repeat(copies, *[1] * (x.ndim - 1))
