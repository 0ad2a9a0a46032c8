"""Fidelity: is the inverted path the sampler's own, and does it lose the clip?

`report` (or `lens.fidelity`) puts together what `paths` (round trip, half the step, known noise), `images` (PSNR, SSIM)
and `noise` (statistics of the recovered noise) measure; `verdict` says it in sentences. `solvers` compares solvers and
precisions, `prompts` asks what an inversion owes to its prompt, `labels` what fidelity itself knows of possible and
impossible clips.
"""

from __future__ import annotations

import sys

import xarray as xr

from dit_lens.fidelity.costs import LEAST_CLIPS, Cost, cost
from dit_lens.fidelity.images import (
    CEILING,
    COMPARISONS,
    TO_CEILING,
    TO_SOURCE,
    psnr_of,
    reconstruction,
    ssim_of,
    white_noise,
)
from dit_lens.fidelity.labels import predictors
from dit_lens.fidelity.noise import noise_statistics
from dit_lens.fidelity.paths import (
    NOTHING_BUT_LATENTS,
    STARTS,
    Watch,
    convergence,
    known_noise,
    relative_error,
    round_trip,
)
from dit_lens.fidelity.prompts import perturbed, prompt_sensitivity
from dit_lens.fidelity.solvers import SOLVERS, Truth, precision_drift, solver_cell
from dit_lens.inversion import Input, Lens
from dit_lens.trajectory import Trajectory, checked

__all__ = [
    "CEILING",
    "COMPARISONS",
    "EXTREME",
    "SOLVERS",
    "STARTS",
    "TO_CEILING",
    "TO_SOURCE",
    "Cost",
    "Truth",
    "Watch",
    "convergence",
    "cost",
    "known_noise",
    "noise_statistics",
    "perturbed",
    "precision_drift",
    "predictors",
    "prompt_sensitivity",
    "psnr_of",
    "reconstruction",
    "relative_error",
    "report",
    "round_trip",
    "solver_cell",
    "ssim_of",
    "verdict",
    "white_noise",
]
WITHIN_DB = 0.5  # of the autoencoder's PSNR: nothing is lost that the autoencoder keeps
WITHIN_ERROR = 0.03  # mean relative error per step
EXTREME = 3.0  # standard deviations


def report(
    lens: Lens,
    trajectory: Trajectory,
    clips: Input | None = None,
    watch: Watch = NOTHING_BUT_LATENTS,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """What there is to say of the fidelity of an inversion; costs about seven times the inversion itself (see `cost`).

    Args:
        trajectory: an inversion that reached the last step.
        clips: what was inverted, for comparisons with the source; without them only with the autoencoder's.
        watch: what is compared of the model in the known-noise test.
        seed: of the known noise.
        progress: says what it costs before it begins, and shows bars.

    Returns:
        `round_trip`, `convergence` (step, clip); `psnr`, `ssim` (comparison, clip); `noise` (statistic, clip, channel)
        with `noise_expected` and `noise_spread`; `known_error` (start, measure, step, known_clip) and `known_between`;
        `evaluations` one way and whether all steps `converged` (clip). See `verdict` for sentences.

    Raises:
        ValueError: no inversion, or one that stopped before the last step.
    """
    if checked(trajectory).direction != "invert" or trajectory.record is None or trajectory.solver is None:
        raise ValueError(f"got a path by {trajectory.direction} · expected an inversion · lens.invert makes one")
    if progress:
        print(f"fidelity: {cost(lens, trajectory, watch)}", file=sys.stderr)
    there_and_back, back = round_trip(lens, trajectory, progress)
    recovered = noise_statistics(trajectory.latents[-1])
    start = white_noise(max(LEAST_CLIPS, len(trajectory)), trajectory.latents[0], seed)
    known = known_noise(lens, start, trajectory.schedule, trajectory.solver, watch, trajectory.conditions, progress)
    parts = xr.merge(
        [
            xr.Dataset({"round_trip": there_and_back, "convergence": convergence(lens, trajectory, progress)}),
            reconstruction(lens, trajectory, back, clips),
            recovered.rename(value="noise", expected="noise_expected", spread="noise_spread"),
            known.rename(error="known_error", between="known_between", clip="known_clip"),
        ],
        compat="equals",
        join="exact",
    )
    parts["evaluations"] = trajectory.record.evaluations.sum("step")
    parts["converged"] = trajectory.record.converged.all("step")
    return parts.assign_attrs(lens=lens.facts(), solver=str(trajectory.solver), steps=len(trajectory.schedule))


def verdict(report: xr.Dataset) -> list[str]:
    """One sentence for each metric."""
    solver = f"{report.attrs['solver']}, {report.attrs['steps']} steps"
    error, at_data = float(report.round_trip.mean()), float(report.round_trip[0].mean())
    known, between = report.known_error.sel(measure="latent"), report.known_between.sel(measure="latent")
    ends = [f"{float(known.sel(start=start)[-1].mean()):.1%}" for start in STARTS]
    away = abs((report.noise - report.noise_expected) / report.noise_spread) > EXTREME
    shares = [f"{s} {float(away.sel(statistic=s).mean()):.0%}" for s in report.statistic.values]
    unsolved = 1 - float(report.converged.mean())
    return [
        f"Round trip: {error:.2%} of the latent's norm is off per step on average, {at_data:.2%} at the data"
        f" ({solver}): {_holds(error <= WITHIN_ERROR)} {WITHIN_ERROR:.0%}.",
        *_pixels(report),
        f"Known noise: recovered to {ends[0]} from the sampled latent and to {ends[1]} from its encoded video;"
        f" two noises are {float(between[-1].mean()):.0%} apart.",
        f"Steps: halving each moves the recovered noise by {float(report.convergence[-1].mean()):.1%} of its norm.",
        f"Noise: channels over {EXTREME:g} standard deviations from Gaussian (0.3% expected): {', '.join(shares)}.",
        f"Solver: {float(report.evaluations.mean()):.0f} evaluations of the velocity one way;"
        f" {f'{unsolved:.0%} of the clips have UNSOLVED steps' if unsolved else 'no step was left unsolved'}.",
    ]


def _pixels(report: xr.Dataset) -> list[str]:
    if CEILING not in report.comparison:
        got = float(report.psnr.sel(comparison=TO_CEILING).mean())
        return [f"Pixels: {got:.1f} dB to what the autoencoder makes of the latent; the source was not given."]
    ceiling, got, like = (float(report.psnr.sel(comparison=name).mean()) for name in COMPARISONS)
    of_ceiling, of_got, _ = (f"{float(report.ssim.sel(comparison=name).mean()):.3f}" for name in COMPARISONS)
    return [
        f"Pixels: {got:.1f} dB (SSIM {of_got}) to the source where the autoencoder alone has {ceiling:.1f}"
        f" ({of_ceiling}): inversion costs {ceiling - got:.1f} dB, {_holds(ceiling - got <= WITHIN_DB)} {WITHIN_DB} dB;"
        f" {like:.1f} dB to what the autoencoder makes of the clip."
    ]


def _holds(well: bool) -> str:
    return "within" if well else "MORE THAN"
