"""What follows the last block, the same in every family: norms, a shift and scale by time, a linear layer, patches.

It becomes the points `final.mod.hook_shift` and `_scale`, `final.hook_slope` and `_offset`, and `Table.final`: what it
takes to split a velocity into what each write adds to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dit_lens.families.parts import read_only
from dit_lens.hook_points import Final, HookPoint, Site, Table

Modulation = tuple[Tensor, Tensor]


def with_final(table: Table, final: Final, told: Sequence[Site], read: Callable[..., Modulation]) -> Table:
    """A table whose last layer is stated.

    Args:
        told: where shift and scale come from, in forward order.
        read: values there -> shift and scale, (b, d), or (b, n, d) by token.
    """
    sites = _placed(table.sites, told)
    points = list(table.points.values())
    behind = sites.index(told[-1])
    first = next(i for i, point in enumerate(points) if sites.index(point.sites[-1]) > behind)
    points[first:first] = [
        read_only("final.mod.hook_shift", "b d", told, lambda *values: read(*values)[0]),
        read_only("final.mod.hook_scale", "b d", told, lambda *values: read(*values)[1]),
    ]
    points += _output_as_velocity(table.points["hook_velocity"])
    return replace(table, sites=sites, points={point.name: point for point in points}, final=final)


def by_table(table: Table, rows: Tensor, token: str, patch: Sequence[int]) -> Table:
    """A table whose last layer is shifted and scaled by two rows (2, d), each plus the embedding of time.

    Args:
        token, patch: see `Final`.
    """
    time = table.points["hook_time_embed"]

    def read(*values: Any) -> Modulation:
        (shift, scale), told = rows, time.read(*values)
        return shift + told, scale + told

    return with_final(table, final(token, patch, ("norm_out",)), time.sites, read)


def final(token: str, patch: Sequence[int], norms: tuple[str, ...] = ("norm_out.norm",)) -> Final:
    """The last layer as all families call it; see `Final`."""
    p, q, r = patch
    return Final(norms, "proj_out", token, (p, q, r))


def _placed(sites: tuple[Site, ...], new: Sequence[Site]) -> tuple[Site, ...]:
    """The sites with new ones before the last, which is the model's output."""
    return (*sites[:-1], *(site for site in new if site not in sites), sites[-1])


def _output_as_velocity(velocity: HookPoint) -> list[HookPoint]:
    """`final.hook_slope` and `_offset`: velocity = offset + slope * the transformer's output, element by element."""

    def filled(number: float, *values: Any) -> Tensor:
        *known, out = values
        return velocity.read(*known, tuple(torch.full_like(x, number) for x in out))

    def slope(*values: Any) -> Tensor:
        return filled(1.0, *values) - filled(0.0, *values)

    return [
        read_only("final.hook_slope", velocity.axes, velocity.sites, slope),
        read_only("final.hook_offset", velocity.axes, velocity.sites, lambda *values: filled(0.0, *values)),
    ]
