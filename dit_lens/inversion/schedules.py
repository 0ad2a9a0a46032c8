"""The noise levels of a path: those of the pipeline's own scheduler, or the user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.arguments import collection, integer, number
from dit_lens.inversion.interface import Lens, Steps, pipeline_of
from dit_lens.trajectory import Schedule


def schedule(
    lens: Lens, steps: Steps, latent: Float[Tensor, "b c f h w"] | Sequence[int] | None = None, **arguments: Any
) -> Schedule:
    """The noise levels of the pipeline's own scheduler, or the given ones.

    Args:
        steps: their number; or the levels, rising from 0 and not shifted again; or a schedule, which is returned.
        latent: a latent of the size in question, or its shape (see `latent_shape`), for pipelines whose levels depend
            on it, such as LTX.
        **arguments: for the scheduler's `set_timesteps` (`sigmas`, `mu`), instead of those of the model's pipeline.

    Raises:
        ValueError: fewer than one step; or a flow's scheduler does not count noise as sigma in [0, 1], or shifts
            its levels by the latent's size in a way that is not known.
    """
    if isinstance(steps, Schedule):
        return steps
    if np.ndim(steps) == 1 and not isinstance(steps, str):
        levels = tuple(number(sigma, "noise level") for sigma in steps)  # type: ignore[union-attr]
        return Schedule(levels, tuple(lens.family.to_timestep(sigma) for sigma in levels))
    steps = integer(steps, "steps", 1)
    if latent is not None and not isinstance(latent, Tensor):
        shape = [integer(size, "size of a latent", 1) for size in collection(latent, "latent", "five sizes")]
        latent = torch.empty(shape, device="meta")
    pipeline = pipeline_of(lens)
    if lens.family.noise_levels is not None:
        return schedule(lens, lens.family.noise_levels(pipeline, steps, **arguments))
    arguments = arguments or lens.family.schedule_arguments(pipeline, latent, steps)
    if getattr(pipeline.scheduler, "sigmas", None) is not None:
        levels = Schedule.from_scheduler(pipeline.scheduler, steps, **arguments)
        if lens.model.same_levels(torch.tensor(levels.sigmas[1:]), torch.tensor(levels.timesteps[1:])):
            return levels
    raise ValueError(
        f"got the noise levels of a {type(pipeline.scheduler).__name__}, which are not those of a flow from data to"
        f" noise · expected a flow-match scheduler · {lens.name} can be traced, but not inverted or sampled yet"
    )


def levels_by_size(lens: Lens) -> bool:
    """Whether the pipeline's noise levels depend on the latent's size, so that `schedule` needs a latent."""
    return bool(pipeline_of(lens).scheduler.config.get("use_dynamic_shifting"))
