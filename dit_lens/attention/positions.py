"""Rotary positions counted faster or slower along an axis, as an edit of rotated queries and keys.

Rotary turns each pair of features of a token by an angle θ · position, so a position counted λ times as fast is one
more rotation by (λ - 1) · θ · position; only differences of positions matter to attention. The angles are measured from
the model itself, in the call that is edited, by comparing queries before and after rotary: pairs keep their length, and
from one token to the next along an axis the angle grows by that axis's θ. If the measured angles are not linear in
frame, row and column, or pairs are not found, the edit is refused.

Example: θ = 0.5 along time. Frame 2 was turned by 1.0; with λ = 0.5 it is turned back by 0.5, as frame 1 was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dit_lens.arguments import integer, integers, number
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens

ON_GRID = ("wan", "skyreels", "cogvideox", "hunyuan", "hunyuan15", "cosmos", "allegro")
LENGTHS, ANGLES = 2e-2, 5e-2  # how far pairs may be from keeping their length, and angles from being linear


def rotary(
    lens: DiTLens,
    block: int,
    *,
    frame: float = 1.0,
    row: float = 1.0,
    column: float = 1.0,
    heads: Sequence[int] | None = None,
) -> list[tuple[str, HookFunction]]:
    """Positions of a block's self-attention, counted `frame`, `row` and `column` times as fast along these axes.

    The functions remember queries of one evaluation until they are rotated: make new ones for each intervention.

    Raises:
        KeyError: the model has no rotary; says why. ValueError: its positions are no indices of the grid (LTX: seconds
            and pixels; Mochi: learned); or (when run) angles that are not linear in them.
    """
    if lens.family.name not in ON_GRID:
        raise ValueError(
            f"got {lens.name} of family {lens.family.name} · expected rotary by frame, row and column, as in"
            f" {', '.join(ON_GRID)}"
        )
    factors = tuple(number(factor, name) for name, factor in (("frame", frame), ("row", row), ("column", column)))
    home = f"blocks.{integer(block, 'block', 0)}.attn.hook"
    names = [f"{home}_q", f"{home}_k", f"{home}_rot_q", f"{home}_rot_k"]
    lens.table.select(names, lens.name)
    chosen = None if heads is None else integers(heads, "heads")
    queries, keys = Turn(factors, chosen), Turn(factors, chosen)
    return list(zip(names, (queries.remember, keys.remember, queries, keys), strict=True))


@dataclass(eq=False)
class Turn:
    """A hook function at rotated queries or keys, which `remember` saw before rotary."""

    factors: tuple[float, ...]
    heads: Sequence[int] | None
    remembered: dict[str | None, Tensor] = field(default_factory=dict)

    def remember(self, x: Tensor, hook: Hook) -> None:
        """Keeps queries or keys before rotary."""
        self.remembered[hook.branch] = x

    def __call__(self, x: Tensor, hook: Hook) -> Tensor:
        """The activation with positions counted at another speed."""
        before = self.remembered.pop(hook.branch)
        pairs = pairs_of(before, x, hook.name)
        by_axis = angles(pairs.of(before), pairs.of(x), hook)
        more = torch.stack([(factor - 1) * along for factor, along in zip(self.factors, by_axis, strict=True)]).sum(0)
        turned = pairs.put(pairs.of(x) * torch.polar(torch.ones_like(more), more)[:, None], x)
        if self.heads is None:
            return turned
        new = x.clone()
        new[:, :, list(self.heads)] = turned[:, :, list(self.heads)]
        return new


@dataclass(frozen=True)
class Pairs:
    """Which features of a head are turned together."""

    first: tuple[int, ...]
    second: tuple[int, ...]

    def of(self, x: Float[Tensor, "b n k e"]) -> Complex[Tensor, "b n k p"]:
        """Pairs as complex numbers."""
        return torch.complex(x[..., list(self.first)].double(), x[..., list(self.second)].double())

    def put(self, pairs: Complex[Tensor, "b n k p"], x: Float[Tensor, "b n k e"]) -> Float[Tensor, "b n k e"]:
        """Features from pairs, in the dtype of x."""
        new = x.clone()
        new[..., list(self.first)], new[..., list(self.second)] = pairs.real.to(x), pairs.imag.to(x)
        return new


def layouts(width: int) -> Iterator[Pairs]:
    """The layouts in use: neighbours; the two halves of a head; the two halves of each of its thirds."""
    yield Pairs(tuple(range(0, width, 2)), tuple(range(1, width, 2)))
    for parts in (1, 3):
        size, rest = divmod(width, 2 * parts)
        if not rest:
            first = [part * 2 * size + i for part in range(parts) for i in range(size)]
            yield Pairs(tuple(first), tuple(i + size for i in first))


def pairs_of(before: Float[Tensor, "b n k e"], after: Float[Tensor, "b n k e"], name: str) -> Pairs:
    """The layout whose pairs keep their lengths under rotary.

    Raises:
        ValueError: none does.
    """
    if before.shape == after.shape and not before.shape[-1] % 2:
        for pairs in layouts(before.shape[-1]):
            lengths = pairs.of(before).abs()
            if float((pairs.of(after).abs() - lengths).abs().max() / lengths.max()) < LENGTHS:
                return pairs
    raise ValueError(
        f"got {name}, no rotation of pairs of what it was before rotary · expected one · without other edits"
    )


def angles(
    before: Complex[Tensor, "b n k p"], after: Complex[Tensor, "b n k p"], hook: Hook
) -> tuple[Float[Tensor, "n p"], ...]:
    """The angle by which each pair was turned for its frame, row and column.

    Raises:
        ValueError: the angles are not linear in the three.
    """
    grid = hook.grid
    turned = (after * before.conj()).sum((0, 2)).unflatten(0, (grid.frames, grid.rows, grid.columns))
    turned = turned / turned.abs()
    by_axis = []
    for axis, size in enumerate((grid.frames, grid.rows, grid.columns)):
        steps = turned.narrow(axis, 1, size - 1) * turned.narrow(axis, 0, size - 1).conj()
        speed = steps.sum((0, 1, 2)).angle()
        places = torch.arange(size, device=speed.device).view([-1 if i == axis else 1 for i in range(3)])
        by_axis.append((places.expand(grid.frames, grid.rows, grid.columns)[..., None] * speed).flatten(0, 2))
    total = torch.stack(by_axis).sum(0)
    rest = turned.flatten(0, 2) * torch.polar(torch.ones_like(total), -total)
    off = float((rest - rest[:1]).abs().max())
    if not off < ANGLES:
        raise ValueError(
            f"got {hook.name} turned by angles that are {off:.1e} from linear · expected positions of the grid"
        )
    return tuple(by_axis)
