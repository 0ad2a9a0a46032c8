"""Can the inverted path be trusted: does it come back, is it the sampler's own, and does its error know the label?

Method: a table of solvers by numbers of steps gives what an inversion costs (evaluations of the velocity one way), what
it loses there and back (latent, pixels beside the autoencoder alone), how far its noise is from that of a fine solution
of the ODE, how far it is from noise that is known, because the sampler started there, how far rounding the model to
bfloat16 moves it, and how well a probe reads inverted states at all. One solver is then looked at step by step
(`lens.fidelity`), with a verdict on each metric, on clips of the data set and on files of one's own, and asked what its
noise owes to the prompt.

Controls: a round trip can be exact by construction, so the known-noise test has the sampler's own path to compare with
(latents, streams, attention patterns, probe logits), from its latent and from its decoded and encoded video, beside the
distance between two clips; a random initialisation. What fidelity alone says of possible and impossible clips, and of
whether a probe is right, is told as AUROC: 0.5 says nothing.

Output: figures/data/invert_clips.nc. Cost: about ten minutes of one core with the defaults.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score

from analyses.command import main
from analyses.invert_clips_table import table
from dit_lens import datasets, fidelity
from dit_lens.clips import ROLES, Clip, Quadruplet
from dit_lens.conditioning import NEUTRAL, Conditioning
from dit_lens.flow import Solver
from dit_lens.inversion import Steps, frames_of
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.reading import evenly, fit, read_frames
from dit_lens.trajectory import Trajectory

PROBED = 0.6  # the noise level that the probe reads at, two thirds up the blocks
MOVED = (0.1, 1.0)  # of an embedding's norm


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-random",)
    """Models that get a report beside it; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    folder: str = ""
    """Folder of further clips (animated images, or folders of frames), cropped to the size of the data set's; none if
    empty."""
    levels: tuple[int, ...] = (10, 20, 40)
    """Numbers of steps in the table of solvers."""
    solver: str = "heun"
    """Solver of the reports: euler, implicit_euler, midpoint, heun or fireflow."""
    steps: int = 25
    """Steps of the reports."""
    shift: float = 2.0
    """Factor by which levels are moved towards noise in a further row of the table, of Heun; no such row at 1."""
    fine: int = 100
    """Steps of Heun that stand for the exact solution in the table."""
    clips: int = 2
    """Test quadruplets in the table and in the reports."""
    train: int = 66
    """Training quadruplets, for the probe."""
    test: int = 44
    """Test quadruplets that fidelity is asked for labels of."""
    few_train: int = 6
    """Training quadruplets of the probe of every cell of the table."""
    few_test: int = 6
    """Test quadruplets of the probe of every cell of the table."""
    prompts: tuple[str, ...] = (NEUTRAL, "a red ball rolls behind a wall")
    """Prompts that the empty one is compared with, where the model has a text encoder."""
    seed: int = 0
    """Seed of the data set, of the known noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """The table of solvers, the reports, and what fidelity knows of labels."""
    train, test = (
        datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)[:]
        for part, size in (
            ("train", max(config.train, config.few_train)),
            ("test", max(config.test, config.clips, config.few_test)),
        )
    )
    few = _clips(test[: config.clips])
    sources: dict[str, Any] = {config.dataset: few}
    if config.folder:
        sources[Path(config.folder).name] = files(Path(config.folder), few[0].frames)
    lens = DiTLens.from_pretrained(config.model, seed=config.seed)
    probe = fit_probe(lens, train[: config.train], config.steps, config.solver, progress=True)
    parts = [solver_table(lens, train, test, config), label_table(lens, test[: config.test], probe, config)]
    parts.append(prompt_table(lens, few, config))
    reports: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        own = lens if name == config.model else DiTLens.from_pretrained(name, seed=config.seed)
        told = {key: report(own, clips, probe if own is lens else None, config) for key, clips in sources.items()}
        joined: Any = xr.concat(told.values(), xr.Variable("data", list(told)), compat="override", coords="minimal")
        reports.append(joined.expand_dims(model=[name]))
    by_model: Any = xr.concat(reports, "model", data_vars="all", join="outer")
    result = xr.merge([*parts, by_model], compat="equals", join="exact")
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def _clips(quadruplets: Sequence[Quadruplet]) -> list[Clip]:
    return [clip for quadruplet in quadruplets for clip in quadruplet.clips]


def files(folder: Path, like: np.ndarray) -> np.ndarray:
    """Frames (b, F, H, W, 3) of every clip of a folder, in the number and size of the frames of another clip."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    count, height, width, _ = like.shape
    clips = [read_frames(path) for path in paths]
    # The first and last frame of many a demonstration is a curtain.
    return np.stack([fit(evenly(frames[1:-1], count), height, width) for frames in clips])


def fit_probe(
    lens: DiTLens, quadruplets: Sequence[Quadruplet], steps: Steps, solver: str | Solver, progress: bool = False
) -> Probe:
    """A probe for "possible" on token means of one block's output at one noise level, chosen beforehand."""
    block, place = 2 * (lens.blocks - 1) // 3, lens.schedule(steps).step_at(PROBED)
    point = f"{lens.table.blocks[block]}.hook_resid_post"
    clips = _clips(quadruplets)
    path = lens.invert(clips, steps, solver, until=place, progress=progress)
    possible, groups = np.array([clip.possible for clip in clips]), np.array([clip.group for clip in clips])
    reads = Reads(point, place, path.schedule.sigmas[place], lens.name)
    return Probe.fit(pooled(lens, path, reads).numpy(), possible, groups, reads)


@torch.no_grad()
def pooled(lens: DiTLens, path: Trajectory, reads: Reads) -> torch.Tensor:
    """Token means (b, d) of what a probe reads."""
    _, cache = lens.run_with_cache(path, reads.step, names_filter=reads.point, reduce=lambda x: x.mean(1))
    return cache[reads.point].float().cpu()


def solver_table(lens: DiTLens, train: Sequence[Quadruplet], test: Sequence[Quadruplet], config: Config) -> xr.Dataset:
    """Costs, errors, probe accuracy and drift in bfloat16 (solver, levels), means over clips."""
    clips = _clips(test[: config.clips])
    exact = lens.invert(clips, config.fine, "heun").latents[-1]
    truth = fidelity.Truth(exact, fidelity.white_noise(len(clips), exact, config.seed))
    half = DiTLens.from_pretrained(config.model, seed=config.seed, dtype=torch.bfloat16)
    rows = {name: (solver, 1.0) for name, solver in fidelity.SOLVERS.items()}
    if config.shift != 1:
        rows[f"Heun, shift {config.shift:g}"] = (Solver("heun"), config.shift)
    cells = [
        xr.merge(
            [
                fidelity.solver_cell(lens, clips, truth, solver, schedule, half),
                probe_cell(lens, train[: config.few_train], test[: config.few_test], schedule, solver),
            ]
        )
        for solver, shift in rows.values()
        for schedule in (lens.schedule(n, exact[:1]).shifted(shift) for n in config.levels)
    ]
    n = len(config.levels)
    lines: list[Any] = [
        xr.concat(cells[i : i + n], xr.Variable("levels", list(config.levels))) for i in range(0, len(cells), n)
    ]
    grid: Any = xr.concat(lines, xr.Variable("solver", list(rows)))
    told = grid.rename({str(name): f"table_{name}" for name in grid.data_vars} | {"comparison": "pair"})
    return told.assign(table_probe_clips=len(ROLES) * config.few_test)


def probe_cell(
    lens: DiTLens, train: Sequence[Quadruplet], test: Sequence[Quadruplet], steps: Steps, solver: Solver
) -> xr.Dataset:
    """Accuracy of a probe that is fitted on training scenes of the same solver and steps, and seconds that it took."""
    began = time.perf_counter()
    probe, clips = fit_probe(lens, train, steps, solver), _clips(test)
    path = lens.invert(clips, steps, solver, until=probe.reads.step)
    logit = (pooled(lens, path, probe.reads) @ probe.weight + probe.bias).numpy()
    right = (logit > 0) == np.array([clip.possible for clip in clips])
    return xr.Dataset({"probe": right.mean(), "probe_seconds": time.perf_counter() - began})


def prompt_table(lens: DiTLens, clips: list[Clip], config: Config) -> xr.Dataset:
    """What the recovered noise owes to the prompt (prompt), means over clips, beside the distance of two clips'."""
    path = lens.invert(clips, config.steps, config.solver)
    found = fidelity.prompt_sensitivity(lens, path, prompts(lens, config)).mean("clip")
    noise = path.latents[-1]
    return found.assign(prompt_between=float(fidelity.relative_error(noise.roll(1, 0), noise).mean()))


def prompts(lens: DiTLens, config: Config) -> dict[str, Conditioning]:
    """Prompts by what they are called; of a model without text encoder its one embedding, moved at random."""
    if lens.pipeline.components.get("text_encoder") is not None:
        return {prompt: lens.encode_prompt(prompt) for prompt in config.prompts}
    return {
        f"embedding moved by {size:.0%}": fidelity.perturbed(lens.conditioning, size, config.seed) for size in MOVED
    }


def label_table(lens: DiTLens, quadruplets: Sequence[Quadruplet], probe: Probe, config: Config) -> xr.Dataset:
    """AUROC of fidelity for the label with its interval, pairs in order, and AUROC for a probe's being right."""
    clips = _clips(quadruplets)
    path = lens.invert(clips, config.steps, config.solver, progress=True)
    numbers = fidelity.predictors(path, fidelity.round_trip(lens, path)[0])
    logit = (pooled(lens, path, probe.reads) @ probe.weight + probe.bias).numpy()
    possible = np.array([clip.possible for clip in clips])
    right, both = (logit > 0) == possible, {**numbers, "probe (for comparison)": logit}
    rows = [fidelity.label_scores(score.reshape(-1, len(ROLES)), config.seed) for score in both.values()]
    known = [roc_auc_score(right, score) if 0 < right.mean() < 1 else np.nan for score in both.values()]
    values = {f"label_{key}": ("predictor", [row[key] for row in rows]) for key in rows[0]}
    told = {"label_right": ("predictor", known), "probe_accuracy": right.mean(), "label_clips": len(clips)}
    return xr.Dataset(values | told, coords={"predictor": list(both)})


def report(lens: DiTLens, clips: list[Clip] | np.ndarray, probe: Probe | None, config: Config) -> xr.Dataset:
    """A fidelity report, means over clips, with its verdict."""
    path = lens.invert(clips, config.steps, config.solver)
    depth, every = lens.blocks - 1, range(0, config.steps + 1, max(1, config.steps // 5))
    watch = fidelity.Watch(sorted({*every, config.steps}), [(0, 0), (depth // 2, 0), (depth, 0)], probe)
    whole = lens.fidelity(path, clips, watch=watch, seed=config.seed)
    away = abs(whole.noise - whole.noise_expected) / whole.noise_spread > fidelity.EXTREME
    means = whole.drop_vars(["noise", "converged", "noise_expected", "noise_spread"]).mean(["clip", "known_clip"])
    means["noise_away"] = away.mean(["clip", "channel"])
    means["noise_mean"] = whole.noise.mean(["clip", "channel"])
    means["verdict"] = ("sentence", fidelity.verdict(whole))
    means["n"] = len(frames_of(clips))
    return means


if __name__ == "__main__":
    from figures.invert_clips import draw

    main(Config, run, table, draw, "invert_clips", __doc__)
