"""Effects of the same changes at several steps as a table with named dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr

from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.running import Evaluation, count
from dit_lens.sweeps.changes import Effects, checked
from dit_lens.trajectory import Trajectory

Path = Trajectory | Mapping[int, Evaluation]


def evaluations(lens: DiTLens, path: Path, steps: Sequence[int]) -> dict[int, Evaluation]:
    """The evaluation at each step of a trajectory, or of evaluations by step.

    Raises:
        ValueError: no steps. IndexError: a step that the path does not have.
    """
    if not len(steps):
        raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
    if isinstance(path, Trajectory):
        return {step: lens.evaluation(path, step) for step in steps}
    if missing := [step for step in steps if step not in path]:
        raise IndexError(f"got step {missing[0]} · expected of {', '.join(map(str, path))}, which were given")
    return {step: path[step] for step in steps}


def named(metric: Any) -> dict[str, Metric]:
    """Metrics by name; a single one has the empty name.

    Raises:
        TypeError: something that is no metric.
    """
    given = metric if isinstance(metric, Mapping) else {"": metric}
    return {name: checked(one) for name, one in given.items()}


def tabulate(
    by_step: Mapping[int, Effects], dims: Mapping[str, Sequence[object]], fed: Mapping[int, Evaluation]
) -> xr.Dataset:
    """`effect` (clip, step, *dims), `before` (clip, step), and `total` = clean - before where there is a clean run.

    Several metrics are told apart by their names: `effect_NAME` and so on. A metric of several numbers, (b, feature),
    has them as last dimension.

    Args:
        by_step: effects of `change_each(dims, ...)` at each step.
        fed: the evaluation that was changed at each step; noise level and timestep (of the noisiest token) are noted.
    """
    data: dict[str, tuple[tuple[str, ...], object]] = {}
    first = next(iter(by_step.values()))
    sizes = [len(values) for values in dims.values()]
    for name in first.effect:
        end = f"_{name}" if name else ""
        effect = torch.stack([effects.effect[name].unflatten(1, sizes) for effects in by_step.values()], dim=1)
        before = torch.stack([effects.before[name] for effects in by_step.values()], dim=1)
        rest = ("feature",) if before.ndim > 2 else ()
        data |= {f"effect{end}": (("clip", "step", *dims, *rest), effect.numpy())}
        data |= {f"before{end}": (("clip", "step", *rest), before.numpy())}
        if first.clean:
            clean = torch.stack([effects.clean[name] for effects in by_step.values()], dim=1)
            data |= {f"total{end}": (("clip", "step", *rest), (clean - before).numpy())}
    coords: dict[str, object] = {name: list(values) for name, values in dims.items()}
    coords |= {"clip": clip_ids_of(fed), "step": list(by_step)}
    coords |= {"sigma": ("step", [fed[step].sigma for step in by_step])}
    coords |= {"timestep": ("step", [float(fed[step].inputs["timestep"].float().max()) for step in by_step])}
    return xr.Dataset(data, coords=coords)


def clip_ids_of(path: Path) -> list[str]:
    """Ids of a trajectory's clips; numbers where evaluations were given."""
    if isinstance(path, Trajectory):
        return list(path.clip_ids)
    return [str(i) for i in range(count(next(iter(path.values()))))]
