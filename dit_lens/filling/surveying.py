"""What a store will hold and take, known before it is filled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dit_lens import results
from dit_lens.capture import travel
from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.filling.batches import load
from dit_lens.filling.collecting import Collector
from dit_lens.filling.recipe import Recipe
from dit_lens.lens import DiTLens
from dit_lens.reductions import Named
from dit_lens.store import STORED, Place, Plan, Variable


@dataclass(frozen=True)
class Estimate:
    """What a store will take: bytes before compression, evaluations of the transformer, seconds, clips."""

    bytes: int
    forwards: int
    seconds: float
    clips: int

    def share(self, part: float) -> Estimate:
        """Of a part of the batches."""
        return Estimate(
            round(part * self.bytes), round(part * self.forwards), part * self.seconds, round(part * self.clips)
        )

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return (
            f"{self.clips} clips, {self.bytes / 1e9:.3g} GB before compression, {self.forwards} forwards,"
            f" about {minutes} min {seconds} s"
        )


@torch.no_grad()
def survey(
    lens: DiTLens, quadruplets: Sequence[Quadruplet], recipe: Recipe, asked: Mapping[str, Any] | None = None
) -> tuple[Plan, Estimate]:
    """What a store will hold and take, found by a few evaluations of the first items that can be read.

    Args:
        asked: what else decides the values (weights, data set, code); a store goes on only where it is the same.

    Raises:
        ValueError: a reduction that a point has not the axes for, or no item can be read.
        KeyError: unknown hook point. IndexError: unknown step.
    """
    collector = Collector(lens, recipe.takes)
    begun = time.perf_counter()
    items = _first_items(quadruplets, recipe.batch_size)
    path = travel(lens, items, replace(recipe.route, path="noising"))
    loading = time.perf_counter() - begun
    schedule, step = path.schedule, recipe.steps[0]
    levels = [(schedule.sigmas[s], schedule.timesteps[s]) for s in map(schedule.check_step, recipe.steps)]
    variables = tuple(_variables(collector, collector.evaluate(lens, path[:1], step), recipe.dtype))
    begun = time.perf_counter()
    for named in collector.evaluate(lens, path, step).values():
        named.values.cpu()
    each = time.perf_counter() - begun
    batches = math.ceil(len(quadruplets) / recipe.batch_size)
    told = circumstances(lens, recipe) | dict(asked or {})
    sigmas, timesteps = zip(*levels, strict=True)
    clips = len(ROLES) * len(quadruplets)
    plan = Plan(variables, recipe.steps, sigmas, timesteps, batches, clips, told, recipe.compression)
    forwards = batches * (_forwards_on_the_way(lens, items[0], recipe) + len(recipe.steps))
    return plan, Estimate(plan.bytes, forwards, batches * loading + forwards * each, clips)


def _first_items(quadruplets: Sequence[Quadruplet], size: int) -> list[Quadruplet]:
    items: list[Quadruplet] = []
    for number in range(len(quadruplets)):
        items += load(quadruplets, [number])[0].values()
        if len(items) == size:
            break
    if not items:
        raise ValueError(f"got {len(quadruplets)} items, none of which can be read · expected clips · look at the data")
    return items


def _variables(collector: Collector, taken: Mapping[Place, Named], dtype: str) -> Iterator[Variable]:
    """The variables of the store, one of each reduction of like points."""
    for name in dict.fromkeys(name for name, _ in taken):
        found = [named for (variable, _), named in taken.items() if variable == name]
        first, shapes = found[0], {(named.axes, tuple(named.values.shape)) for named in found}
        if len(shapes) > 1:
            raise ValueError(
                f"got {name} of shapes {' and '.join(str(shape) for _, shape in shapes)} in its blocks · expected one"
                " · ask for blocks of one kind, or reduce further"
            )
        kept = str(first.values.dtype).removeprefix("torch.") if dtype == "as_made" else dtype
        shape, axes, labels = tuple(first.values.shape[1:]), first.axes[1:], dict(first.labels)
        if blocks := collector.blocks.get(name):
            shape, axes, labels = (len(blocks), *shape), ("block", *axes), labels | {"block": tuple(blocks)}
        points = tuple(point for point in collector.points if name in collector.wanted[point])
        reduction = str(collector.wanted[points[0]][name][1])
        yield Variable(name, axes, shape, check_choice(kept, STORED, "dtype"), labels, points, reduction)


def circumstances(lens: DiTLens, recipe: Recipe) -> dict[str, Any]:
    """What decides the values beside data, weights and code, down to what changes their last bits."""
    return {
        "lens": lens.facts(),
        "takes": [str(take) for take in recipe.takes],
        "route": asdict(recipe.route),
        "batch_size": recipe.batch_size,
        "device": str(lens.transformer.device),
        "threads": torch.get_num_threads(),
        "versions": results.versions(),
    }


def _forwards_on_the_way(lens: DiTLens, item: Quadruplet, recipe: Recipe) -> int:
    """Evaluations from data to the last step, counted on the first."""
    calls: list[None] = []
    handle = lens.transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        travel(lens, [item], recipe.route, until=min(1, max(recipe.steps)))
    finally:
        handle.remove()
    return len(calls) * max(recipe.steps)
