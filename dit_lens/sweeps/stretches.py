"""A stretch of a trajectory: at which steps changes act, where the way ends, and where it is taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from dit_lens.inversion.resuming import copied, levels_told
from dit_lens.inversion.walking import Walk
from dit_lens.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a trajectory, walked anew with changes.

    Attributes:
        trajectory: of which every latent is known; by `lens.invert` where the way leads up, to noise; by `lens.sample`
            or `lens.invert` where it leads down, to data (an inverted one by the sampler that its
            solver inverts).
        steps: at whose evaluations changes act, counted from data.
        readout: the step at which the way ends, above or below `steps`; 0 is the clip.

    Raises:
        ValueError: no steps, or a readout amid them.
    """

    trajectory: Trajectory
    steps: Sequence[int]
    readout: int

    def __post_init__(self):
        if not len(self.steps) or min(self.steps) < self.readout < max(self.steps):
            raise ValueError(
                f"got steps {list(self.steps)} and readout {self.readout} · expected one step or more, and the readout"
                " above all of them (while inverting) or below (while sampling)"
            )

    @property
    def upward(self) -> bool:
        """Whether the way leads from data to noise."""
        alone = min(self.steps) == self.readout == max(self.steps)
        return self.trajectory.direction == "invert" if alone else self.readout >= max(self.steps)

    def walk(self) -> Walk:
        """From the last latent that no change has touched to the readout.

        Raises:
            IndexError: a step or readout that the trajectory does not have, or that is not evaluated on the way.
            ValueError: a path that nobody walked in this direction, or a solver that evaluates between steps.
        """
        path, solver = self.trajectory, self.trajectory.solver
        if solver is None or (self.upward and path.direction != "invert"):
            raise ValueError(
                f"got a trajectory by {path.direction} to walk {'up' if self.upward else 'down'} from its latents"
                " · expected one by lens.invert, or by lens.sample on the way down"
            )
        for step in (*self.steps, self.readout):
            path.latent(step)
        order = range(self.readout + 1) if self.upward else range(len(path.latents) - 1, self.readout - 1, -1)
        whole = Walk(path.schedule, order, solver if self.upward or path.direction == "sample" else solver.sampler)
        return replace(whole, order=order[self._untouched(whole) :])

    def _untouched(self, whole: Walk) -> int:
        """How many steps of a walk are made before a changed one is evaluated."""
        named = {max(level, whole.solver.sigma_min) for level in whole.steps}
        told = levels_told(whole)
        if between := {level for levels in told for level in levels} - named:
            raise ValueError(
                f"got {whole.solver}, which evaluates between steps (at sigma {min(between):.4f}), where no step says"
                " whether a change acts · expected euler, implicit_euler or heun"
            )
        met = [{whole.steps[level] for level in levels if level in whole.steps} for levels in told]
        if missed := sorted(set(self.steps) - set().union(*met)):
            raise IndexError(
                f"got step {missed[0]} · expected of {sorted(set().union(*met))}, which {whole.solver} evaluates on the"
                f" way from step {whole.order[0]} to {whole.order[-1]}"
            )
        return next(place for place, steps in enumerate(met) if not steps.isdisjoint(self.steps))


def copies_at(trajectory: Trajectory, step: int, latent: Float[Tensor, "b c f h w"], copies: int) -> Trajectory:
    """A trajectory of so many copies of the clips, of which the given latents at a step are known and no others."""
    told = copied(trajectory.told, len(trajectory), copies)
    return replace(
        trajectory,
        latents=latent.expand(step + 1, *latent.shape),
        conditioning=told.conditioning,
        guidance=told.guidance,
        clip_ids=trajectory.clip_ids * copies,
        record=None,
    )
