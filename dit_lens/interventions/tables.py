"""Effects of interventions at several steps as a table with named dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from dit_lens.arguments import integers
from dit_lens.interventions.effects import Effects, checked
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.running import Evaluation, count
from dit_lens.trajectory import Trajectory

Path = Trajectory | Mapping[int, Evaluation]
Coordinates = Mapping[str, object]


def evaluations(lens: DiTLens, path: Path, steps: Sequence[int]) -> dict[int, Evaluation]:
    """The evaluation at each step of a trajectory, or of evaluations by step.

    Raises:
        ValueError: no steps. IndexError: a step that the path does not have.
    """
    steps = integers(steps, "steps")
    if not steps:
        raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
    if isinstance(path, Trajectory):
        return {step: lens.evaluation(path, step) for step in steps}
    if missing := [step for step in steps if step not in path]:
        raise IndexError(f"got step {missing[0]} · expected of {', '.join(map(str, path))}, which were given")
    return {step: path[step] for step in steps}


def named(metric: Any) -> dict[str, Metric]:
    """Metrics by name; a single one has the empty name.

    Raises:
        TypeError: an object that is no metric.
    """
    metrics = metric if isinstance(metric, Mapping) else {"": metric}
    return {name: checked(value) for name, value in metrics.items()}


def tabulate(by_step: Mapping[int, Effects], at: Sequence[Coordinates], fed: Mapping[int, Evaluation]) -> xr.Dataset:
    """`effect` (clip, step, *dims), `before` (clip, step), and `total` = clean - before where there is a clean run.

    Several metrics have variables with their names: `effect_NAME` and so on. A metric of several numbers, (b, feature),
    has them as last dimension. A screened sweep has `estimate` (clip, step, *dims) and `agreement` (step) too.

    Args:
        at: the coordinates of each intervention; without any, a dimension "intervention" numbers them. A combination
            that no intervention has is NaN.
        fed: the edited evaluation of each step; noise level and timestep (of the noisiest token) become coordinates.

    Raises:
        ValueError: coordinates of different names, or two interventions at the same coordinates.
    """
    dims, cells = _dims_of(at)
    data: dict[str, tuple[tuple[str, ...], object]] = {}
    for name in next(iter(by_step.values())).effect:
        data |= _variables(by_step, name, dims, cells)
    coords: dict[str, object] = {"clip": clip_ids_of(fed), "step": list(by_step), **dims}
    coords |= {"sigma": ("step", [fed[step].sigma for step in by_step])}
    coords |= {"timestep": ("step", [float(fed[step].inputs["timestep"].float().max()) for step in by_step])}
    return xr.Dataset(data, coords=coords)


def clip_ids_of(path: Path) -> list[str]:
    """Ids of a trajectory's clips; numbers for evaluations by step."""
    if isinstance(path, Trajectory):
        return list(path.clip_ids)
    return [str(i) for i in range(count(next(iter(path.values()))))]


def _dims_of(at: Sequence[Coordinates]) -> tuple[dict[str, list[object]], list[int]]:
    """Values by dimension, in order of occurrence, and the index of each intervention in the flattened table.

    Coordinates (block 3, head 0), (block 3, head 1), (block 5, head 1) give block [3, 5], head [0, 1] and cells 0, 1
    and 3.
    """
    numbered = at if any(at) else [{"intervention": i} for i in range(len(at))]
    names = list(numbered[0])
    if strange := next((coordinates for coordinates in numbered if list(coordinates) != names), None):
        raise ValueError(
            f"got interventions at ({', '.join(names)}) and at ({', '.join(strange)}) · expected the same coordinates,"
            " in one order"
        )
    dims = {name: list(dict.fromkeys(coordinates[name] for coordinates in numbered)) for name in names}
    places = {name: {value: i for i, value in enumerate(values)} for name, values in dims.items()}
    cells = []
    for coordinates in numbered:
        cell = 0
        for name in names:
            cell = cell * len(dims[name]) + places[name][coordinates[name]]
        cells.append(cell)
    if len({*cells}) < len(cells):
        twice = numbered[next(i for i, cell in enumerate(cells) if cell in cells[:i])]
        raise ValueError(
            f"got two interventions at {', '.join(f'{name} {value}' for name, value in twice.items())} · expected one"
            " for each combination of coordinates"
        )
    return dims, cells


def _variables(
    by_step: Mapping[int, Effects], name: str, dims: Mapping[str, Sequence[object]], cells: Sequence[int]
) -> dict[str, tuple[tuple[str, ...], object]]:
    """The variables of one metric."""
    end, sizes, all_effects = f"_{name}" if name else "", [len(v) for v in dims.values()], list(by_step.values())

    def table(values: Sequence[Tensor]) -> object:
        return torch.stack([_placed(effects, cells, sizes) for effects in values], dim=1).numpy()

    before = torch.stack([effects.before[name] for effects in all_effects], dim=1)
    rest = ("feature",) if before.ndim > 2 else ()
    data: dict[str, tuple[tuple[str, ...], object]] = {
        f"effect{end}": (("clip", "step", *dims, *rest), table([effects.effect[name] for effects in all_effects])),
        f"before{end}": (("clip", "step", *rest), before.numpy()),
    }
    if all_effects[0].clean:
        clean = torch.stack([effects.clean[name] for effects in all_effects], dim=1)
        data[f"total{end}"] = ("clip", "step", *rest), (clean - before).numpy()
    if all_effects[0].screened:
        screened = [effects.screened[name] for effects in all_effects]
        data[f"estimate{end}"] = ("clip", "step", *dims), table([estimates.estimate for estimates in screened])
        data[f"agreement{end}"] = ("step",), [estimates.agreement for estimates in screened]
    return data


def _placed(values: Tensor, cells: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """(b, intervention, ...) on the grid of coordinates, NaN where there is no intervention."""
    size = torch.Size(sizes).numel()
    grid = torch.full((len(values), size, *values.shape[2:]), torch.nan, dtype=values.dtype)
    grid[:, list(cells)] = values
    return grid.unflatten(1, list(sizes))
