"""What a sweep goes over: changes of one activation each, and the effects they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation, Request, count


@dataclass(frozen=True, eq=False)
class Change:
    """One edit at one hook point, such as `Change("blocks.3.attn.hook_z", edits.zero(heads=[2]))`.

    Attributes:
        point: where.
        edit: (tensor, hook) -> tensor or None; of each clip by itself, and the same whenever it is called.
    """

    point: str
    edit: HookFunction


@dataclass(frozen=True, eq=False)
class Effects:
    """What changes do to each metric.

    Attributes:
        effect: (b, change), changed - unchanged; NaN where the change comes behind all that the metric reads.
        before: (b,), the metric of the unchanged run.
        clean: (b,), that of the clean run; empty where there is none.

    A metric of several numbers, (b, ...), has them as last axes.
    """

    effect: Mapping[str, Float[Tensor, "b change *rest"]]
    before: Mapping[str, Float[Tensor, "b *rest"]]
    clean: Mapping[str, Float[Tensor, "b *rest"]]


@dataclass(frozen=True, eq=False)
class Beginning:
    """Effects yet unknown, the unchanged run's activations, and the metrics bound to it."""

    effects: Effects
    cache: Mapping[str, Tensor]
    metrics: Mapping[str, Readout]


def change_each(dims: Mapping[str, Sequence[object]], change: Callable[..., Change]) -> list[Change]:
    """`change(**indices)` for each combination of the dimensions' values, the last dimension fastest."""
    return [change(**dict(zip(dims, values, strict=True))) for values in product(*dims.values())]


def begin(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metrics: Mapping[str, Metric],
    clean: Run | None,
    names: Iterable[str] = (),
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Beginning:
    """The unchanged run, with activations that metrics read and `names`.

    Args:
        keep: of those that no metric reads, an activation -> the same, wherever it is kept.

    Raises:
        ValueError, KeyError, RuntimeError, TypeError: see `check`; or something is no metric.
    """
    check(lens, changes)
    own = run(lens, evaluation, metrics.values(), names, keep)
    return bound(own, changes, metrics, clean)


def check(lens: DiTLens, changes: Sequence[Change]) -> None:
    """Passes where changes can be swept over.

    Raises:
        ValueError: no changes. KeyError: a hook point that the model does not have. RuntimeError: hooks are active;
            they would act on whole runs but not on those that restart inside.
        TypeError: a change at a point that cannot be written.
    """
    if not changes:
        raise ValueError("got no changes · expected at least one, such as Change(point, edits.zero())")
    refuse_hooks(lens)
    for name in {change.point for change in changes}:
        if (lens.table.points.get(name) or lens.table.select([name], lens.name)[0]).write is None:
            raise TypeError(f"got a change at {name}, which can only be read · expected a point that can be written")


def bound(own: Run, changes: Sequence[Change], metrics: Mapping[str, Metric], clean: Run | None) -> Beginning:
    """What a sweep begins with, from the unchanged run."""
    ready = {name: Readout(metric.bind(clean or own, own), metric.points) for name, metric in metrics.items()}
    before = {name: metric(own.velocity, own.cache).cpu() for name, metric in ready.items()}
    after = {name: metric(clean.velocity, clean.cache).cpu() for name, metric in ready.items()} if clean else {}
    effect = {
        name: torch.full((len(value), len(changes), *value.shape[1:]), torch.nan, dtype=value.dtype)
        for name, value in before.items()
    }
    return Beginning(Effects(effect, before, after), own.cache, ready)


def refuse_hooks(lens: DiTLens) -> None:
    """Passes where no hooks are active.

    Raises:
        RuntimeError: some are.
    """
    if lens.model.hooked:
        raise RuntimeError("got active hooks around a sweep · expected none · leave the `hooks` context first")


def check_pair(clean: Evaluation, corrupted: Evaluation) -> None:
    """Passes where clip i of one run can stand beside clip i of the other.

    Raises:
        ValueError: they differ in number of clips or noise level.
    """
    if count(clean) != count(corrupted) or abs(clean.sigma - corrupted.sigma) > 1e-6:
        raise ValueError(
            f"got {count(clean)} clean and {count(corrupted)} corrupted clips at noise levels {clean.sigma:g} and"
            f" {corrupted.sigma:g} · expected pairs on the same noise levels"
        )


def run(
    lens: DiTLens,
    evaluation: Evaluation,
    metrics: Iterable[Metric],
    names: Iterable[str] = (),
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Run:
    """Velocity and activations of an evaluation, no further than the metrics and `names` ask for.

    Args:
        keep: see `begin`.
    """
    asked = [checked(metric) for metric in metrics]
    read = {point for metric in asked for point in metric.points}
    points = {*names, *read}
    to_the_end = not points or any(not metric.points for metric in asked)
    stop = None if to_the_end else last(lens, points)

    def kept(x: Tensor, hook: Hook) -> Tensor:
        return x if keep is None or hook.name in read else keep(x)

    return Run(*lens.model.run(evaluation, Request(sorted(points), kept, stop)))


def checked(metric: Any) -> Metric:
    """The metric.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"got a {type(metric).__name__} as metric · expected probe.logit, VelocityProjection(), or"
            " Readout(function, points) with function (velocity, cache) -> (b,)"
        )
    return metric


def is_behind(lens: DiTLens, point: str, other: str) -> bool:
    """Whether a hook point comes after another in the forward."""
    return point != other and last(lens, [point, other]) == point


def last(lens: DiTLens, names: Iterable[str]) -> str:
    """The last of some hook points in forward order."""
    wanted, points = set(names), lens.table.points
    if not wanted <= points.keys():
        return lens.table.select(sorted(wanted), lens.name)[-1].name
    return next(name for name in reversed([*points]) if name in wanted)


def reaches(lens: DiTLens, change: Change, metric: Metric) -> bool:
    """Whether a change can move a metric."""
    return not metric.points or any(not is_behind(lens, change.point, point) for point in metric.points)
