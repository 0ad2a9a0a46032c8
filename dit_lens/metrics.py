"""Metrics: what an effect is measured on, (velocity, cache) -> (b,), differentiable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import Part

MetricFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation: its velocity, None where it was stopped before, and the activations that were asked for."""

    velocity: Float[Tensor, "b c f h w"] | None
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
    """Any function (velocity, cache) -> (b,), or (b, ...), as a metric; `points` are what it reads of the cache."""

    function: MetricFunction
    points: tuple[str, ...] = ()

    def __call__(self, velocity: Tensor | None, cache: Mapping[str, Tensor]) -> Float[Tensor, "b *rest"]:
        """The function's value."""
        return self.function(velocity, cache)

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The function itself."""
        return self.function


Region = tuple[Part, Part, Part]
WHOLE: Region = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class VelocityProjection:
    """<v - v_corrupted, u> / |u| with u = v_clean - v_corrupted: 0 at the corrupted run, |u| at the clean one.

    Attributes:
        region: latent frames, rows and columns that are looked at; all unless given.
    """

    region: Region = WHOLE
    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The projection for this pair; 0 where the two runs are the same."""
        start, unit = _start_and_unit(clean, corrupted, self.region)

        def project(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            return ((_flat(velocity, self.region) - start) * unit).sum(1)

        return project


@dataclass(frozen=True)
class VelocityRemainder:
    """|v - v_corrupted| across u = v_clean - v_corrupted: what a change does beside making the run like the clean one.

    Attributes:
        region: as in `VelocityProjection`.
    """

    region: Region = WHOLE
    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The length of the remainder for this pair; that of the whole change where the two runs are the same."""
        start, unit = _start_and_unit(clean, corrupted, self.region)

        def remain(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            change = _flat(velocity, self.region) - start
            return (change - (change * unit).sum(1, keepdim=True) * unit).norm(dim=1)

        return remain


@dataclass(frozen=True, eq=False)
class VelocityError:
    """Mean squared error of the velocity against what it should be, noise - data.

    Attributes:
        truth: (b, c, f, h, w), for the clips of the run.
        region: as in `VelocityProjection`.
    """

    truth: Float[Tensor, "b c f h w"]
    region: Region = WHOLE
    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The error; no pair matters."""
        truth = _flat(self.truth, self.region)
        return lambda velocity, cache: (_flat(velocity, self.region) - truth.to(velocity.device)).square().mean(1)


@dataclass(frozen=True)
class CleanDistance:
    """|x0 - x0_clean|: how far the clean estimate x - sigma v is from that of the clean run.

    Attributes:
        region: as in `VelocityProjection`.
    """

    region: Region = WHOLE
    points: tuple[str, ...] = ("hook_x0",)

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The distance to this pair's clean run."""
        goal = _flat(clean.cache["hook_x0"], self.region)
        return lambda velocity, cache: (_flat(cache["hook_x0"], self.region) - goal).norm(dim=1)


def _flat(x: Float[Tensor, "b c f h w"], region: Region) -> Float[Tensor, "b v"]:
    """The values of a region in float32 or better."""
    frame, row, column = (slice(part, part + 1 or None) if isinstance(part, int) else part for part in region)
    return x[:, :, frame, row, column].to(torch.promote_types(x.dtype, torch.float32)).flatten(1)


def _start_and_unit(clean: Run, corrupted: Run, region: Region) -> tuple[Float[Tensor, "b v"], Float[Tensor, "b v"]]:
    assert clean.velocity is not None and corrupted.velocity is not None  # a metric without points runs to the end
    start = _flat(corrupted.velocity, region)
    difference = _flat(clean.velocity, region) - start
    return start, difference / difference.norm(dim=1, keepdim=True).clamp_min(torch.finfo(difference.dtype).tiny)
