"""Two transformers that share the noise levels, as Wan 2.2 has it: above a boundary one, below it the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens import families
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.running.active import Functions, Where
from dit_lens.running.evaluation import PLAIN, Evaluation, Request
from dit_lens.running.hooked import HookedTransformer, hooking

HIGH, LOW = "high_noise", "low_noise"


class Experts:
    """A model of experts, run as one: an evaluation says which expert it calls.

    Args:
        high, low: the transformers above and below the boundary, either of which may be left out.
        boundary: the noise level from which on `high` is called.

    Attributes:
        members: the experts that there are.

    Raises:
        ValueError: they have other hook points.
    """

    def __init__(self, high: HookedTransformer | None, low: HookedTransformer | None, boundary: float):
        self.boundary = boundary
        self.members = tuple(member for member in (high, low) if member is not None)
        first = self.members[0]
        self.name, self.family, self.table = first.name, first.family, first.table
        for member in self.members:
            if list(member.table.points) != list(self.table.points):
                raise ValueError(
                    f"got experts of {len(self.table.blocks)} and {len(member.table.blocks)} blocks"
                    " · expected the same hook points in both"
                )
            member.active = first.active

    @property
    def hooked(self) -> bool:
        """Whether hooks are active."""
        return self.members[0].hooked

    @property
    def middle(self) -> float:
        """A noise level in the middle of those that the first of the experts is evaluated at."""
        return (1 + self.boundary) / 2 if self.members[0].expert == HIGH else self.boundary / 2

    def expert(self, timestep: float | Tensor) -> HookedTransformer:
        """Who is called at a timestep (the noisiest, of a tensor), by the rule of the stock pipelines.

        Raises:
            ValueError: an expert that the pipeline was loaded without.
        """
        noisiest = float(torch.as_tensor(timestep).max())
        wanted = HIGH if noisiest >= self.family.to_timestep(self.boundary) else LOW
        for member in self.members:
            if member.expert == wanted:
                return member
        raise ValueError(
            f"got timestep {noisiest:g}, that of the {wanted} expert, in {self.name}, which was loaded without it"
            f" · expected noise levels {'below' if wanted == HIGH else 'from'} {self.boundary}"
        )

    def of(self, evaluation: Evaluation) -> HookedTransformer:
        """The expert that an evaluation calls."""
        return next(member for member in self.members if member.expert == evaluation.expert)

    def grid(self, evaluation: Evaluation) -> TokenGrid:
        """The token grid of an evaluation's latent."""
        return self.of(evaluation).grid(evaluation)

    def evaluation(
        self,
        latent: Float[Tensor, "b c f h w"],
        timestep: float | Tensor,
        conditioning: Conditioning,
        step: int | None = None,
        sigma: float | None = None,
    ) -> Evaluation:
        """A call of the expert whose noise level it is; see `HookedTransformer.evaluation`."""
        return self.expert(timestep).evaluation(latent, timestep, conditioning, step, sigma)

    def run(self, evaluation: Evaluation, request: Request = PLAIN) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations under the hooks that are active; see `HookedTransformer.run`."""
        return self.of(evaluation).run(evaluation, request)

    def velocity(self, evaluation: Evaluation) -> Tensor:
        """The velocity (b, c, f, h, w) of a whole evaluation under the hooks that are active."""
        return self.of(evaluation).velocity(evaluation)

    def run_with(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The same with the given hook functions in the place of the active ones."""
        return self.of(evaluation).run_with(evaluation, functions, request)

    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        where: Where | None = None,
        pipeline: Any = None,
    ) -> AbstractContextManager[None]:
        """Hooks on every evaluation of every expert inside the block; see `HookedTransformer.hooks`."""
        return hooking(self.members, fwd_hooks, where or Where(), pipeline)

    def same_levels(self, sigmas: Tensor, timesteps: Tensor) -> bool:
        """Whether a scheduler counts noise as we do; see `HookedTransformer.same_levels`."""
        return self.members[0].same_levels(sigmas, timesteps)


def of_pipeline(pipeline: Any, name: str) -> HookedTransformer | Experts:
    """What a pipeline evaluates: its transformer, or its experts where its family knows of a boundary.

    Raises:
        TypeError: no family knows the transformer, or the pipeline has parts that the family does not handle.
    """
    high, low = pipeline.transformer, getattr(pipeline, "transformer_2", None)
    present: list[Any] = [transformer for transformer in (high, low) if transformer is not None]
    if not present:
        raise TypeError(f"got a {type(pipeline).__name__} without a transformer · expected one · load it with it")
    family = families.find(present[0])
    family.check_pipeline(pipeline)
    by_frame = family.by_frame(pipeline) if hasattr(family, "by_frame") else False
    boundary = family.boundary(pipeline) if hasattr(family, "boundary") else None
    if boundary is None:
        return HookedTransformer(present[0], name, by_frame=by_frame)

    def hooked(transformer: Any, expert: str) -> HookedTransformer | None:
        return None if transformer is None else HookedTransformer(transformer, name, expert, by_frame)

    return Experts(hooked(high, HIGH), hooked(low, LOW), boundary)
