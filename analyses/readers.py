"""Readers of any clips, of quadruplets or not: a mean over all tokens or over time, by cell, for any data set."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from dit_lens.baselines import Baseline, MatchedNoise
from dit_lens.clips import Clip, stack_frames
from dit_lens.datasets.lines import Line, Some
from dit_lens.lens import DiTLens
from dit_lens.probing import Labelled

Cells = Mapping[Hashable, np.ndarray]


@dataclass(frozen=True, eq=False)
class Reader:
    """Clips -> features (b, d) by cell; `kind` is the published row that it belongs to, or its own name."""

    name: str
    kind: str
    read: Callable[[Sequence[Clip]], Cells]
    weights: str


@dataclass(frozen=True, eq=False)
class Seen:
    """A data set as a reader sees it: its clips with labels, and the policy of its makers."""

    line: Line
    clips: Labelled
    policy: str


def named(line: str) -> tuple[str, str]:
    """Which row a line is, and its weights: of "wan=FOLDER" both, of "mini-wan" the name twice."""
    name, _, weights = line.partition("=")
    return name, weights or name


def states(lens: DiTLens, kind: str, steps: Sequence[int], levels: int) -> Reader:
    """The output of every block at some steps of the Euler inversion, mean over tokens, by (step, block)."""

    @torch.no_grad()
    def read(clips: Sequence[Clip]) -> Cells:
        path = lens.invert(clips, steps=levels, solver="euler", until=max(steps))
        cells: dict[Hashable, np.ndarray] = {}
        for step in steps:
            _, cache = lens.run_with_cache(
                path, step, names_filter="blocks.*.hook_resid_post", reduce=lambda x: x.float().mean(1)
            )
            cells |= {(step, i): cache["resid_post", i].cpu().numpy() for i in range(lens.blocks)}
        return cells

    return Reader(kind, kind, read, lens.name)


def of_frames(baseline: Baseline, kind: str) -> Reader:
    """The layers of a baseline."""

    def read(clips: Sequence[Clip]) -> Cells:
        features = baseline(stack_frames(clips))
        return {name: features[:, i] for i, name in enumerate(baseline.layers)}

    return Reader(baseline.name, kind, read, baseline.weights)


def look(reader: Reader, line: Line, items: Some, batch_size: int) -> Seen:
    """All labelled clips of a data set, read batch by batch."""
    cells: dict[Hashable, list[np.ndarray]] = {}
    clips: list[Clip] = []
    for start in tqdm(range(0, len(items), batch_size), desc=f"{line}, {reader.name}", unit="batch"):
        batch = items[start : start + batch_size]
        known = [clip for item in batch for clip in item.clips if clip.possible is not None]
        for key, values in reader.read(known).items() if known else ():
            cells.setdefault(key, []).append(values)
        clips += [replace(clip, frames=clip.frames[:0]) for clip in known]  # what is known of them, without the film
    whole = {key: np.concatenate(values) for key, values in cells.items()}
    labels, groups = np.array([bool(clip.possible) for clip in clips]), np.array([clip.group for clip in clips])
    return Seen(line, Labelled(whole, labels, groups), str(clips[0].factors.get("policy", "")))


def matched_noise(reader: Reader, seen: Sequence[Seen], seed: int) -> tuple[Reader, list[Seen]]:
    """Gaussian noise with the mean and covariance of what a reader sees in each data set, in place of it."""
    rng = np.random.default_rng(seed)

    def drawn(one: Seen) -> Seen:
        noise = {key: MatchedNoise.of(x).draw(len(x), rng).astype(np.float32) for key, x in one.clips.cells.items()}
        return replace(one, clips=replace(one.clips, cells=noise))

    made = Reader(f"noise matched to {reader.name}", "noise", reader.read, "none")
    return made, [drawn(one) for one in seen]
