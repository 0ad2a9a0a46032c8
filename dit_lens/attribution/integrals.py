"""Integrated gradients along a straight line, by captum: settings, result, and the check of convergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from captum.attr import IntegratedGradients
from captum.attr._utils.approximation_methods import approximation_parameters
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.arguments import integer
from dit_lens.axes import TokenGrid
from dit_lens.choices import check_choice

Function = Callable[[Tensor], Tensor]
Side = Literal["corrupted", "clean"]
SIDES: tuple[Side, ...] = get_args(Side)
RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")  # of captum
LIMIT = 0.05


@dataclass(frozen=True, eq=False)
class Integral:
    """The line from a baseline to the clean run's value, and how the integral along it is taken.

    Attributes:
        steps: values on the line at which a gradient is taken.
        rule: captum's name of the quadrature.
        around: the run that gives everything else: what enters the block, and what does not pass the point.
        baseline: where the line begins, of the activation's shape or broadcasting to it; the corrupted run's value
            unless given.
        unit: the delta is relative to at least this change of the metric, such as a probe's `spread`: for a
            pair that hardly differs it would be a ratio of rounding errors.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", integer(self.steps, "steps", 1))
        object.__setattr__(self, "batch_size", integer(self.batch_size, "batch_size", 1))
        check_choice(self.rule, RULES, "rule")
        check_choice(self.around, SIDES, "run")


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
        sizes, present, requested = {}, self.axes, axes.split()
        if "n" in present.split() and "n" not in requested:
            present = " ".join("(f h w)" if axis == "n" else axis for axis in present.split())
            sizes = {"f": self.grid.frames, "h": self.grid.rows, "w": self.grid.columns}
        available = present.replace("(", "").replace(")", "").split()
        if missing := [axis for axis in requested if axis not in available]:
            raise ValueError(f"got axis {missing[0]} · expected of {' '.join(available)}, the axes of the activation")
        return reduce(self.values, f"{present} -> {axes}", "sum", **sizes)


def integrate(
    function: Function, start: Float[Tensor, "b *rest"], end: Float[Tensor, "b *rest"], integral: Integral
) -> tuple[Float[Tensor, "b *rest"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Integrated gradients (Sundararajan et al. 2017): values, change and delta, as an `Attribution` has them.

    (end - start) · ∫ gradient(start + α (end - start)) dα over α from 0 to 1. The values of a clip add up to
    function(end) - function(start) but for the quadrature's error.

    Args:
        function: rows -> (rows,), for any number of rows, concatenated copies of the batch.

    Raises:
        ValueError: the delta of a clip is above the line's limit.
    """
    engine = IntegratedGradients(function, multiply_by_inputs=False)
    size = max(integral.batch_size, len(start))
    slope = engine.attribute(end, start, n_steps=integral.steps, method=integral.rule, internal_batch_size=size)
    values = (end - start) * slope.detach() / _sum_of_weights(integral)
    with torch.no_grad():
        change = function(end) - function(start)
    delta = convergence_delta(values, change, integral.unit)
    return _checked(values, delta, integral), change, delta


def convergence_delta(values: Tensor, change: Float[Tensor, " b"], unit: float) -> Float[Tensor, " b"]:
    """|sum of values - change| / max(|change|, unit); 0 where nothing changes and nothing is attributed."""
    left = (values.flatten(1).double().sum(1) - change).abs()
    scale = change.double().abs().clamp_min(unit)
    return torch.where(left == 0, 0.0, left / scale).to(change.dtype)


def _sum_of_weights(integral: Integral) -> float:
    """1 but for captum's rounding of the quadrature's weights to float32, which a model in float64 would see."""
    weights, _ = approximation_parameters(integral.rule)
    return float(torch.tensor(weights(integral.steps), dtype=torch.float32).double().sum())


def _checked(values: Tensor, delta: Float[Tensor, " b"], integral: Integral) -> Tensor:
    worst = float(delta.max())
    if worst > integral.limit or math.isnan(worst):
        raise ValueError(
            f"got a convergence delta of {worst:.3g} at {integral.steps} steps · expected at most {integral.limit:g} of"
            f" max(|change|, {integral.unit:g}) · take more steps, or a unit where clips hardly differ"
        )
    return values
