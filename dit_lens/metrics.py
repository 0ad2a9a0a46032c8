"""Metrics: differentiable functions (velocity, cache) -> (b,) on which the effect of an edit is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.arguments import places, triple
from dit_lens.axes import Region

MetricFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """The result of one evaluation: velocity (None if it stopped before the end), and the requested activations."""

    velocity: Float[Tensor, "b c f h w"] | None
    cache: Mapping[str, Tensor]


@runtime_checkable
class Metric(Protocol):
    """A measure of a run.

    `points` are the hook points it reads; without any it reads the velocity, and the model runs to its end. `bind`
    returns the function for one pair of runs.
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
    """A metric from any function (velocity, cache) -> (b,) or (b, ...); `points` are the hook points that it reads."""

    function: MetricFunction
    points: tuple[str, ...] = ()

    def __call__(self, velocity: Tensor | None, cache: Mapping[str, Tensor]) -> Float[Tensor, "b *rest"]:
        """The function's value.

        Raises:
            TypeError: the value is no tensor with one entry per clip.
        """
        value = self.function(velocity, cache)
        if not isinstance(value, Tensor) or not value.ndim:
            got = "a single number" if isinstance(value, Tensor | float | int) else f"a {type(value).__name__}"
            raise TypeError(
                f"got {got} from a metric · expected a tensor of a number for each clip, (b,) · .flatten(1).mean(1) in"
                " the place of .mean()"
            )
        return value

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The function itself."""
        return self.function


def bind(metric: Metric, clean: Run, corrupted: Run) -> MetricFunction:
    """The metric for a pair of runs, with checks of the values it returns.

    Raises:
        TypeError: (when called) the value is no tensor.
        ValueError: (when called) the value has no entry, or row of entries, for each clip.
    """
    function = metric.bind(clean, corrupted)

    def measured(velocity: Tensor | None, cache: Mapping[str, Tensor]) -> Float[Tensor, "b *rest"]:
        value: Any = function(velocity, cache)
        clips = len(velocity if velocity is not None else next(iter(cache.values())))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"got a {type(value).__name__} from a metric · expected a tensor, a value for each clip (b,)"
            )
        if not value.ndim or len(value) != clips:
            raise ValueError(
                f"got shape {tuple(value.shape)} from a metric of {clips} clips · expected a value for each clip, (b,),"
                " or a row of values, (b, ...) · reduce over all axes but the first"
            )
        return value if value.is_floating_point() else value.float()  # truth values and counts have differences too

    return measured


def differentiable(value: Tensor) -> Tensor:
    """The value of a metric, checked to have a gradient.

    Raises:
        ValueError: it has no gradient. RuntimeError: inside torch.inference_mode, where no tensor has one.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "got gradients to compute inside torch.inference_mode, where there are none · expected torch.no_grad or"
            " nothing around a gradient method · leave inference_mode; a sweep, which needs no gradient, works in it"
        )
    if not value.requires_grad:
        raise ValueError(
            "got a metric without a gradient · expected one that is worked out by torch from what it reads, without"
            " detach, item, argmax and the like · use a sweep, which needs no gradient"
        )
    return value


WHOLE: Region = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class VelocityProjection:
    """<v - v_corrupted, u> / |u| with u = v_clean - v_corrupted: 0 at the corrupted run, |u| at the clean one.

    Attributes:
        region: the latent frames, rows and columns that count; all by default.
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
    """Length of the part of v - v_corrupted orthogonal to u = v_clean - v_corrupted: the side effects of a change.

    With v_corrupted = (0, 0), v_clean = (2, 0) and v = (1, 3), the projection is 1 and the remainder is 3.

    Attributes:
        region: as in `VelocityProjection`.
    """

    region: Region = WHOLE
    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The remainder for this pair; the length of the whole change where the two runs are the same."""
        start, unit = _start_and_unit(clean, corrupted, self.region)

        def remain(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            change = _flat(velocity, self.region) - start
            return (change - (change * unit).sum(1, keepdim=True) * unit).norm(dim=1)

        return remain


@dataclass(frozen=True, eq=False)
class VelocityError:
    """Mean squared error of the velocity against the true one, noise - data.

    Attributes:
        truth: (b, c, f, h, w), for the clips of the run.
        region: as in `VelocityProjection`.
    """

    truth: Float[Tensor, "b c f h w"]
    region: Region = WHOLE
    points: tuple[str, ...] = ()

    def bind(self, clean: Run, corrupted: Run) -> MetricFunction:
        """The error, which does not depend on the pair.

        Raises:
            ValueError: (when called) the truth is of another shape than the velocity.
        """

        def error(velocity: Tensor, cache: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
            if velocity.shape != self.truth.shape:
                raise ValueError(
                    f"got a truth of shape {tuple(self.truth.shape)} for velocities of shape {tuple(velocity.shape)}"
                    " · expected equal shapes, noise - data of the clips of the run"
                )
            return (_flat(velocity, self.region) - _flat(self.truth.to(velocity.device), self.region)).square().mean(1)

        return error


@dataclass(frozen=True)
class CleanDistance:
    """|x0 - x0_clean|: the distance of the clean estimate x - sigma v from that of the clean run.

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
    for axis, (part, what) in enumerate(
        zip(triple(region, "region"), ("frame", "row", "column"), strict=True), start=2
    ):
        if not isinstance(part, slice) or part != slice(None):
            chosen = places(part, x.shape[axis], what)
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=x.device))
    return x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)


def _start_and_unit(clean: Run, corrupted: Run, region: Region) -> tuple[Float[Tensor, "b v"], Float[Tensor, "b v"]]:
    assert clean.velocity is not None and corrupted.velocity is not None  # a metric without points runs to the end
    start = _flat(corrupted.velocity, region)
    difference = _flat(clean.velocity, region) - start
    return start, difference / difference.norm(dim=1, keepdim=True).clamp_min(torch.finfo(difference.dtype).tiny)
