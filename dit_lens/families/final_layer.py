"""The layer after the last block, as in every family: norms, shift and scale by time, a projection, unpatchifying.

It adds the points `final.mod.hook_shift` and `_scale`, `final.hook_slope` and `_offset`, and `Table.final`: all that is
needed to split a velocity into the contributions of the writes to the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dit_lens.families.parts import read_only, upcast
from dit_lens.hook_points import Final, HookPoint, Site, Table

Modulation = tuple[Tensor, Tensor]


def with_final(table: Table, final: Final, modulation: Sequence[Site], read: Callable[..., Modulation]) -> Table:
    """The table with the hook points of the final layer added.

    Args:
        modulation: the sites that shift and scale come from, in forward order.
        read: values at these sites -> shift and scale, (b, d), or (b, n, d) by token.
    """
    entered = Site(final.norms[0], "input")
    # Inside the norm's parent module, the modulation is computed before the norm is called; elsewhere after it.
    inside = modulation[-1].path.rpartition(".")[0] == entered.path.rpartition(".")[0] != ""
    sites = _placed(table.sites, (*modulation, entered) if inside else (entered, *modulation))
    points = list(table.points.values())
    place = sites.index(modulation[-1])
    first = next(i for i, point in enumerate(points) if sites.index(point.sites[-1]) > place)
    points[first:first] = [
        read_only("final.mod.hook_shift", "b d", modulation, lambda *values: read(*values)[0]),
        read_only("final.mod.hook_scale", "b d", modulation, lambda *values: read(*values)[1]),
    ]
    points += _output_as_velocity(table.points["hook_velocity"])
    named = {point.name: point for point in points}
    return replace(table, sites=sites, points=named, closing=_closing(table, entered), final=final)


def by_table(table: Table, rows: Tensor, token: str, patch: Sequence[int]) -> Table:
    """The table with a final layer whose shift and scale are the two rows (2, d) plus the time embedding.

    Args:
        token, patch: see `Final`.
    """
    time = table.points["hook_time_embed"]

    def read(*values: Any) -> Modulation:
        (shift, scale), embedding = rows, time.read(*values)
        return shift + embedding, scale + embedding

    return with_final(table, final(token, patch, ("norm_out",)), time.sites, read)


def final(token: str, patch: Sequence[int], norms: tuple[str, ...] = ("norm_out.norm",)) -> Final:
    """The final layer with the module names of all families; see `Final`."""
    p, q, r = patch
    return Final(norms, "proj_out", token, (p, q, r))


def _closing(table: Table, entered: Site) -> HookPoint:
    """The law that the last block's stream is the input of the final norm, at video tokens (text may precede them)."""
    last = table.points[f"blocks.{len(table.blocks) - 1}.hook_resid_post"]

    # Compared in the dtype of the norm's input: Wan casts to float32 in every dtype.
    def both(*values: Any) -> Tensor:
        stream = last.read(*values[:-1])
        norm_input = values[-1][:, -stream.shape[1] :].to(stream.device)
        return torch.stack([upcast(stream.to(norm_input.dtype)), upcast(norm_input)])

    return read_only(f"{last.name} = input of {entered.path}", "", (*last.sites, entered), both)


def _placed(sites: tuple[Site, ...], new: Sequence[Site]) -> tuple[Site, ...]:
    """The sites with new ones inserted before the last site, the model's output."""
    return (*sites[:-1], *(site for site in new if site not in sites), sites[-1])


def _output_as_velocity(velocity: HookPoint) -> list[HookPoint]:
    """`final.hook_slope` and `_offset`: velocity = offset + slope * the transformer's output, element by element.

    The velocity is affine in the output, so its values at outputs 0 and 1 give both. CogVideoX has (see `levels`)
    velocity = (s - a) x + (a + s) output. With a = 0.6, s = 0.8 and x = 2: at output 0 the velocity is 0.4, the offset;
    at output 1 it is 1.8; so the slope is 1.4.
    """

    def filled(number: float, *values: Any) -> Tensor:
        *before, out = values
        return velocity.read(*before, tuple(torch.full_like(x, number) for x in out))

    def slope(*values: Any) -> Tensor:
        return filled(1.0, *values) - filled(0.0, *values)

    return [
        read_only("final.hook_slope", velocity.axes, velocity.sites, slope),
        read_only("final.hook_offset", velocity.axes, velocity.sites, lambda *values: filled(0.0, *values)),
    ]
