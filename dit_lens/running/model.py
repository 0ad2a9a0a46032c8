"""The model behind a lens: one transformer, or two experts that share the noise levels as in Wan 2.2.

    Wan 2.2, boundary .875:   sigma 1.0 ... .875 -> the high-noise expert      .874 ... 0 -> the low-noise expert
    all others:               every sigma        -> the transformer

An `Evaluation` names the expert that it calls, so whatever runs one need not know how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import families
from dit_lens.axes import TokenGrid
from dit_lens.cache import ActivationCache, Anatomy
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import HookFunction, NamesFilter, Table
from dit_lens.running.active import Functions, Where
from dit_lens.running.calls import same_levels
from dit_lens.running.evaluation import PLAIN, Evaluation, Request
from dit_lens.running.hooked import HookedTransformer, hooking
from dit_lens.running.restarting import run_from

HIGH, LOW = "high_noise", "low_noise"


class Model:
    """One or two transformers, evaluated as one model.

    Args:
        members: the transformer; or the experts that were loaded, high noise first.
        boundary: the noise level from which on the high-noise expert is called; None for a single transformer.

    Attributes:
        name, family: of the first member.

    Raises:
        ValueError: experts with different hook points.
    """

    def __init__(self, *members: HookedTransformer, boundary: float | None = None):
        self.members, self.boundary = members, boundary
        first = members[0]
        self.name, self.family = first.name, first.family
        for member in members:
            if list(member.table.points) != list(first.table.points):
                raise ValueError(
                    f"got experts of {len(first.table.blocks)} and {len(member.table.blocks)} blocks"
                    " · expected the same hook points in both"
                )
            member.active = first.active

    @property
    def table(self) -> Table:
        """The hook points, the same in all members."""
        return self.members[0].table

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.table.blocks)

    @property
    def hooked(self) -> bool:
        """Whether hooks are active."""
        return self.members[0].hooked

    @property
    def device(self) -> torch.device:
        """Where the first member runs."""
        return self.members[0].device

    @property
    def middle(self) -> float:
        """A noise level in the middle of those at which the first member is evaluated."""
        if self.boundary is None:
            return 0.5
        return (1 + self.boundary) / 2 if self.members[0].expert == HIGH else self.boundary / 2

    def at(self, timestep: float | Tensor) -> HookedTransformer:
        """The member that is called at a timestep (at the noisiest of a tensor), by the rule of the stock pipelines.

        Raises:
            ValueError: an expert that the pipeline was loaded without.
        """
        if self.boundary is None:
            return self.members[0]
        noisiest = float(torch.as_tensor(timestep).max())
        expert = HIGH if noisiest >= self.family.to_timestep(self.boundary) else LOW
        for member in self.members:
            if member.expert == expert:
                return member
        raise ValueError(
            f"got timestep {noisiest:g}, that of the {expert} expert, in {self.name}, which was loaded without it"
            f" · expected noise levels {'below' if expert == HIGH else 'from'} {self.boundary}"
        )

    def of(self, evaluation: Evaluation) -> HookedTransformer:
        """The member that an evaluation calls."""
        return next(member for member in self.members if member.expert == evaluation.expert)

    def anatomy(self, *experts: str | None) -> Anatomy | None:
        """The anatomy of the member that was called; None where several were, whose weights differ."""
        called = [member for member in self.members if member.expert in experts]
        return Anatomy.of(called[0].transformer, self.table) if len(called) == 1 else None

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
        """A call of the member for this noise level; see `HookedTransformer.evaluation`."""
        return self.at(timestep).evaluation(latent, timestep, conditioning, step, sigma)

    def run(self, evaluation: Evaluation, request: Request = PLAIN) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations under the hooks that are active; see `HookedTransformer.run`."""
        return self.of(evaluation).run(evaluation, request)

    def velocity(self, evaluation: Evaluation) -> Tensor:
        """The velocity (b, c, f, h, w) of a whole evaluation under the hooks that are active."""
        return self.of(evaluation).velocity(evaluation)

    def run_with(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations with these hook functions instead of the active ones."""
        return self.of(evaluation).run_with(evaluation, functions, request)

    def run_suffix(
        self,
        evaluation: Evaluation,
        start: int,
        entering: Mapping[str, Tensor],
        functions: Mapping[str, HookFunction],
        request: Request,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Velocity and cache of the blocks from `start` on; earlier blocks are skipped (see `restarting.run_from`).

        Args:
            functions: one hook function per point; active hooks do not act here.
        """
        lists = {name: [function] for name, function in functions.items()}
        velocity, kept = run_from(self, evaluation, start, entering, lists, request)
        return velocity, ActivationCache(kept, self.grid(evaluation), self.blocks)

    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        where: Where | None = None,
        pipeline: Any = None,
    ) -> AbstractContextManager[None]:
        """Hooks on every evaluation inside the block, and on calls of the members by others.

        Args:
            where: which evaluations; all unless given.
            pipeline: the one whose scheduler and guidance say which step and branch such a call is for.

        Raises:
            KeyError: unknown hook point. ValueError: no such expert. RuntimeError: a hook never fired.
        """
        return hooking(self.members, fwd_hooks, where or Where(), pipeline)

    def same_levels(self, sigmas: Tensor, timesteps: Tensor) -> bool:
        """Whether a scheduler counts noise as the family does; see `calls.same_levels`."""
        return same_levels(self.family, sigmas, timesteps)


def model_of(source: Any, name: str) -> Model:
    """The model of a transformer or of a pipeline: its transformer, or its experts where its family has a boundary.

    Raises:
        TypeError: no family knows the transformer, or the pipeline has parts that the family does not handle.
    """
    if isinstance(source, nn.Module):
        return Model(HookedTransformer(source, name))
    present = [part for part in ("transformer", "transformer_2") if getattr(source, part, None) is not None]
    if not present:
        raise TypeError(
            f"got a {type(source).__name__} without a transformer · expected a video pipeline that was loaded with it"
        )
    family = families.find(getattr(source, present[0]))
    family.check_pipeline(source)
    by_frame, boundary = family.by_frame(source), family.boundary(source)

    def hooked(part: str, expert: str | None = None) -> HookedTransformer:
        transformer, current = getattr(source, part), partial(getattr, source, part, None)
        return HookedTransformer(
            transformer, name, expert, by_frame, families.find(transformer).of_pipeline(source), current
        )

    if boundary is None:
        return Model(hooked(present[0]))
    experts = {"transformer": HIGH, "transformer_2": LOW}
    return Model(*(hooked(part, experts[part]) for part in present), boundary=boundary)
