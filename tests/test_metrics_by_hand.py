"""Every metric's value on numbers small enough for paper; another sign, place or mean would be noticed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_lens.metrics import (
    CleanDistance,
    Metric,
    Readout,
    Run,
    VelocityError,
    VelocityProjection,
    VelocityRemainder,
)


def clips(*values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """One row of numbers for each clip, as latents of one frame, row and column."""
    return torch.tensor(values, dtype=dtype)[:, :, None, None, None]


def runs(clean: Tensor, corrupted: Tensor) -> tuple[Run, Run]:
    """Two runs; their x0 is far from anything that a test reads unless it says so."""
    return Run(clean, {}), Run(corrupted, {})


# Clip 0: u = (4, 5) - (1, 1) = (3, 4), |u| = 5, and v moves by (2, 3) - (1, 1) = (1, 2).
# Clip 1: u = (0, 2) - (0, 4) = (0, -2), |u| = 2, and v moves by (3, 3) - (0, 4) = (3, -1).
CLEAN, CORRUPTED, VELOCITY = clips([4, 5], [0, 2]), clips([1, 1], [0, 4]), clips([2, 3], [3, 3])


def test_projection() -> None:
    project = VelocityProjection().bind(*runs(CLEAN, CORRUPTED))
    # (1 * 3 + 2 * 4) / 5 = 2.2 and (3 * 0 + -1 * -2) / 2 = 1
    torch.testing.assert_close(project(VELOCITY, {}), torch.tensor([2.2, 1.0]))
    torch.testing.assert_close(project(CLEAN, {}), torch.tensor([5.0, 2.0]))
    assert not project(CORRUPTED, {}).any()


def test_remainder() -> None:
    remain = VelocityRemainder().bind(*runs(CLEAN, CORRUPTED))
    # (1, 2) - 2.2 (.6, .8) = (-.32, .24), of length .4; (3, -1) - 1 (0, -1) = (3, 0), of length 3
    torch.testing.assert_close(remain(VELOCITY, {}), torch.tensor([0.4, 3.0]))
    torch.testing.assert_close(remain(CLEAN, {}), torch.zeros(2), atol=1e-6, rtol=0)
    assert not remain(CORRUPTED, {}).any()


def test_between_equal_runs_nothing_is_projected_and_all_remains() -> None:
    equal = runs(CORRUPTED, CORRUPTED)
    # (1, 2) has length sqrt(5), (3, -1) sqrt(10)
    assert not VelocityProjection().bind(*equal)(VELOCITY, {}).any()
    torch.testing.assert_close(VelocityRemainder().bind(*equal)(VELOCITY, {}), torch.tensor([5.0, 10.0]).sqrt())


def test_velocity_error() -> None:
    # (1, 2, 3) - (3, 2, 1) = (-2, 0, 2): (4 + 0 + 4) / 3; (0, 0, 1) - (0, 3, 1) = (0, -3, 0): 9 / 3
    error = VelocityError(clips([3, 2, 1], [0, 3, 1])).bind(*runs(CLEAN, CORRUPTED))
    torch.testing.assert_close(error(clips([1, 2, 3], [0, 0, 1]), {}), torch.tensor([8 / 3, 3.0]))


def test_clean_distance() -> None:
    clean = Run(None, {"hook_x0": clips([1, 2], [0, 1])})
    corrupted = Run(None, {"hook_x0": clips([100, 100], [100, 100])})
    # (4, 6) - (1, 2) = (3, 4), of length 5; (0, -1) - (0, 1) = (0, -2), of length 2
    distance = CleanDistance().bind(clean, corrupted)
    torch.testing.assert_close(distance(None, {"hook_x0": clips([4, 6], [0, -1])}), torch.tensor([5.0, 2.0]))


def test_a_readout_is_its_function() -> None:
    readout = Readout(lambda velocity, cache: velocity[:, 0, 0, 0, 0] + cache["there"], ("there",))
    for read in (readout, readout.bind(*runs(CLEAN, CORRUPTED))):
        # 2 + 10 and 3 + 20
        assert read(VELOCITY, {"there": torch.tensor([10.0, 20.0])}).tolist() == [12.0, 23.0]


# Two frames, two rows and three columns, counted up: 100 frame + 10 row + column.
PLACES = (100 * torch.arange(2)[:, None, None] + 10 * torch.arange(2)[:, None] + torch.arange(3)).float()[None, None]


@pytest.mark.parametrize(
    ("region", "by_hand"),
    [
        ((slice(None), slice(None), slice(None)), [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]),
        ((1, slice(None), slice(None)), [100, 101, 102, 110, 111, 112]),
        ((0, 1, slice(1, None)), [11, 12]),
        ((slice(None), 0, 2), [2, 102]),
        ((-1, -1, -1), [112]),
        (([0, 1], 0, 0), [0, 100]),
    ],
)
def test_a_region_is_frame_row_and_column(region: tuple, by_hand: list[float]) -> None:
    """Of each metric, on a velocity whose places all differ; against zeros only one region gives these numbers."""
    zeros, values = torch.zeros_like(PLACES), torch.tensor(by_hand, dtype=torch.float32)
    error = VelocityError(zeros, region).bind(*runs(zeros, zeros))(PLACES, {})
    torch.testing.assert_close(error, values.square().mean()[None])
    length = values.norm()[None]
    torch.testing.assert_close(VelocityProjection(region).bind(*runs(PLACES, zeros))(PLACES, {}), length)
    torch.testing.assert_close(VelocityRemainder(region).bind(*runs(zeros, zeros))(PLACES, {}), length)
    ends = Run(None, {"hook_x0": zeros}), Run(None, {"hook_x0": PLACES})
    torch.testing.assert_close(CleanDistance(region).bind(*ends)(None, {"hook_x0": PLACES}), length)


@pytest.mark.parametrize("metric", [VelocityProjection(), VelocityRemainder(), VelocityError(clips([0.0]))])
def test_those_of_the_velocity_read_no_point(metric: Metric) -> None:
    assert metric.points == () and isinstance(metric, Metric)
    assert CleanDistance().points == ("hook_x0",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_worked_out_in_single(dtype: torch.dtype) -> None:
    # 300² = 90000 is beyond the largest float16
    x, zero = clips([300.0], dtype=dtype), clips([0.0], dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for metric, by_hand in (
        (VelocityError(zero), 90000.0),
        (VelocityProjection(), 300.0),
        (VelocityRemainder(), 0.0),
    ):
        value = metric.bind(*runs(x, zero))(x, {})
        assert value.dtype == wide and value.item() == by_hand
