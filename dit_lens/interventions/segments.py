"""A path segment: the steps of a trajectory at which edits act, its end, and the step at which sampling resumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from dit_lens.inversion import SolverRun, repeated
from dit_lens.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class PathSegment:
    """A part of a trajectory, run again with edits.

    Example: steps (10, 12) and readout 5 of a trajectory sampled by Euler. Sampling resumes at the latent of step 12,
    edits act at the evaluations of steps 12 and 10 but not of 11, and the metric reads step 5.

    Attributes:
        trajectory: with all latents; from `lens.invert` if the segment runs up, to noise; from `lens.sample` or
            `lens.invert` if it runs down, to data (an inverted one with the sampler that its solver inverts).
        steps: the steps at whose evaluations edits act, counted from data.
        readout: the step at which the segment ends, above or below `steps`; 0 is the clip.

    Raises:
        ValueError: no steps, or a readout between them.
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
        """Whether the segment runs from data to noise."""
        alone = min(self.steps) == self.readout == max(self.steps)
        return self.trajectory.direction == "invert" if alone else self.readout >= max(self.steps)

    def solver_run(self) -> SolverRun:
        """The steps from the last latent before any edit to the readout, with their solver.

        Raises:
            IndexError: a step or readout that the trajectory does not have, or that the segment does not evaluate.
            ValueError: a trajectory of the other direction, or a solver that evaluates between steps.
        """
        path, solver = self.trajectory, self.trajectory.solver
        if solver is None or (self.upward and path.direction != "invert"):
            raise ValueError(
                f"got a trajectory by {path.direction} to integrate {'up' if self.upward else 'down'} from its latents"
                " · expected one by lens.invert, or by lens.sample on the way down"
            )
        for step in (*self.steps, self.readout):
            path.latent(step)
        order = range(self.readout + 1) if self.upward else range(len(path.latents) - 1, self.readout - 1, -1)
        whole = SolverRun(path.schedule, order, solver if self.upward or path.direction == "sample" else solver.sampler)
        return replace(whole, order=order[self._untouched(whole) :])

    def _untouched(self, whole: SolverRun) -> int:
        """The number of steps of a run before the first that evaluates an edited step."""
        named = {max(level, whole.solver.sigma_min) for level in whole.steps}
        evaluated = whole.evaluated_levels()
        if between := {level for levels in evaluated for level in levels} - named:
            raise ValueError(
                f"got {whole.solver}, which evaluates between steps (at sigma {min(between):.4f}), where no step says"
                " whether an edit acts · expected euler, implicit_euler or heun"
            )
        by_step = [{whole.steps[level] for level in levels if level in whole.steps} for levels in evaluated]
        visited = set().union(*by_step)
        if missed := sorted(set(self.steps) - visited):
            raise IndexError(
                f"got step {missed[0]} · expected of {sorted(visited)}, which {whole.solver} evaluates on the"
                f" way from step {whole.order[0]} to {whole.order[-1]}"
            )
        return next(place for place, steps in enumerate(by_step) if not steps.isdisjoint(self.steps))


def copies_at(trajectory: Trajectory, step: int, latent: Float[Tensor, "b c f h w"], copies: int) -> Trajectory:
    """A trajectory of several copies of the clips that has the latents of one step only."""
    conditions = repeated(trajectory.conditions, len(trajectory), copies)
    return replace(
        trajectory,
        latents=latent.expand(step + 1, *latent.shape),
        conditioning=conditions.conditioning,
        guidance=conditions.guidance,
        clip_ids=trajectory.clip_ids * copies,
        record=None,
    )
