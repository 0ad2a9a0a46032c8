"""What a fidelity report will take, before it is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dit_lens.cache.estimate import clock, readable_time
from dit_lens.fidelity.paths import NOTHING_BUT_LATENTS, Watch
from dit_lens.inversion import Lens, evaluation
from dit_lens.running import some
from dit_lens.trajectory import Trajectory

LEAST_CLIPS = 2  # of known noise, to compare errors with


@dataclass(frozen=True)
class Cost:
    """Evaluations and seconds of a report; it prints as a sentence.

    Attributes:
        evaluations: of the model on one clip; those of implicit Euler are as many as experience says.
        seconds_each: of one of them, measured. More clips to a batch take less each.
    """

    evaluations: int
    seconds_each: float

    @property
    def seconds(self) -> float:
        """Of all evaluations, one by one."""
        return self.evaluations * self.seconds_each

    def __str__(self) -> str:
        return (
            f"about {self.evaluations:,} evaluations of one clip, {self.seconds_each:.2g} s each: at most"
            f" {readable_time(self.seconds)}, less in batches"
        )


@torch.no_grad()
def cost(lens: Lens, trajectory: Trajectory, watch: Watch = NOTHING_BUT_LATENTS) -> Cost:
    """The cost of `fidelity.report`, by one timed evaluation of the trajectory's first clip.

    Args:
        watch: as for the report.
    """
    assert trajectory.solver is not None
    single = some(evaluation(lens, trajectory, len(trajectory.schedule) // 2), slice(0, 1))
    start = clock(lens.model.device)
    lens.model.velocity(single)
    return Cost(evaluations(trajectory, watch), clock(lens.model.device) - start)


def evaluations(trajectory: Trajectory, watch: Watch = NOTHING_BUT_LATENTS) -> int:
    """How often a report on a trajectory evaluates the model, counted for each clip."""
    assert trajectory.solver is not None
    steps, solver, clips = len(trajectory.schedule), trajectory.solver, len(trajectory)
    known, branches = max(LEAST_CLIPS, clips), 1 if trajectory.guidance is None else 2
    back, there = solver.sampler.evaluations(steps), solver.evaluations(steps)
    integrated = clips * (back + solver.evaluations(2 * steps)) + known * (back + 2 * there)
    watched = steps + 1 if watch.steps is None else len(watch.steps)
    return branches * integrated + 3 * known * watched
