"""Can the inverted path be trusted: does it come back, is it the sampler's own, and does its error know the label?

Method: a table of solvers by numbers of steps gives what an inversion costs (evaluations of the velocity one way), what
it loses there and back (latent, pixels beside the autoencoder alone), how far its noise is from that of a fine solution
of the ODE, and how far it is from noise that is known, because the sampler started there. One solver is then looked at
step by step (`lens.fidelity`), with a verdict on each metric, on clips of the data set and on files of one's own.

Controls: a round trip can be exact by construction, so the known-noise test has the sampler's own path to compare with
(latents, streams, attention patterns, probe logits), from its latent and from its decoded and encoded video, beside the
distance between two clips; a random initialisation. What fidelity alone says of possible and impossible clips, and of
whether a probe is right, is told as AUROC: 0.5 says nothing.

Output: figures/data/invert_clips.nc. Cost: about six minutes of one core with the defaults.
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
from dit_lens import datasets, fidelity
from dit_lens.clips import ROLES, Clip, Quadruplet
from dit_lens.flow import Solver
from dit_lens.inversion import frames_of
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.reading import evenly, fit, read_frames
from dit_lens.trajectory import Trajectory

SOLVERS = {
    "Euler": Solver("euler"),
    "Euler, target time": Solver("euler", time_at="target"),
    "implicit Euler": Solver("implicit_euler"),
    "midpoint (RF-Solver)": Solver("midpoint"),
    "Heun": Solver("heun"),
    "FireFlow": Solver("fireflow"),
}
PROBED = 0.6  # the noise level that the probe reads at, two thirds up the blocks


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
    fine: int = 100
    """Steps of Heun that stand for the exact solution in the table."""
    clips: int = 2
    """Test quadruplets in the table and in the reports."""
    train: int = 66
    """Training quadruplets, for the probe."""
    test: int = 44
    """Test quadruplets that fidelity is asked for labels of."""
    seed: int = 0
    """Seed of the data set, of the known noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """The table of solvers, the reports, and what fidelity knows of labels."""
    train, test = (
        datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)[:]
        for part, size in (("train", config.train), ("test", max(config.test, config.clips)))
    )
    few = _clips(test[: config.clips])
    sources: dict[str, Any] = {config.dataset: few}
    if config.folder:
        sources[Path(config.folder).name] = files(Path(config.folder), few[0].frames)
    lens = DiTLens.from_pretrained(config.model, seed=config.seed)
    probe = fit_probe(lens, train, config)
    parts = [solver_table(lens, few, config), label_table(lens, test[: config.test], probe, config)]
    for name in (config.model, *config.controls):
        own = lens if name == config.model else DiTLens.from_pretrained(name, seed=config.seed)
        told = {key: report(own, clips, probe if own is lens else None, config) for key, clips in sources.items()}
        joined: Any = xr.concat(told.values(), xr.Variable("data", list(told)), compat="override", coords="minimal")
        parts.append(joined.expand_dims(model=[name]))
    reports: Any = xr.concat(parts[2:], "model", data_vars="all", join="outer")
    result = xr.merge([*parts[:2], reports], compat="equals", join="exact")
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


def fit_probe(lens: DiTLens, quadruplets: Sequence[Quadruplet], config: Config) -> Probe:
    """A probe for "possible" on token means of one block's output at one noise level, chosen beforehand."""
    block, place = 2 * (lens.blocks - 1) // 3, lens.schedule(config.steps).step_at(PROBED)
    point = f"{lens.table.blocks[block]}.hook_resid_post"
    clips = _clips(quadruplets)
    path = lens.invert(clips, config.steps, config.solver, until=place, progress=True)
    possible, groups = np.array([clip.possible for clip in clips]), np.array([clip.group for clip in clips])
    reads = Reads(point, place, path.schedule.sigmas[place], lens.name)
    return Probe.fit(pooled(lens, path, reads).numpy(), possible, groups, reads)


@torch.no_grad()
def pooled(lens: DiTLens, path: Trajectory, reads: Reads) -> torch.Tensor:
    """Token means (b, d) of what a probe reads."""
    _, cache = lens.run_with_cache(path, reads.step, names_filter=reads.point, reduce=lambda x: x.mean(1))
    return cache[reads.point].float().cpu()


def solver_table(lens: DiTLens, clips: list[Clip], config: Config) -> xr.Dataset:
    """Costs and errors (solver, levels), means over clips."""
    exact = lens.invert(clips, config.fine, "heun").latents[-1]
    rows = [
        [solver_cell(lens, clips, exact, solver, n, config.seed) for n in config.levels] for solver in SOLVERS.values()
    ]
    grid: Any = xr.combine_nested(
        rows,
        ["solver", "levels"],
        compat="override",
        coords="minimal",
        join="exact",
    )
    return grid.assign_coords(solver=list(SOLVERS), levels=list(config.levels))


def solver_cell(
    lens: DiTLens, clips: list[Clip], exact: torch.Tensor, solver: Solver, steps: int, seed: int
) -> xr.Dataset:
    """One cell of the table."""
    began = time.perf_counter()
    path = lens.invert(clips, steps, solver)
    seconds = (time.perf_counter() - began) / len(clips)
    error, back = fidelity.round_trip(lens, path)
    pixels = fidelity.reconstruction(lens, path, back, clips).mean("clip")
    known = fidelity.known_noise(lens, fidelity.white_noise(len(clips), exact, seed), steps, solver)
    recovered = known.error.sel(measure="latent").isel(step=-1).mean("clip")
    assert path.record is not None
    return xr.Dataset(
        {
            "table_evaluations": float(path.record.evaluations.sum("step").mean()),
            "table_seconds": seconds,
            "table_error": float(error.mean()),
            "table_error_at_data": float(error[0].mean()),
            "table_converged": float(path.record.converged.mean()),
            "table_psnr": pixels.psnr.rename(comparison="pair"),
            "table_to_exact": float(fidelity.relative_error(path.latents[-1], exact).mean()),
            "table_known": ("from", recovered.values),
        },
        coords={"from": list(fidelity.STARTS)},
    ).expand_dims(["solver", "levels"])


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


def table(result: xr.Dataset) -> str:
    """The table of solvers, the verdicts, and what fidelity knows of labels."""
    lines = [
        "solver, steps                evaluations  s/clip  round trip (mean, at data)   PSNR to autoencoder  to source"
        "  exact noise  known noise (latent, video)  solved"
    ]
    for solver in result.solver.values:
        for n in result.levels.values:
            row = result.sel(solver=solver, levels=n)
            psnr = {str(pair): float(row.table_psnr.sel(pair=pair)) for pair in row.pair.values}
            known = [float(row.table_known.sel({"from": start})) for start in fidelity.STARTS]
            lines.append(
                f"{solver!s:22s} {n:4d}  {float(row.table_evaluations):11.0f}  {float(row.table_seconds):6.2f}"
                f"  {float(row.table_error):11.1e} {float(row.table_error_at_data):11.1e}"
                f"    {psnr[fidelity.TO_CEILING]:14.1f} dB   {psnr[fidelity.TO_SOURCE]:8.1f}"
                f"  {float(row.table_to_exact):11.1e}  {known[0]:10.1e} {known[1]:12.1e}"
                f"  {float(row.table_converged):10.0%}"
            )
    lines.append(f"ceiling: the autoencoder alone has {psnr[fidelity.CEILING]:.1f} dB to the source")
    for model in result.model.values:
        for data in result.data.values:
            cell = result.sel(model=model, data=data)
            lines += ["", f"{model}, {data} (n = {int(cell.n)})", *(f"  {s}" for s in cell.verdict.values)]
    lines += ["", f"AUROC for possible, {int(result.label_clips)} clips; of the probe's being right"]
    for predictor in result.predictor.values:
        row = result.sel(predictor=predictor)
        interval = f"[{float(row.label_low):.2f}, {float(row.label_high):.2f}]"
        ordered = f"pairs in order {float(row.label_pairwise):.2f}; right {float(row.label_right):.2f}"
        lines.append(f"  {predictor!s:24s} {float(row.label_auroc):.2f} {interval}  {ordered}")
    lines.append(label_verdict(result))
    return "\n".join(lines)


def label_verdict(result: xr.Dataset) -> str:
    """One sentence on what fidelity knows."""
    knowing = (result.label_low > 0.5) | (result.label_high < 0.5)
    found = [str(name) for name in result.predictor.values[knowing.values] if not str(name).startswith("probe")]
    if not found:
        return "Labels: no measure of fidelity tells possible from impossible (every interval holds 0.5)."
    reach = float(abs(result.label_auroc.sel(predictor=found) - 0.5).max())
    return (
        f"Labels: {', '.join(found)} TELL possible from impossible, by an AUROC at most {reach:.2f} from 0.5;"
        " a probe must beat them."
    )


if __name__ == "__main__":
    from figures.invert_clips import draw

    main(Config, run, table, draw, "invert_clips", __doc__)
