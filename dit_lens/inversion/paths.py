"""The paths between data and noise: inversion, sampling, and plain noising."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.clips import clip_ids
from dit_lens.conditioning import Conditions, Guidance
from dit_lens.flow import PIPELINE, SOLVERS, Solver
from dit_lens.inversion.interface import Input, Lens, Steps, pipeline_of
from dit_lens.inversion.latents import checked_latents, encode, ids_of
from dit_lens.inversion.prompts import Prompt
from dit_lens.inversion.scheduler_steps import Generators, SchedulerSteps, check_generators
from dit_lens.inversion.schedules import schedule
from dit_lens.inversion.solver_runs import SolverRun, model_input, run
from dit_lens.trajectory import Schedule, Trajectory, on_disk

_WARNED: WeakSet = WeakSet()  # schedulers for which another sampler was used, after the warning


def invert(
    lens: Lens,
    clips: Input,
    steps: Steps = 50,
    solver: str | Solver = "heun",
    *,
    until: int | None = None,
    batch_size: int = 32,
    progress: bool | str = False,
    prompt: Prompt | None = None,
    guidance: float | Guidance | None = None,
    to: str | Path | None = None,
) -> Trajectory:
    """The path from data to noise: the probability-flow ODE integrated backward from clean latents.

    Args:
        clips: clips, frames, a folder of frames or latents (see `encode`).
        steps: number of steps of the pipeline's scheduler, or whatever else `schedule` takes.
        solver: a name of `flow.SOLVERS`, or a `flow.Solver` for its options.
        until: last step to compute; all unless given.
        batch_size: clips per forward.
        progress: a bar over noise levels, under this name if it is one.
        prompt: one for all clips, or a list with one for each; the lens's own conditioning (the empty prompt) unless
            given.
        guidance: its scale as the model's pipeline counts it, away from the empty prompt, or from a negative one
            with a `Guidance`; each evaluation of the velocity is then two calls of the model, which hooks see as
            the branches "cond" and "uncond".
        to: a file that latents are written to as they are computed, for paths too long for memory; the trajectory
            reads them from there when they are used (see `trajectory.on_disk`).

    Raises:
        ValueError, FloatingPointError: see `flow.integrate`; or guidance below 1 or between equal prompts.
    """
    latents, solver = encode(lens, clips), Solver.of(solver)
    if solver.name == PIPELINE:
        raise ValueError(
            f"got solver {PIPELINE!r} to invert · expected {', '.join(SOLVERS)}, for a scheduler steps from noise"
            " to data alone"
        )
    conditions = lens.prompts.conditions(prompt, guidance, Conditions(lens.conditioning))
    levels = schedule(lens, steps, latents[:1])
    last = levels.check_step(len(levels) if until is None else until)
    solver_run = SolverRun(levels, range(last + 1), solver, batch_size, _bar_name(progress, "invert"))
    return _integrated(lens, solver_run, latents, conditions, ids_of(clips), to)


def sample(
    lens: Lens,
    start: Trajectory | Float[Tensor, "b c f h w"],
    solver: str | Solver | None = None,
    steps: Steps | None = None,
    *,
    batch_size: int = 32,
    progress: bool | str = False,
    prompt: Prompt | None = None,
    guidance: float | Guidance | None = None,
    generator: Generators = None,
    to: str | Path | None = None,
) -> Trajectory:
    """The path back from noise to data by the sampler; step 0 is the generated clip.

    From noise it is the stock pipeline's video: `lens.sample(noise, steps=50)` is what the pipeline's call with
    `latents=noise, num_inference_steps=50` generates under the lens's conditioning, to rounding, whatever its
    scheduler.

    Args:
        start: a trajectory that reaches the last step, or noise, as a pipeline takes it for `latents=`.
        solver: "pipeline" for the pipeline's own scheduler, which is the default from noise; a name of
            `flow.SOLVERS` or a `flow.Solver`. From a trajectory the sampler that its solver inverts unless given.
        steps: as in `invert`; those of `start` unless given (50 from noise).
        progress: as in `invert`.
        prompt, guidance: as in `invert`; those of `start` unless given.
        generator: the source of a stochastic scheduler's noise, as the pipeline's `generator=`: one for all clips, or
            a list of one for each.
        to: as in `invert`.

    Raises:
        IndexError: `start` was stopped before the last step.
        TypeError: no solver was given, and `start` has none.
        ValueError: "pipeline" on other levels than the scheduler's, or a generator that would not be drawn from as
            the pipeline does.
    """
    from_noise = not isinstance(start, Trajectory)
    if isinstance(start, Trajectory):
        path = start
    else:  # the integrator is never in less than float32
        start = checked_latents(lens, start, "noise")
        path = _from_noise(lens, start, 50 if steps is None else steps)
    levels = path.schedule if steps is None else schedule(lens, steps, path.latents[0, :1])
    if solver is None and path.solver is None:
        raise TypeError("got a path by plain noising and no solver · expected a solver, such as solver='heun'")
    if solver is None and path.solver:
        chosen = path.solver.sampler
    else:
        chosen = Solver.of(PIPELINE if solver is None else solver)
    scheduler_steps = _scheduler_steps(lens, chosen, levels, path.latents[0, :1])
    noise = path.latent(len(path.schedule))
    conditions = lens.prompts.conditions(prompt, guidance, path.conditions)
    if scheduler_steps is not None:
        check_generators(generator, len(noise), batch_size)
        scheduler_steps = replace(scheduler_steps, generators=generator)
        noise = scheduler_steps.at_start(noise) if from_noise else noise
    elif generator is not None:
        raise ValueError(f"got a generator for {chosen} · expected none, for nothing is drawn · solver='pipeline'")
    elif from_noise:
        _warn_of_other_sampler(lens, chosen, levels, noise[:1])
    order = range(len(levels), -1, -1)
    solver_run = SolverRun(levels, order, chosen, batch_size, _bar_name(progress, "sample"), scheduler_steps)
    return _integrated(lens, solver_run, noise, conditions, path.clip_ids, to)


def noising(lens: Lens, clips: Input, noise: Float[Tensor, "b c f h w"], steps: Steps = 50) -> Trajectory:
    """The straight path x_sigma = (1 - sigma) x_0 + sigma noise: no model, the baseline for inversion.

    Args:
        clips, steps: as in `invert`.
        noise: of the shape of the clips' latents, or of one clip for all.

    Raises:
        TypeError, ValueError: noise of another kind or shape.
    """
    latents = encode(lens, clips)
    noise = checked_latents(lens, noise, "noise").to(latents)
    if noise.shape not in (latents.shape, (1, *latents.shape[1:])):
        raise ValueError(
            f"got noise of shape {tuple(noise.shape)} · expected {tuple(latents.shape)}, that of the latents, or of"
            " one clip for all"
        )
    levels = schedule(lens, steps, latents[:1])
    path = torch.stack([(1 - sigma) * latents + sigma * noise for sigma in levels.sigmas])
    return Trajectory(path, levels, lens.conditioning, None, "noising", ids_of(clips), facts=lens.facts())


def _integrated(
    lens: Lens,
    solver_run: SolverRun,
    start: Tensor,
    conditions: Conditions,
    clips: tuple[str, ...],
    to: str | Path | None,
) -> Trajectory:
    """The trajectory of a solver's run, in memory or in a file."""
    shape, dtype = (len(solver_run.order), *start.shape), torch.promote_types(start.dtype, torch.float32)

    def integrated(path: Tensor) -> Trajectory:
        record = run(lens, solver_run, start, conditions, path)
        return Trajectory(
            path,
            solver_run.schedule,
            conditions.conditioning,
            solver_run.solver,
            "invert" if solver_run.order[0] == 0 else "sample",
            clips,
            record,
            lens.facts() | conditions.facts,
            conditions.guidance,
        )

    if to is None:
        return integrated(torch.empty(shape, dtype=dtype, device=start.device))
    with on_disk.writing(Path(to), shape, dtype) as file:
        file.finish(integrated(file.latents))
    return on_disk.opened_lazily(to)


def _from_noise(lens: Lens, noise: Tensor, steps: Steps) -> Trajectory:
    """A path of which only the end is known, which stands at every step."""
    levels = schedule(lens, steps, noise[:1])
    path = noise.expand(len(levels) + 1, *noise.shape)
    return Trajectory(path, levels, lens.conditioning, Solver(PIPELINE), "sample", clip_ids(noise))


def _scheduler_steps(lens: Lens, solver: Solver, levels: Schedule, latent: Tensor) -> SchedulerSteps | None:
    """The pipeline's scheduler on a schedule, where it is the solver.

    Raises:
        ValueError: the schedule is not its own, or it does not step a flow.
    """
    if solver.name != PIPELINE:
        return None
    pipeline, family = pipeline_of(lens), lens.family
    arguments = family.schedule_arguments(pipeline, latent, len(levels))

    def scaled(latent: Tensor, timestep: float) -> Tensor:
        return model_input(lens, latent, timestep)

    return SchedulerSteps.of(pipeline.scheduler, levels, arguments, scaled, family.frames_first)


def _warn_of_other_sampler(lens: Lens, solver: Solver, levels: Schedule, latent: Tensor) -> None:
    """Says once that the pipeline generates another video from the same noise: its steps are not Euler's."""
    scheduler = pipeline_of(lens).scheduler
    if scheduler in _WARNED or _is_euler(lens, levels, latent):
        return
    _WARNED.add(scheduler)
    warnings.warn(
        f"{lens.name} is sampled by {solver}, not by its pipeline's {type(scheduler).__name__}: from the same noise"
        " it generates another video · solver='pipeline' generates the pipeline's",
        stacklevel=3,
    )


def _is_euler(lens: Lens, levels: Schedule, latent: Tensor) -> bool:
    """Whether the pipeline's scheduler steps as Euler does; on levels that are not its own it is not asked."""
    try:
        scheduler_steps = _scheduler_steps(lens, Solver(PIPELINE), levels, latent)
    except ValueError:
        return True
    return scheduler_steps is None or scheduler_steps.is_euler()


def _bar_name(progress: bool | str, name: str) -> str | None:
    """The name of a progress bar; None without one."""
    return (name if progress is True else progress) or None  # type: ignore[return-value]
