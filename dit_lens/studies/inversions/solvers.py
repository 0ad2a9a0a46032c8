"""Which solver and number of steps: cost, errors, probe accuracy and drift in bfloat16 of each, on the same clips."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from dit_lens import fidelity
from dit_lens.capture import clips_of
from dit_lens.clips import Scene
from dit_lens.flow import Solver
from dit_lens.lens import DiTLens
from dit_lens.studies.inversions.probes import fit_probe, inverted, logits, states
from dit_lens.studies.study import Study
from dit_lens.trajectory import Schedule

Splits = tuple[Sequence[Scene], Sequence[Scene]]  # to fit a probe on, to test it on


@dataclass(frozen=True)
class Compared:
    """What is compared: all of `fidelity.SOLVERS` at some numbers of steps.

    Attributes:
        step_counts: numbers of steps.
        fine: Heun steps of the reference solution.
        shift: of the noise levels towards noise in an extra row of Heun; 1 leaves the row out.
    """

    step_counts: Sequence[int]
    fine: int
    shift: float

    def rows(self) -> dict[str, tuple[Solver, float]]:
        """Solver and shift by name."""
        rows = {name: (solver, 1.0) for name, solver in fidelity.SOLVERS.items()}
        return rows if self.shift == 1 else rows | {f"Heun, shift {self.shift:g}": (Solver("heun"), self.shift)}


def solver_table(
    lens: DiTLens, study: Study, scenes: Sequence[Scene], probing: Splits, compared: Compared
) -> xr.Dataset:
    """Costs, errors, probe accuracy and drift in bfloat16 (solver, steps), means over clips.

    Args:
        scenes: whose clips are inverted and sampled back.
        probing: scenes to fit a probe on in each cell, and to test it on.
    """
    fine = inverted(lens, scenes, study, compared.fine, "heun")
    exact, half = fine.latents[-1], in_bfloat16(lens, study)
    truth = fidelity.Truth(exact, fidelity.white_noise(max(2, len(exact)), exact, study.seed), fine.conditions)

    def cell(solver: Solver, steps: Schedule) -> xr.Dataset:
        table = fidelity.solver_cell(lens, clips_of(scenes), truth, solver, steps, half)
        return table.merge(probe_cell(lens, study, probing, steps, solver))

    schedules = {count: lens.schedule(count, exact[:1]) for count in compared.step_counts}
    counts, rows = xr.Variable("sampler_steps", list(schedules)), compared.rows()
    lines: list[Any] = [
        xr.concat([cell(solver, steps.shifted(shift)) for steps in schedules.values()], counts)
        for solver, shift in rows.values()
    ]
    grid: Any = xr.concat(lines, xr.Variable("solver", list(rows)))
    if half is None:
        grid["drift"] = grid.error * np.nan
    table = grid.rename({str(name): f"table_{name}" for name in grid.data_vars} | {"comparison": "pair"})
    return table.assign(table_probe_clips=sum(clip.possible is not None for clip in clips_of(probing[1])))


def probe_cell(lens: DiTLens, study: Study, probing: Splits, steps: Schedule, solver: Solver) -> xr.Dataset:
    """Accuracy of a probe fitted on training scenes of the same solver and steps, and the seconds that it took."""
    began, (train, test) = time.perf_counter(), probing
    probe = fit_probe(lens, train, steps, study, solver=solver)
    right = [
        (value > 0) == clip.possible
        for x, clips, _ in states(lens, test, study, (steps, solver, probe.reads))
        for value, clip in zip(logits(probe, x), clips, strict=True)
        if clip.possible is not None
    ]
    return xr.Dataset({"probe": np.mean(right), "probe_seconds": time.perf_counter() - began})


def in_bfloat16(lens: DiTLens, study: Study) -> DiTLens | None:
    """The same model in bfloat16; None if it already is, or if a second copy cannot be loaded."""
    if study.device_map or study.offload != "none" or lens.facts()["dtype"] == "bfloat16":
        return None
    try:
        return replace(study, dtype="bfloat16").lens()
    except (RuntimeError, MemoryError, ValueError) as error:  # torch's out of memory is a RuntimeError
        print(f"no comparison with the model in bfloat16: {error}", file=sys.stderr)
        return None
