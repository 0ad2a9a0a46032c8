"""One inversion step by step: the report of `dit_lens.fidelity`, means over clips, with a sentence for each metric."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from dit_lens import fidelity
from dit_lens.capture import clips_of
from dit_lens.clips import Clip, Scene
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.studies.inversions.probes import inverted
from dit_lens.studies.options import Options
from dit_lens.trajectory import Trajectory

PATTERNS = 1e9  # bytes of attention patterns of one head; above, none are compared


def report(lens: DiTLens, clips: Sequence[Scene | Clip], probe: Probe | None, study: Options) -> xr.Dataset:
    """A fidelity report, means over clips, with its verdict.

    Args:
        clips: scenes of the data set, or clips of the user's folder.
    """
    steps = study.sampler_steps or 0
    scenes = [item for item in clips if isinstance(item, Scene)]
    videos = clips_of(scenes) if scenes else [item for item in clips if isinstance(item, Clip)]
    path = inverted(lens, scenes, study, steps, study.solver) if scenes else lens.invert(videos, steps, study.solver)
    every = range(0, steps + 1, max(1, steps // 5))
    watch = fidelity.Watch(sorted({*every, steps}), watched_heads(lens, path), probe)
    table = lens.fidelity(path, videos, watch=watch, seed=study.seed, progress=True)
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
