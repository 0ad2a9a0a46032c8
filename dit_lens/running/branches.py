"""Guidance branches: which ones a call of a transformer is for, and what guidance makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dit_lens.families.family import Family

DOUBLED = "cond_uncond"  # how pipelines name a call of one batch for both branches ...
HALVES = ("uncond", "cond")  # ... and the order in which all of them stack it
PREDICTION = "pred_"  # what guider objects (HunyuanVideo 1.5) say before the branch


def guided(family: Family, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """What guidance makes of both branches: uncond + g (cond - uncond), or cond + g (cond - uncond) in Cosmos.

    Of velocities, clean estimates and outputs alike, which differ by the latent that both branches are fed. Term for
    term as the stock pipelines have it, so that it is theirs to the bit.
    """
    start = cond if family.guided_from_cond else uncond
    return start + scale * (cond - uncond)


class Branches:
    """The branches of calls that a pipeline makes.

    Most pipelines name a call by their transformer's `cache_context`. Where one does not, its family says what the
    calls of a step are for, in turn (`contexts`, in the words of `cache_context`); a call outside of the pipeline's
    loop is then of no branch.

    Args:
        family: the transformer's.
        pipeline: who calls; None where nobody knows.
    """

    def __init__(self, family: Family, pipeline: Any):
        self.pipeline = pipeline
        self._named: list[str] = []
        self._in_turn: tuple[str, ...] = family.contexts
        self._step: Any = None
        self._calls = 0

    def noting(self, transformer: Any) -> Any:
        """The model's own `cache_context`, with its name noted."""
        plain = transformer.cache_context

        @contextmanager
        def cache_context(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            self._named.append(name)
            try:
                with plain(name, *args, **kwargs):
                    yield
            finally:
                self._named.pop()

        return cache_context

    def of_call(self) -> tuple[str, ...]:
        """The branches of the call that is made now, in the order of its batch; none where they are unknown."""
        if self._named:
            return branches(self._named[-1], self.pipeline)
        # Set again, to an object of its own, at every step of the loop; None outside of it.
        step = getattr(self.pipeline, "current_timestep", None)
        if step is None or not self._in_turn:
            return ()
        self._calls = self._calls + 1 if step is self._step else 0
        self._step = step
        return branches(self._in_turn[self._calls % len(self._in_turn)], self.pipeline)


def branches(context: str, pipeline: Any) -> tuple[str, ...]:
    """Guidance branches of a pipeline's call, in the order of its batch, by the name that the pipeline gives it."""
    if context != DOUBLED:
        return (context.removeprefix(PREDICTION),)
    guided = getattr(pipeline, "do_classifier_free_guidance", None)
    if guided is None:  # CogVideoX and Allegro say their guidance only
        guided = pipeline is not None and pipeline.guidance_scale > 1
    return HALVES if guided else HALVES[1:]
