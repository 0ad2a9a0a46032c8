"""The plan and cost of a store, known before it is filled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dit_lens import results
from dit_lens.capture.collecting import Collector
from dit_lens.capture.feeding import encode, evaluations, schedule_of, trajectory_of
from dit_lens.capture.recipe import Recipe
from dit_lens.capture.storing import clip_parts, clips_in, load
from dit_lens.choices import check_choice
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.reductions import Named
from dit_lens.running import some
from dit_lens.store import STORED, Place, Plan, Variable


@dataclass(frozen=True)
class CaptureCost:
    """The cost of a store: bytes before compression, evaluations of the transformer, seconds, clips."""

    bytes: int
    forwards: int
    seconds: float
    clips: int

    def share(self, part: float) -> CaptureCost:
        """The cost of a part of the batches."""
        return CaptureCost(
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
    lens: DiTLens, scenes: Sequence[Scene], recipe: Recipe, asked: Mapping[str, Any] | None = None
) -> tuple[Plan, CaptureCost]:
    """The plan and the cost of a store, measured by a few evaluations of the first readable items.

    Args:
        asked: other inputs that determine the values (weights, data set, code); only a store with equal ones continues.

    Raises:
        ValueError: a reduction over axes that a point does not have, or no readable item.
        KeyError: unknown hook point. IndexError: unknown step.
    """
    collector = Collector(lens, recipe.takes)
    start = time.perf_counter()
    items = _first_items(scenes, recipe.batch_size)
    schedule = schedule_of(lens, recipe.path, encode(lens.encode, items[:1]))
    levels = [(schedule.sigmas[s], schedule.timesteps[s]) for s in map(schedule.check_step, recipe.steps)]
    # Noising needs no evaluations before the step, and the captured values of a step have one shape on all paths.
    quick = replace(recipe.path, kind="noising") if recipe.path.kind == "inversion" else recipe.path
    (evaluation,) = evaluations(lens, items, recipe.steps[:1], quick).values()
    loading = time.perf_counter() - start
    parts = clip_parts(lens, items, evaluation, recipe)
    first = collector.evaluate(lens, some(evaluation, slice(0, 1)), None if parts is None else parts[:1])
    variables = tuple(_variables(collector, first, recipe.dtype))
    start = time.perf_counter()
    for named in collector.evaluate(lens, evaluation, parts).values():
        named.values.cpu()
    duration = time.perf_counter() - start
    batches = math.ceil(len(scenes) / recipe.batch_size)
    facts = circumstances(lens, recipe) | dict(asked or {})
    sigmas, timesteps = zip(*levels, strict=True)
    clips = clips_in(scenes)
    plan = Plan(variables, recipe.steps, sigmas, timesteps, batches, clips, facts, recipe.compression)
    forwards = batches * (_forwards_on_the_way(lens, items[0], recipe) + len(recipe.steps))
    return plan, CaptureCost(plan.bytes, forwards, batches * loading + forwards * duration, clips)


def _first_items(scenes: Sequence[Scene], size: int) -> list[Scene]:
    items: list[Scene] = []
    for number in range(len(scenes)):
        items += load(scenes, [number])[0].values()
        if len(items) == size:
            break
    if not items:
        raise ValueError(
            f"got {len(scenes)} scenes, none of which can be read · expected readable clips · check the data set"
        )
    return items


def _variables(collector: Collector, taken: Mapping[Place, Named], dtype: str) -> Iterator[Variable]:
    """The variables of the store, one for each reduction of corresponding points."""
    for name in dict.fromkeys(name for name, _ in taken):
        values_of_points = [named for (variable, _), named in taken.items() if variable == name]
        first, shapes = values_of_points[0], {(named.axes, tuple(named.values.shape)) for named in values_of_points}
        if len(shapes) > 1:
            raise ValueError(
                f"got {name} with shapes {' and '.join(str(shape) for _, shape in shapes)} in different blocks ·"
                " expected one shape · select blocks of one kind, or reduce further"
            )
        dtype_name = str(first.values.dtype).removeprefix("torch.") if dtype == "as_made" else dtype
        shape, axes, labels = tuple(first.values.shape[1:]), first.axes[1:], dict(first.labels)
        if blocks := collector.blocks.get(name):
            shape, axes, labels = (len(blocks), *shape), ("block", *axes), labels | {"block": tuple(blocks)}
        points = tuple(point for point in collector.points if name in collector.wanted[point])
        reduction = str(collector.wanted[points[0]][name][1])
        yield Variable(name, axes, shape, check_choice(dtype_name, STORED, "dtype"), labels, points, reduction)


def circumstances(lens: DiTLens, recipe: Recipe) -> dict[str, Any]:
    """The settings that determine the values, beside data, weights and code, down to their last bits."""
    return {
        "lens": lens.facts(),
        "takes": [str(take) for take in recipe.takes],
        "path": asdict(recipe.path),
        "batch_size": recipe.batch_size,
        "device": str(lens.transformer.device),
        "threads": torch.get_num_threads(),
        "versions": results.versions(),
    }


def _forwards_on_the_way(lens: DiTLens, item: Scene, recipe: Recipe) -> int:
    """The number of evaluations from data to the last step, measured on the first step."""
    if recipe.path.kind != "inversion":
        return 0
    calls: list[None] = []
    handle = lens.transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        trajectory_of(lens, [item], recipe.path, until=min(1, max(recipe.steps)))
    finally:
        handle.remove()
    return len(calls) * max(recipe.steps)
