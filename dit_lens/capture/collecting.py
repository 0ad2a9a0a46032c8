"""Activations reduced in the hook, by several reductions in one forward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from dit_lens.capture.interaction import cut_between, cut_runs, of_parts, patterns
from dit_lens.capture.recipe import Take
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.reductions import Named, Reduction
from dit_lens.running import Evaluation, Request, repeat
from dit_lens.store import Place


class Collector:
    """A hook function that keeps reductions of each activation and leaves the activation unchanged.

    Interactions are differences of two activations: of the clips in the first part of a batch, and of the same clips in
    its second part, in which attention across the break is cut (or in two such parts, see `capture.interaction`).

    Attributes:
        wanted: by hook point, the variables it feeds: name, block (None outside the blocks) and reduction.
        blocks: of every variable that has them, in order.
        points: hook points in forward order.
        interactions: the variables that are interactions (see `capture.interaction`).
        taken: the reduced values, by variable and position of the block among `blocks`.

    Raises:
        KeyError: unknown hook point.
    """

    def __init__(self, lens: DiTLens, takes: Sequence[Take]):
        self.wanted: dict[str, dict[str, tuple[int | None, Reduction]]] = {}
        self.interactions: set[str] = set()
        for take in takes:
            for point in lens.table.select(_of_every_block(lens, take.points), lens.name):
                short, block = _shortened(point.name)
                variable = f"{short}.interaction" if take.interaction else short
                variables = {f"{variable}.{reduction}": (block, reduction) for reduction in take.reductions}
                self.wanted.setdefault(point.name, {}).update(variables)
                self.interactions |= variables.keys() if take.interaction else set()
        self.points = [point.name for point in lens.table.select(list(self.wanted), lens.name)]
        self.blocks: dict[str, list[int]] = {}
        for point in self.points:
            for variable, (block, _) in self.wanted[point].items():
                if block is not None:
                    self.blocks.setdefault(variable, []).append(block)
        self.taken: dict[Place, Named] = {}

    def __call__(self, x: Tensor, hook: Hook) -> None:
        """Reduces an activation."""
        self._keep(x, hook, interaction=False)

    def _keep(self, x: Tensor, hook: Hook, interaction: bool) -> None:
        for variable, (block, reduction) in self.wanted[hook.name].items():
            if (variable in self.interactions) is interaction:
                index = None if block is None else self.blocks[variable].index(block)
                self.taken[variable, index] = reduction(x, hook)

    def _keep_difference(self, parts: Bool[Tensor, "b f"]) -> HookFunction:
        def keep(x: Tensor, hook: Hook) -> None:
            whole, *separate = x.split(len(parts))
            self._keep(whole - of_parts(separate, parts, hook), hook, interaction=True)

        return keep

    def evaluate(
        self, lens: DiTLens, evaluation: Evaluation, parts: Bool[Tensor, "b f"] | None = None
    ) -> dict[Place, Named]:
        """The reduced activations of one fresh evaluation; the forward stops at the last hook point.

        Args:
            parts: of each clip, for interactions (see `interaction.parts_of`).
        """
        self.taken = {}
        if plain := self._points(interaction=False):
            with lens.hooks([(plain, self)]):
                lens.model.run(evaluation, Request((), stop_at=plain[-1]))
        if differences := self._points(interaction=True):
            assert parts is not None
            hooks = [
                (self._patterns_before(lens, differences[-1]), self._cut(parts)),
                (differences, self._keep_difference(parts)),
            ]
            with lens.hooks(hooks):
                copies = repeat(evaluation, 1 + cut_runs(lens))
                lens.model.run(copies, Request((), stop_at=differences[-1]))
        return self.taken

    def _points(self, interaction: bool) -> list[str]:
        """The points that feed interactions, or other variables."""
        return [
            point
            for point in self.points
            if any((variable in self.interactions) is interaction for variable in self.wanted[point])
        ]

    @staticmethod
    def _patterns_before(lens: DiTLens, end: str) -> list[str]:
        order = list(lens.table.points)
        return [name for name in patterns(lens) if order.index(name) < order.index(end)]

    @staticmethod
    def _cut(parts: Bool[Tensor, "b f"]) -> HookFunction:
        """Cuts attention in all copies of the clips but the first; in the last of two, text reads the second part."""
        functions = [cut_between(parts, text_reads) for text_reads in (False, True)]

        def cut(x: Tensor, hook: Hook) -> Tensor:
            whole, *separate = x.split(len(parts))
            changed = [function(copy, hook) for function, copy in zip(functions, separate, strict=False)]
            return torch.cat([whole, *changed])

        return cut


def _of_every_block(lens: DiTLens, pattern: str) -> str | list[str]:
    """The names that "blocks.*.hook_resid_post" expands to: the point of each block, and none of a second stream.

    As a glob it would also match "blocks.0.text.hook_resid_post", in models with a text stream.
    """
    head, _, point = pattern.partition("blocks.*.")
    names = [f"blocks.{block}.{point}" for block in range(lens.blocks)]
    plain = not head and bool(point) and not set(point) & set("*?[")
    return ([name for name in names if name in lens.table.points] or pattern) if plain else pattern


def _shortened(name: str) -> tuple[str, int | None]:
    """("attn.z", 3) of "blocks.3.attn.hook_z"; the block is None of a point outside the blocks."""
    block = re.match(r"blocks\.(\d+)\.", name)
    short = name[block.end() if block else 0 :].replace("hook_", "")
    return short, int(block[1]) if block else None


def settle(taken: Mapping[Place, Named], dtype: str, clips: Sequence[str], order: Sequence[int]) -> dict[Place, Tensor]:
    """The values to store: in the requested dtype, on the CPU, ordered scene by scene.

    Args:
        dtype: see `Recipe`.
        clips: ids, in the order in which clips were run.
        order: the places of the clips scene by scene (see `by_scene`).

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
                f"got {name} with values up to {float(named.values.abs().max()):.3g} · expected at most"
                f" {torch.finfo(getattr(torch, dtype)).max:.3g}, the range of {dtype} · choose another dtype"
            )
    return {place: value[list(order)].cpu() for place, value in values.items()}


def _unsound(values: Mapping[Place, Tensor]) -> Tensor:
    """Mask (place, clip) of values that are not finite; one transfer from the device for all."""
    return torch.stack([~value.reshape(len(value), -1).isfinite().all(1) for value in values.values()]).cpu()


def _check_finite(values: Mapping[Place, Tensor], clips: Sequence[str]) -> None:
    unsound = _unsound(values)
    if unsound.any():
        name, _ = list(values)[int(unsound.any(1).nonzero()[0])]
        named = [clips[int(clip)] for clip in unsound.any(0).nonzero()]
        raise FloatingPointError(
            f"got {name} with non-finite values in {', '.join(named)} · expected finite values · try float32, or fewer"
            " sampler steps"
        )
