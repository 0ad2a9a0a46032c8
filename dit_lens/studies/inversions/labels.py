"""Whether the error of an inversion alone separates possible from impossible clips: what a probe must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens import fidelity
from dit_lens.capture import batches, clips_of
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, auroc, score
from dit_lens.studies.inversions.probes import groups_of, inverted, logits, pooled
from dit_lens.studies.options import Options

PROBE = "probe (for comparison)"


def label_table(lens: DiTLens, scenes: Sequence[Scene], probe: Probe, study: Options) -> xr.Dataset:
    """AUROC of fidelity for the label with its interval, ordered pairs, and AUROC for whether a probe is right."""
    columns: dict[str, list[np.ndarray]] = {}
    for batch in batches(scenes, study.batch_size, f"{lens.name}, labels"):
        for key, values in (_predictors(lens, batch, probe, study) | _labels(batch)).items():
            columns.setdefault(key, []).append(values)
    values_by_name = {key: np.concatenate(parts) for key, parts in columns.items()}
    has_label = np.isfinite(values_by_name["possible"])
    values_by_name = {key: values[has_label] for key, values in values_by_name.items()}
    possible, groups, owners = (values_by_name.pop(key) for key in ("possible", "group", "scene"))
    right = (values_by_name[PROBE] > 0) == (possible > 0)
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


def _predictors(lens: DiTLens, batch: Sequence[Scene], probe: Probe, study: Options) -> dict[str, np.ndarray]:
    """Numbers of each clip's inversion, in the order of `clips_of`; beside them the probe's logits."""
    path = inverted(lens, batch, study, study.sampler_steps or 0, study.solver)
    numbers = fidelity.predictors(path, fidelity.round_trip(lens, path)[0])
    return numbers | {PROBE: logits(probe, pooled(lens, path, probe.reads))}


def _labels(batch: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Label (NaN where unknown), group and scene of each clip, in the order of `clips_of`."""
    names, clips = {clip.id: scene.id for scene in batch for clip in scene.clips}, clips_of(batch)
    return {
        "possible": np.array([np.nan if clip.possible is None else clip.possible for clip in clips], float),
        "group": groups_of(batch),
        "scene": np.array([names[clip.id] for clip in clips]),
    }
