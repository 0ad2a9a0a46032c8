"""Effects, the metrics of an edited run minus those of the unchanged run; and the unchanged run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.hook_points import Hook
from dit_lens.interventions.intervention import Intervention
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run, bind
from dit_lens.running import Evaluation, Request, count


@dataclass(frozen=True, eq=False)
class Screened:
    """First-order estimates of the interventions' effects on a metric, and their agreement with exact effects.

    Attributes:
        estimate: (b, intervention), first-order effects of all interventions.
        verified: indices of the interventions with the largest mean |estimate|, largest first; their effects are exact.
        checked: indices of a random sample of the others, whose exact effects are known too.
        agreement: Spearman's rank correlation of mean estimated and mean exact effects over `verified` and `checked`.
    """

    estimate: Float[Tensor, "b intervention"]
    verified: tuple[int, ...]
    checked: tuple[int, ...]
    agreement: float


@dataclass(frozen=True, eq=False)
class Effects:
    """The effects of interventions on each metric.

    Attributes:
        effect: (b, intervention), edited - unchanged; NaN where all edits come after all that the metric reads, or
            where a screened sweep did not verify.
        before: (b,), the metric of the unchanged run.
        clean: (b,), the metric of the clean run; empty without one.
        screened: estimates by metric; empty unless the sweep was screened.

    A metric of several numbers, (b, ...), has them as last axes.
    """

    effect: Mapping[str, Float[Tensor, "b intervention *rest"]]
    before: Mapping[str, Float[Tensor, "b *rest"]]
    clean: Mapping[str, Float[Tensor, "b *rest"]]
    screened: Mapping[str, Screened]


@dataclass(frozen=True, eq=False)
class Unchanged:
    """The unchanged run: its activations, the metrics bound to it, and effects to be filled in."""

    effects: Effects
    cache: Mapping[str, Tensor]
    metrics: Mapping[str, Readout]


def unchanged(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None,
    names: Iterable[str] = (),
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Unchanged:
    """The unchanged run, with the activations that metrics read and those in `names`.

    Args:
        keep: applied to activations that no metric reads, as `SpillStore.keep` is: same values, in memory or a file.

    Raises:
        ValueError: no metrics. TypeError: an object that is no metric.
    """
    if not metrics:
        raise ValueError('got no metrics · expected at least one by name, such as {"logit": probe.logit}')
    return bound(run(lens, evaluation, metrics.values(), names, keep), len(interventions), metrics, clean)


def bound(ran: Run, interventions: int, metrics: Mapping[str, Metric], clean: Run | None) -> Unchanged:
    """The unchanged run from a finished run, with metrics bound to it and so many effects to fill in."""
    ready = {name: Readout(bind(metric, clean or ran, ran), metric.points) for name, metric in metrics.items()}
    before = {name: metric(ran.velocity, ran.cache).cpu() for name, metric in ready.items()}
    after = {name: metric(clean.velocity, clean.cache).cpu() for name, metric in ready.items()} if clean else {}
    effect = {
        name: torch.full((len(value), interventions, *value.shape[1:]), torch.nan, dtype=value.dtype)
        for name, value in before.items()
    }
    return Unchanged(Effects(effect, before, after, {}), ran.cache, ready)


def run(
    lens: DiTLens,
    evaluation: Evaluation,
    metrics: Iterable[Metric],
    names: Iterable[str] = (),
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Run:
    """Velocity and activations of an evaluation, run only as far as the metrics and `names` need.

    Args:
        keep: see `unchanged`.
    """
    valid = [checked(metric) for metric in metrics]
    read = {point for metric in valid for point in metric.points}
    points = {*names, *read}
    to_the_end = not points or any(not metric.points for metric in valid)
    stop = None if to_the_end else last(lens, points)

    def reduce(x: Tensor, hook: Hook) -> Tensor:
        return x if keep is None or hook.name in read else keep(x)

    return Run(*lens.model.run(evaluation, Request(sorted(points), reduce, stop)))


def check_pair(clean: Evaluation, corrupted: Evaluation) -> None:
    """Checks that two runs can be compared clip by clip.

    Raises:
        ValueError: they differ in number of clips or noise level.
    """
    if count(clean) != count(corrupted) or abs(clean.sigma - corrupted.sigma) > 1e-6:
        raise ValueError(
            f"got {count(clean)} clean and {count(corrupted)} corrupted clips at noise levels {clean.sigma:g} and"
            f" {corrupted.sigma:g} · expected pairs on the same noise levels"
        )


def checked(metric: Any) -> Metric:
    """The metric, checked to be one.

    Raises:
        TypeError: it is no metric.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"got a {type(metric).__name__} as metric · expected probe.logit, VelocityProjection(), or"
            " Readout(function, points) with function (velocity, cache) -> (b,)"
        )
    return metric


def is_after(lens: DiTLens, point: str, reference: str) -> bool:
    """Whether a hook point comes after another in the forward."""
    return point != reference and last(lens, [point, reference]) == point


def last(lens: DiTLens, names: Iterable[str]) -> str:
    """The last of some hook points in forward order."""
    wanted, points = set(names), lens.table.points
    if not wanted <= points.keys():
        return lens.table.select(sorted(wanted), lens.name)[-1].name
    return next(name for name in reversed([*points]) if name in wanted)


def first(lens: DiTLens, names: Iterable[str]) -> str:
    """The first of some hook points of the model in forward order."""
    wanted = set(names)
    return next(name for name in lens.table.points if name in wanted)


def can_move(lens: DiTLens, intervention: Intervention, metric: Metric) -> bool:
    """Whether an intervention comes before something that a metric reads; True where it edits nothing."""
    return not intervention.edits or any(is_seen(lens, point, metric) for point in intervention.points)


def is_seen(lens: DiTLens, point: str, metric: Metric) -> bool:
    """Whether an edit at a point comes before, or at, something that a metric reads."""
    return not metric.points or any(not is_after(lens, point, read) for read in metric.points)
