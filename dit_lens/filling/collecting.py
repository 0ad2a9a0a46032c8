"""Reducing activations in the hook, several ways at once from one forward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from dit_lens.clips import ROLES
from dit_lens.filling.recipe import Take
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.reductions import Named, Reduction
from dit_lens.store import Place
from dit_lens.trajectory import Trajectory


class Collector:
    """A hook function that keeps what is asked of each activation and lets it pass as it is.

    Attributes:
        wanted: by hook point, the variables it feeds: name, block (None outside the blocks) and reduction.
        blocks: of every variable that has them, in order.
        points: hook points in forward order.
        taken: what was kept, by variable and position of the block among `blocks`.

    Raises:
        KeyError: unknown hook point.
    """

    def __init__(self, lens: DiTLens, takes: Sequence[Take]):
        self.wanted: dict[str, dict[str, tuple[int | None, Reduction]]] = {}
        for take in takes:
            for point in lens.table.select(take.points, lens.name):
                short, block = _shortened(point.name)
                own = {f"{short}.{reduction}": (block, reduction) for reduction in take.reductions}
                self.wanted.setdefault(point.name, {}).update(own)
        self.points = [point.name for point in lens.table.select(list(self.wanted), lens.name)]
        self.blocks: dict[str, list[int]] = {}
        for point in self.points:
            for variable, (block, _) in self.wanted[point].items():
                if block is not None:
                    self.blocks.setdefault(variable, []).append(block)
        self.taken: dict[Place, Named] = {}

    def __call__(self, x: Tensor, hook: Hook) -> None:
        """Reduces an activation."""
        for variable, (block, reduction) in self.wanted[hook.name].items():
            index = None if block is None else self.blocks[variable].index(block)
            self.taken[variable, index] = reduction(x, hook)

    def evaluate(self, lens: DiTLens, trajectory: Trajectory, step: int) -> dict[Place, Named]:
        """What is kept of one fresh evaluation; nothing is run behind the last hook point."""
        self.taken = {}
        with lens.hooks([(self.points, self)]):
            lens.run_with_cache(trajectory, step, names_filter=(), stop_at=self.points[-1])
        return self.taken


def _shortened(name: str) -> tuple[str, int | None]:
    """("attn.z", 3) of "blocks.3.attn.hook_z"; the block is None of a point outside the blocks."""
    block = re.match(r"blocks\.(\d+)\.", name)
    short = name[block.end() if block else 0 :].replace("hook_", "")
    return short, int(block[1]) if block else None


def settle(taken: Mapping[Place, Named], dtype: str, clips: Sequence[str]) -> dict[Place, Tensor]:
    """What is written: of the dtype asked for, on the CPU, the four clips of a quadruplet side by side.

    Args:
        dtype: see `Recipe`.
        clips: ids, role by role.

    Raises:
        FloatingPointError: a value is not finite; names the variable and the clips.
        OverflowError: a value is too large for the dtype.
    """
    _check_finite({place: named.values for place, named in taken.items()}, clips)
    values = {place: named.values for place, named in taken.items()}
    if dtype != "as_made":
        values = {place: value.to(getattr(torch, dtype)) for place, value in values.items()}
        if too_large := _unsound(values).nonzero()[:, 0].tolist():
            (name, _), named = list(taken.items())[too_large[0]]
            raise OverflowError(
                f"got {name} of up to {float(named.values.abs().max()):.3g} · expected at most"
                f" {torch.finfo(getattr(torch, dtype)).max:.3g}, which {dtype} holds · ask for another dtype"
            )
    return {place: rearrange(value, "(r q) ... -> (q r) ...", r=len(ROLES)).cpu() for place, value in values.items()}


def _unsound(values: Mapping[Place, Tensor]) -> Tensor:
    """Where (place, clip) something is not finite; one transfer from the device for all."""
    return torch.stack([~value.reshape(len(value), -1).isfinite().all(1) for value in values.values()]).cpu()


def _check_finite(values: Mapping[Place, Tensor], clips: Sequence[str]) -> None:
    unsound = _unsound(values)
    if unsound.any():
        name, _ = list(values)[int(unsound.any(1).nonzero()[0])]
        named = [clips[int(clip)] for clip in unsound.any(0).nonzero()]
        raise FloatingPointError(
            f"got {name} that is not finite in {', '.join(named)} · expected finite values · try float32 or fewer steps"
        )
