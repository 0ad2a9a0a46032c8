"""Can the inverted path be trusted, and does its error alone reveal the label?

Why: every probe on inverted states assumes that they are the states of the sampler. A good round trip does not prove
this: it can be exact by construction.

Method: a table of solvers by number of steps gives the cost of an inversion (velocity evaluations one way), the
round-trip loss (latents, and pixels beside the autoencoder alone), the distance of its noise from a fine solution of
the ODE and from known noise (from which the sampler started), the change when the model is rounded to bfloat16, and the
accuracy of a probe on inverted states. One solver is then examined step by step (`lens.fidelity`), with a verdict on
each metric, on clips of the data set and of a folder of yours, and for its dependence on the prompt.

Controls: the known-noise test compares with the sampler's own path (latents, streams, attention patterns, probe
logits), from its latent and from its decoded and re-encoded video, next to the distance between two clips; a random
initialisation. AUROC says what fidelity alone reveals about possible and impossible clips, and about whether a probe is
right: 0.5 is nothing.

Output: invert_clips-*.nc with the table, the reports, and what fidelity reveals about labels.

Cost: about ten minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.datasets.spec import LABELS
from dit_lens.studies import Size, Study

NEUTRAL = "a video"  # says nothing of a clip


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --solver and --sampler-steps set the step-by-step report, --read-at the probes."""

    NEEDS: ClassVar[tuple[str, ...]] = (LABELS,)
    ONE_PLACE: ClassVar[bool] = True
    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-random",), "path": "inversion", "sampler_steps": 25, "read_at": (0.6,), "train": 66,
        "test": 44,
    }  # fmt: skip

    solver: Literal["euler", "implicit_euler", "midpoint", "heun", "fireflow"] = "heun"
    """Solver of the step-by-step report."""
    step_counts: tuple[int, ...] = (10, 20, 40)
    """Numbers of steps compared in the table of solvers."""
    fine: int = 100
    """Heun steps of the reference solution."""
    shift: float = 2.0
    """Shift of the noise levels towards noise in an extra Heun row of the table; 1 leaves the row out."""
    shown: int = 2
    """Number of test scenes in the table and the report."""
    probe_scenes: int = 6
    """Number of training scenes, and of test scenes, for the probe in each cell of the table."""
    folder: str = ""
    """Folder of further clips (with or without clips.csv), fitted to the data set's frames and size."""
    prompts: tuple[str, ...] = (NEUTRAL, "a red ball rolls behind a wall")
    """Prompts to compare with --prompt, for models with a text encoder."""

    def resolved(self) -> Config:
        """With every unset option filled in: clips are inverted."""
        return super(Config, replace(self, path=self.path or "inversion")).resolved()

    def check(self) -> None:
        """Checks options as for every study; also that the path is inversion and no number is too small."""
        super().check()
        if self.path != "inversion":
            raise ValueError(
                f"got --path {self.path} · expected inversion, which this analysis is about · leave --path out"
            )
        if not self.step_counts or min(*self.step_counts, self.fine, self.shown) < 1 or self.probe_scenes < 5:
            raise ValueError(
                f"got --step-counts {' '.join(map(str, self.step_counts))}, --fine {self.fine}, --shown {self.shown},"
                f" --probe-scenes {self.probe_scenes} · expected one or more step counts, every number at least 1, and"
                " at least 5 --probe-scenes"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of the round trip, of the table of solvers, and of the reports."""
        table = 5 * 15 * sum(self.step_counts) * (self.shown + self.probe_scenes / 2) / max(1, size.test)
        return size.clips * (table + 2 * (self.sampler_steps or 0) * (1 + 7 * self.shown / max(1, size.test)))


CONFIG = asked(Config, __name__)

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from dit_lens import fidelity
from dit_lens.capture import batches, clips_of, conditioning_of
from dit_lens.clips import Clip, Scene
from dit_lens.conditioning import Conditioning
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.spec import DataSpec
from dit_lens.flow import Solver
from dit_lens.inversion import Steps
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads, auroc, score
from dit_lens.studies import outcome
from dit_lens.studies.encoders import text_of
from dit_lens.studies.options import LEVELS
from dit_lens.studies.paths import path_of, schedule
from dit_lens.trajectory import Schedule, Trajectory

MOVED = (0.1, 1.0)  # of an embedding's norm
PATTERNS = 1e9  # bytes of attention patterns of one head; above, none are compared


def run(config: Config) -> xr.Dataset:
    """The table of solvers, the reports, and how well fidelity predicts labels."""
    train, test = config.scenes("train"), config.scenes("test")
    few = test[: config.shown]
    sources: dict[str, list[Scene] | list[Clip]] = {str(config.spec): few}
    if config.folder:
        sources[Path(config.folder).name] = files(config.folder, few[0].clips[0])
    reports: dict[str, xr.Dataset] = {}
    for name, lens in config.lenses():
        if not reports:
            probe = fit_probe(lens, train, schedule(config, lens, test), config, f"{name}, probe")
            question, parts = lens, [solver_table(lens, train, test, config), label_table(lens, test, probe, config)]
            parts += prompt_table(lens, few, config)
        watched = None if reports else probe
        tables = [report(lens, clips, watched, config) for clips in sources.values()]
        reports[name] = xr.concat(tables, xr.Variable("data", list(sources)), compat="override", coords="minimal")
    result = xr.merge([*parts, outcome.by_model(reports, join="outer")], compat="equals", join="exact")
    return outcome.finished(result, config, question)


def files(folder: str, like: Clip) -> list[Clip]:
    """The clips of a folder, in the number and size of the frames of another clip."""
    count, height, width, _ = like.frames.shape
    framing = Framing(count=count, policy="resample", size=(height, width), fit="crop")
    return [clip for scene in DataSpec("folder", root=folder).load(framing, fps=like.fps) for clip in scene.clips]


# Inversions.


def inverted(
    lens: DiTLens, scenes: Sequence[Scene], config: Config, steps: Steps, solver: str | Solver, until: int | None = None
) -> Trajectory:
    """The inversion of all clips of scenes, in the order of `clips_of`, under the conditioning of the study."""
    clips, guidance = clips_of(scenes), config.guidance if config.guidance != 1 else None
    conditioning = conditioning_of(lens, scenes, path_of(config))
    return lens.invert(clips, steps, solver, until=until, batch_size=len(clips), prompt=conditioning, guidance=guidance)


def place_of(steps: Schedule, config: Config) -> int:
    """The step of a schedule at which probes read: --read-at as a step, or the step nearest to that noise level."""
    place = (config.read_at or LEVELS)[0]
    return steps.step_at(place) if isinstance(place, float) else min(place, len(steps))


def fit_probe(
    lens: DiTLens,
    scenes: Sequence[Scene],
    steps: Schedule,
    config: Config,
    progress: str | None = None,
    solver: str | Solver = "",
) -> Probe:
    """A probe for "possible" on token means after one block at one noise level; neither is chosen by the data."""
    block = 2 * (lens.blocks - 1) // 3 if config.block is None else config.block
    place = place_of(steps, config)
    reads = Reads(f"blocks.{block}.hook_resid_post", place, steps.sigmas[place], lens.name)
    read = list(states(lens, scenes, config, (steps, solver or config.solver, reads), progress))
    clips = [clip for _, batch_clips, _ in read for clip in batch_clips]
    labelled = np.array([clip.possible is not None for clip in clips])
    possible, groups = np.array([bool(clip.possible) for clip in clips]), np.concatenate([g for *_, g in read])
    return Probe.fit(np.concatenate([x for x, *_ in read])[labelled], possible[labelled], groups[labelled], reads)


@torch.no_grad()
def states(
    lens: DiTLens,
    scenes: Sequence[Scene],
    config: Config,
    reading: tuple[Schedule, str | Solver, Reads],
    progress: str | None = None,
) -> Iterator[tuple[np.ndarray, list[Clip], np.ndarray]]:
    """Batch by batch: token means (b, d) of what a probe reads, the clips, and the group of each."""
    steps, solver, reads = reading
    for batch in batches(scenes, config.batch_size, progress):
        path = inverted(lens, batch, config, steps, solver, until=reads.step)
        yield pooled(lens, path, reads), clips_of(batch), groups_of(batch)


@torch.no_grad()
def pooled(lens: DiTLens, path: Trajectory, reads: Reads) -> np.ndarray:
    """Token means (b, d) of what a probe reads."""
    _, cache = lens.run_with_cache(path, reads.step, names_filter=reads.point, reduce=lambda x: x.float().mean(1))
    return cache[reads.point].cpu().numpy()


def groups_of(batch: Sequence[Scene]) -> np.ndarray:
    """The group of each clip, in the order of `clips_of`."""
    group = {clip.id: scene.group for scene in batch for clip in scene.clips}
    return np.array([group[clip.id] for clip in clips_of(batch)])


def logits(probe: Probe, states: np.ndarray) -> np.ndarray:
    """Log odds of token means."""
    return states @ probe.weight.numpy() + float(probe.bias)


# The table of solvers.


def solver_table(lens: DiTLens, train: Sequence[Scene], test: Sequence[Scene], config: Config) -> xr.Dataset:
    """Costs, errors, probe accuracy and drift in bfloat16 (solver, steps), means over clips."""
    few = test[: config.shown]
    fine = inverted(lens, few, config, config.fine, "heun")
    exact, half = fine.latents[-1], in_bfloat16(lens, config)
    truth = fidelity.Truth(exact, fidelity.white_noise(max(2, len(exact)), exact, config.seed), fine.conditions)
    rows = {name: (solver, 1.0) for name, solver in fidelity.SOLVERS.items()}
    if config.shift != 1:
        rows[f"Heun, shift {config.shift:g}"] = (Solver("heun"), config.shift)
    probed, unprobed = train[: config.probe_scenes], test[: config.probe_scenes]

    def cell(solver: Solver, steps: Schedule) -> xr.Dataset:
        table = fidelity.solver_cell(lens, clips_of(few), truth, solver, steps, half)
        return table.merge(probe_cell(lens, probed, unprobed, steps, config, solver))

    schedules = {count: lens.schedule(count, exact[:1]) for count in config.step_counts}
    lines: list[Any] = [
        xr.concat(
            [cell(solver, steps.shifted(shift)) for steps in schedules.values()],
            xr.Variable("sampler_steps", list(schedules)),
        )
        for solver, shift in rows.values()
    ]
    grid: Any = xr.concat(lines, xr.Variable("solver", list(rows)))
    if half is None:
        grid["drift"] = grid.error * np.nan
    table = grid.rename({str(name): f"table_{name}" for name in grid.data_vars} | {"comparison": "pair"})
    return table.assign(table_probe_clips=sum(clip.possible is not None for clip in clips_of(unprobed)))


def in_bfloat16(lens: DiTLens, config: Config) -> DiTLens | None:
    """The same model in bfloat16; None if it already is, or if a second copy cannot be loaded."""
    if config.device_map or config.offload != "none" or lens.facts()["dtype"] == "bfloat16":
        return None
    try:
        return replace(config, dtype="bfloat16").lens()
    except (RuntimeError, MemoryError, ValueError) as error:  # torch's out of memory is a RuntimeError
        print(f"no comparison with the model in bfloat16: {error}", file=sys.stderr)
        return None


def probe_cell(
    lens: DiTLens, train: Sequence[Scene], test: Sequence[Scene], steps: Schedule, config: Config, solver: Solver
) -> xr.Dataset:
    """Accuracy of a probe fitted on training scenes of the same solver and steps, and the seconds that it took."""
    began = time.perf_counter()
    probe = fit_probe(lens, train, steps, config, solver=solver)
    right = [
        (value > 0) == clip.possible
        for x, clips, _ in states(lens, test, config, (steps, solver, probe.reads))
        for value, clip in zip(logits(probe, x), clips, strict=True)
        if clip.possible is not None
    ]
    return xr.Dataset({"probe": np.mean(right), "probe_seconds": time.perf_counter() - began})


# Prompts, labels, reports.


def prompt_table(lens: DiTLens, scenes: Sequence[Scene], config: Config) -> list[xr.Dataset]:
    """Sensitivity of the recovered noise to the prompt, averaged over clips, beside the distance between two clips."""
    alternatives = prompts(lens, config)
    if not alternatives:
        return []
    path = inverted(lens, scenes, config, config.sampler_steps or 0, config.solver)
    table = fidelity.prompt_sensitivity(lens, path, alternatives).mean("clip")
    noise = path.latents[-1]
    return [table.assign(prompt_between=float(fidelity.relative_error(noise.roll(1, 0), noise).mean()))]


def prompts(lens: DiTLens, config: Config) -> dict[str, Conditioning]:
    """Conditionings by name; for a model without a text encoder, its one embedding moved in a random direction."""
    if lens.prompts.can_encode:
        return {prompt: lens.encode_prompt(prompt) for prompt in config.prompts}
    if text_of(lens) is None:
        return {}
    return {
        f"embedding moved by {size:.0%}": fidelity.perturbed(lens.conditioning, size, config.seed) for size in MOVED
    }


def label_table(lens: DiTLens, scenes: Sequence[Scene], probe: Probe, config: Config) -> xr.Dataset:
    """AUROC of fidelity for the label with its interval, ordered pairs, and AUROC for whether a probe is right."""
    columns: dict[str, list[np.ndarray]] = {}
    for batch in batches(scenes, config.batch_size, f"{lens.name}, labels"):
        path = inverted(lens, batch, config, config.sampler_steps or 0, config.solver)
        numbers = fidelity.predictors(path, fidelity.round_trip(lens, path)[0])
        numbers["probe (for comparison)"] = logits(probe, pooled(lens, path, probe.reads))
        names = {clip.id: scene.id for scene in batch for clip in scene.clips}
        clips = clips_of(batch)
        labels = {
            "possible": np.array([np.nan if clip.possible is None else clip.possible for clip in clips], float),
            "group": groups_of(batch),
            "scene": np.array([names[clip.id] for clip in clips]),
        }
        for key, values in (numbers | labels).items():
            columns.setdefault(key, []).append(values)
    values_by_name = {key: np.concatenate(parts) for key, parts in columns.items()}
    has_label = np.isfinite(values_by_name["possible"])
    values_by_name = {key: values[has_label] for key, values in values_by_name.items()}
    possible, groups, owners = (values_by_name.pop(key) for key in ("possible", "group", "scene"))
    right = (values_by_name["probe (for comparison)"] > 0) == (possible > 0)
    rows = [score(values, possible > 0, groups, owners) for values in values_by_name.values()]
    names = {"auroc": "auroc", "low": "auroc_low", "high": "auroc_high", "pairwise": "pairwise"}
    table = {f"label_{key}": ("predictor", [getattr(row, name) for row in rows]) for key, name in names.items()}
    table["label_right"] = (
        "predictor",
        [auroc(values, right, groups)[0] if 0 < right.mean() < 1 else np.nan for values in values_by_name.values()],
    )
    return xr.Dataset(
        table | {"probe_accuracy": right.mean(), "label_clips": len(right)}, coords={"predictor": list(values_by_name)}
    )


def report(lens: DiTLens, clips: Sequence[Scene | Clip], probe: Probe | None, config: Config) -> xr.Dataset:
    """A fidelity report, means over clips, with its verdict.

    Args:
        clips: scenes of the data set, or clips of the user's folder.
    """
    steps = config.sampler_steps or 0
    scenes = [item for item in clips if isinstance(item, Scene)]
    videos = clips_of(scenes) if scenes else [item for item in clips if isinstance(item, Clip)]
    path = inverted(lens, scenes, config, steps, config.solver) if scenes else lens.invert(videos, steps, config.solver)
    every = range(0, steps + 1, max(1, steps // 5))
    watch = fidelity.Watch(sorted({*every, steps}), watched_heads(lens, path), probe)
    table = lens.fidelity(path, videos, watch=watch, seed=config.seed, progress=True)
    beyond = abs(table.noise - table.noise_expected) / table.noise_spread > fidelity.EXTREME
    means = table.drop_vars(["noise", "converged", "noise_expected", "noise_spread"]).mean(["clip", "known_clip"])
    means["noise_away"] = beyond.mean(["clip", "channel"])
    means["noise_mean"] = table.noise.mean(["clip", "channel"])
    means["verdict"] = ("sentence", fidelity.verdict(table))
    means["n"] = len(videos)
    return means


def watched_heads(lens: DiTLens, path: Trajectory) -> list[tuple[int, int]]:
    """The first head of the first, middle and last block; none where patterns are absent or too large to keep."""
    tokens, depth = lens.model.grid(lens.evaluation(path, 0)).tokens, lens.blocks - 1
    chosen = [(block, 0) for block in dict.fromkeys((0, depth // 2, depth))]
    available = all(f"blocks.{block}.attn.hook_pattern" in lens.table.points for block, _ in chosen)
    return chosen if available and 4 * len(path) * lens.heads * tokens**2 <= PATTERNS else []


if CONFIG is not None:
    answer(CONFIG, run)
