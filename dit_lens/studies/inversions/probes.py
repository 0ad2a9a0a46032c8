"""Probes on inverted states: inversions of scenes, and a linear probe at one place that is not chosen by the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dit_lens.capture import batches, clips_of, conditioning_of
from dit_lens.clips import Clip, Scene
from dit_lens.flow import Solver
from dit_lens.inversion import Steps
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.studies.options import LEVELS, Options
from dit_lens.studies.paths import path_of
from dit_lens.trajectory import Schedule, Trajectory


def inverted(
    lens: DiTLens, scenes: Sequence[Scene], study: Options, steps: Steps, solver: str | Solver, until: int | None = None
) -> Trajectory:
    """The inversion of all clips of scenes, in the order of `clips_of`, under the conditioning of the study."""
    clips, guidance = clips_of(scenes), study.guidance if study.guidance != 1 else None
    conditioning = conditioning_of(lens, scenes, path_of(study))
    return lens.invert(clips, steps, solver, until=until, batch_size=len(clips), prompt=conditioning, guidance=guidance)


def place_of(steps: Schedule, study: Options) -> int:
    """The step of a schedule at which probes read: --read-at as a step, or the step nearest to that noise level."""
    place = (study.read_at or LEVELS)[0]
    return steps.step_at(place) if isinstance(place, float) else min(place, len(steps))


def fit_probe(
    lens: DiTLens,
    scenes: Sequence[Scene],
    steps: Schedule,
    study: Options,
    progress: str | None = None,
    solver: str | Solver = "",
) -> Probe:
    """A probe for "possible" on token means after one block at one noise level; neither is chosen by the data."""
    block = 2 * (lens.blocks - 1) // 3 if study.block is None else study.block
    place = place_of(steps, study)
    reads = Reads(f"blocks.{block}.hook_resid_post", place, steps.sigmas[place], lens.name)
    read = list(states(lens, scenes, study, (steps, solver or study.solver, reads), progress))
    clips = [clip for _, batch_clips, _ in read for clip in batch_clips]
    labelled = np.array([clip.possible is not None for clip in clips])
    possible, groups = np.array([bool(clip.possible) for clip in clips]), np.concatenate([g for *_, g in read])
    return Probe.fit(np.concatenate([x for x, *_ in read])[labelled], possible[labelled], groups[labelled], reads)


@torch.no_grad()
def states(
    lens: DiTLens,
    scenes: Sequence[Scene],
    study: Options,
    reading: tuple[Schedule, str | Solver, Reads],
    progress: str | None = None,
) -> Iterator[tuple[np.ndarray, list[Clip], np.ndarray]]:
    """Batch by batch: token means (b, d) of what a probe reads, the clips, and the group of each."""
    steps, solver, reads = reading
    for batch in batches(scenes, study.batch_size, progress):
        path = inverted(lens, batch, study, steps, solver, until=reads.step)
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
