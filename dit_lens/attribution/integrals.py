"""Integrated gradients along a straight line, by captum: what is put in, what comes out, and when it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from captum.attr import IntegratedGradients
from captum.attr._utils.approximation_methods import approximation_parameters
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid

Function = Callable[[Tensor], Tensor]
Side = Literal["corrupted", "clean"]
LIMIT = 0.05


@dataclass(frozen=True, eq=False)
class Line:
    """The line from a baseline to the clean run's value, and how the integral along it is taken.

    Attributes:
        steps: values on the line at which a gradient is taken.
        rule: captum's name of the quadrature.
        around: the run that gives everything else: what enters the block, and what does not pass the point.
        baseline: where the line begins, of the activation's shape or broadcasting to it; the corrupted run's value
            unless given.
        unit: the delta is told relative to no less than this change of the metric, such as a probe's `spread`: of a
            pair that hardly differs it would be a ratio of rounding.
        limit: largest convergence delta.
        batch_size: clips times steps to a forward.
    """

    steps: int = 32
    rule: str = "gausslegendre"
    around: Side = "corrupted"
    baseline: Tensor | float | None = None
    unit: float = 0.0
    limit: float = LIMIT
    batch_size: int = 256


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each value of an activation adds to a change of a metric.

    Attributes:
        values: of the activation's shape; exactly 0 where both ends of the line agree.
        change: metric at the end of the line less metric at its beginning.
        delta: |sum of values - change| / max(|change|, unit): how far the sum is from complete.
        axes: letters of the axes of `values`.
        grid: how its video tokens lie on the clip.
    """

    values: Float[Tensor, "b *rest"]
    change: Float[Tensor, " b"]
    delta: Float[Tensor, " b"]
    axes: str
    grid: TokenGrid

    def over(self, axes: str) -> Tensor:
        """Sums over all axes but these: "b k" by head, "b k n" by head and token, "b f h w" on the grid.

        Raises:
            ValueError: an axis that the activation does not have.
        """
        sizes, own, wanted = {}, self.axes, axes.split()
        if "n" in own.split() and "n" not in wanted:
            own = " ".join("(f h w)" if axis == "n" else axis for axis in own.split())
            sizes = {"f": self.grid.frames, "h": self.grid.rows, "w": self.grid.columns}
        known = own.replace("(", "").replace(")", "").split()
        if missing := [axis for axis in wanted if axis not in known]:
            raise ValueError(f"got axis {missing[0]} · expected of {' '.join(known)}, the axes of the activation")
        return reduce(self.values, f"{own} -> {axes}", "sum", **sizes)


def integrate(
    function: Function, start: Float[Tensor, "b *rest"], end: Float[Tensor, "b *rest"], line: Line
) -> tuple[Float[Tensor, "b *rest"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Integrated gradients (Sundararajan et al. 2017): values, change and delta, as an `Attribution` has them.

    (end - start) · ∫ gradient(start + α (end - start)) dα over α from 0 to 1. The values of a clip add up to
    function(end) - function(start) but for the quadrature's error.

    Args:
        function: rows -> (rows,), for any number of rows that lie batch behind batch.

    Raises:
        ValueError: the delta of a clip is above the line's limit.
    """
    engine = IntegratedGradients(function, multiply_by_inputs=False)
    size = max(line.batch_size, len(start))
    slope = engine.attribute(end, start, n_steps=line.steps, method=line.rule, internal_batch_size=size)
    values = (end - start) * slope.detach() / _sum_of_weights(line)
    with torch.no_grad():
        change = function(end) - function(start)
    delta = convergence_delta(values, change, line.unit)
    return _checked(values, delta, line), change, delta


def convergence_delta(values: Tensor, change: Float[Tensor, " b"], unit: float) -> Float[Tensor, " b"]:
    """|sum of values - change| / max(|change|, unit); 0 where nothing changes and nothing is attributed."""
    left = (values.flatten(1).double().sum(1) - change).abs()
    scale = change.double().abs().clamp_min(unit)
    return torch.where(left == 0, 0.0, left / scale).to(change.dtype)


def _sum_of_weights(line: Line) -> float:
    """1 but for captum's rounding of the quadrature's weights to float32, which a model in float64 would see."""
    weights, _ = approximation_parameters(line.rule)
    return float(torch.tensor(weights(line.steps), dtype=torch.float32).double().sum())


def _checked(values: Tensor, delta: Float[Tensor, " b"], line: Line) -> Tensor:
    worst = float(delta.max())
    if worst > line.limit or math.isnan(worst):
        raise ValueError(
            f"got a convergence delta of {worst:.3g} at {line.steps} steps · expected at most {line.limit:g} of"
            f" max(|change|, {line.unit:g}) · take more steps, or a unit where clips hardly differ"
        )
    return values
