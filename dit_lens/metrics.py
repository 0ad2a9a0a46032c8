"""Metrics: what an effect is measured on, (velocity, cache) -> (b,), differentiable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

MetricFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """One whole evaluation: velocity and the activations that were asked for."""

    velocity: Float[Tensor, "b c f h w"]
    cache: Mapping[str, Tensor]


@runtime_checkable
class Metric(Protocol):
    """A measure of a run.

    `points` are the hook points it reads; without any it reads the velocity, and the model is run to its end. `bind`
    gives the function for one pair of runs.
    """

    @property
    def points(self) -> tuple[str, ...]:
        """Hook points that the function reads in the cache."""
        ...

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The metric for a pair of runs."""
        ...


@dataclass(frozen=True)
class Readout:
    """Any function (velocity, cache) -> (b,) as a metric; `points` are what it reads of the cache."""

    function: MetricFunction
    points: tuple[str, ...] = ()

    def __call__(self, velocity: Tensor | None, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
        """The function's value."""
        return self.function(velocity, cache)

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The function itself."""
        return self.function


@dataclass(frozen=True)
class VelocityProjection:
    """<v - v_corrupted, u> / |u| with u = v_clean - v_corrupted: 0 at the corrupted run, |u| at the clean one."""

    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The projection for this pair; 0 where the two runs are the same."""
        start = corrupted.velocity.float()
        difference = (clean.velocity.float() - start).flatten(1)
        unit = difference / difference.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

        def project(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            return ((velocity.float() - start).flatten(1) * unit).sum(1)

        return project
