"""A pipeline's own call, with activations kept on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dit_lens.cache import ActivationCache
from dit_lens.hook_points import Hook
from dit_lens.running.evaluation import Reduce, reduction

Address = tuple[int | None, float, str | None, str | None]  # step, sigma, branch, expert


@dataclass(frozen=True, eq=False)
class CachedEvaluation:
    """What was kept of one evaluation: its place in the generation, and the activations."""

    step: int | None
    sigma: float
    branch: str | None
    expert: str | None
    cache: ActivationCache = field(repr=False)


@dataclass(frozen=True, eq=False)
class Generation:
    """What a pipeline's call made; `generation[10, "cond"]` is the cache of step 10 (from data) and that branch.

    Attributes:
        output: what the pipeline put out.
        evaluations: what was kept, in the order in which it was run.
    """

    output: Any = field(repr=False)
    evaluations: tuple[CachedEvaluation, ...]

    @property
    def frames(self) -> Any:
        """The video, in the pipeline's `output_type` (latents (b, c, f, h, w) for "latent")."""
        return self.output.frames

    def __iter__(self) -> Iterator[CachedEvaluation]:
        return iter(self.evaluations)

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, place: int | tuple[int | None, str | None]) -> ActivationCache:
        step, *branch = place if isinstance(place, tuple) else (place,)
        matches = [kept for kept in self if kept.step == step and (not branch or kept.branch == branch[0])]
        if len(matches) == 1:
            return matches[0].cache
        places = ", ".join(f"[{kept.step}, {kept.branch!r}]" for kept in self)
        raise KeyError(
            f"got {place!r}, where {len(matches)} evaluations were kept · expected one of {places}"
            " · iterate over the generation to see all"
        )


class Recorder:
    """A hook function that keeps what it is shown, evaluation by evaluation.

    Args:
        blocks: number of blocks of the model.
        reduce: (tensor) or (tensor, hook) -> tensor, applied to each activation where it is made.
    """

    def __init__(self, blocks: int, reduce: Reduce | None = None):
        self.blocks, self.whole, self.reduce = blocks, reduce is None, reduction(reduce)
        self._order: list[tuple[Address, ActivationCache]] = []
        self._open: dict[Address, dict[str, Tensor]] = {}
        self._axes: dict[str, str] = {}

    def __call__(self, x: Tensor, hook: Hook) -> None:
        """Keeps an activation; the model's own goes on."""
        address = hook.step, hook.sigma, hook.branch, hook.expert
        kept = self._open.get(address)
        if kept is None or hook.name in kept:  # a point that is met again belongs to another evaluation there
            kept = self._open[address] = {}
            self._order.append((address, ActivationCache(kept, hook.grid, self.blocks, axes=self._axes)))
        kept[hook.name] = self.reduce(x, hook)
        if self.whole:
            self._axes[hook.name] = hook.axes

    @property
    def kept(self) -> tuple[CachedEvaluation, ...]:
        """Everything that was kept, in the order in which it was run."""
        return tuple(CachedEvaluation(*address, cache) for address, cache in self._order)
