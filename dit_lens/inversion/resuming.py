"""A path taken up again in its middle: from a latent that is known on, by the solver and with the steps it had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens import flow
from dit_lens.conditioning import Conditioning, Told
from dit_lens.inversion.walking import Walk, Walking


def resume(lens: Walking, walk: Walk, start: Float[Tensor, "b c f h w"], told: Told) -> Iterator[flow.Step]:
    """The latent at each step of `walk.order` in turn, the given one first, all clips in one batch.

    Hooks see the step of the level that an evaluation is told, as in `lens.invert` and `lens.sample`.

    Raises:
        FloatingPointError: see `flow.integrate`.
    """
    given = lens._frames_given(told.conditioning)
    velocity = lens._velocity(walk, told, None if given is None else torch.zeros_like(given))
    return flow.integrate(velocity, start, [walk.schedule.sigmas[step] for step in walk.order], walk.solver)


def levels_told(walk: Walk) -> list[tuple[float, ...]]:
    """The levels at which each step of a walk evaluates the velocity; nothing is evaluated to find out."""
    levels = [walk.schedule.sigmas[step] for step in walk.order]
    steps = flow.integrate(lambda x, sigma: torch.zeros_like(x), torch.zeros(1, 1, 1, 1, 1), levels, walk.solver)
    return [step.told for step in steps][1:]


def copied(told: Told, clips: int, copies: int) -> Told:
    """What so many copies of the clips are told; what serves them all stays as it is."""

    def repeated(conditioning: Conditioning) -> Conditioning:
        tensors = {
            name: tensor.repeat(copies, *[1] * (tensor.ndim - 1)) if len(tensor) == clips > 1 else tensor
            for name, tensor in conditioning.tensors.items()
        }
        return Conditioning(tensors, conditioning.prompt)

    guidance = told.guidance and replace(told.guidance, negative=repeated(told.guidance.negative))
    return Told(repeated(told.conditioning), guidance)
