"""Models with frozen probes: features of training scenes, a probe at each step, and one choice of the block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from dit_lens import results
from dit_lens.capture import NoisePath, StoreFolder
from dit_lens.capture import features as captured
from dit_lens.clips import Scene
from dit_lens.datasets.spec import DataSpec
from dit_lens.hook_points import NamesFilter
from dit_lens.lens import DiTLens
from dit_lens.models.loading import fingerprint
from dit_lens.probing import Features, Probe
from dit_lens.probing import fit as fit_probes
from dit_lens.studies.lenses import original_name
from dit_lens.studies.options import Options
from dit_lens.studies.paths import path_of, steps_of
from dit_lens.studies.price import each
from dit_lens.studies.scenes import scenes as scenes_of


@dataclass(frozen=True, eq=False)
class Reader:
    """A model, its features on training scenes, and the probes fitted on them.

    Attributes:
        lens: the model.
        path: how clips get to noise.
        features: of the training scenes, cells (step, block).
        accuracy: out of fold on training scenes (step, block).
        blocks: after which block the probe of each step reads.
    """

    lens: DiTLens
    path: NoisePath
    features: Features
    accuracy: xr.DataArray
    blocks: Mapping[int, int]

    @property
    def steps(self) -> list[int]:
        """The steps that probes read at."""
        return list(self.blocks)

    @cached_property
    def probes(self) -> dict[int, Probe]:
        """The probe of each step, fitted on all training scenes and frozen."""
        return {step: self._probe(step) for step in self.blocks}

    @property
    def probe(self) -> Probe:
        """The probe of the first step."""
        return self.probes[self.steps[0]]

    def facts(self) -> xr.Dataset:
        """Facts of the probe for a table over one step: `probe_spread`, and `train_accuracy` by `depth`."""
        accuracy = self.accuracy.sel(step=self.steps[0]).reset_coords(drop=True).rename(block="depth")
        return xr.Dataset({"probe_spread": self.probe.spread, "train_accuracy": accuracy})

    def place(self) -> dict[str, int | float]:
        """The place of the readout for a table over one step: `readout_block`, `step` and `sigma`."""
        step = self.steps[0]
        return {"readout_block": self.blocks[step], "step": step, "sigma": self.probe.reads.sigma}

    def _probe(self, step: int) -> Probe:
        probe = fit_probes(self.features, cell=(step, self.blocks[step])).probe
        assert probe is not None
        return probe


def kept(study: Options, lens: DiTLens, split: str) -> StoreFolder | None:
    """The store of the study's activations; None without one."""
    spec = study.fit_spec if split == "train" else study.spec
    return StoreFolder(Path(study.store), decides(study, spec, lens), study.runs_on) if study.store else None


def decides(study: Options, spec: DataSpec, lens: DiTLens) -> dict[str, Any]:
    """The inputs that determine activations, beside path and steps: data, weights and code. Scenes differ by their ids.

    The split is no part of it: a scene's id names it, or the folder that the split lies in.
    """
    return {
        "data": f"{spec.name}={Path(spec.root).resolve() if spec.root else ''}",
        "data_options": dict(spec.options),
        "framing": [study.frames, study.size, study.fit],
        "seed": study.seed,
        "weights": fingerprint(original_name(study, lens)),
        "code": results.code_digest("dit_lens.capture.engine"),
    }


def features(
    study: Options,
    lens: DiTLens,
    scenes: Sequence[Scene],
    split: Literal["train", "test"],
    path: NoisePath | None = None,
    **options: Any,
) -> Features:
    """Token means of block outputs of these scenes' clips, at the steps of the study.

    Args:
        **options: point and pooling, see `dit_lens.capture.features`.
    """
    noise_path = path or path_of(study)
    return captured(
        lens, scenes, steps_of(study, lens, scenes, noise_path), noise_path, batch_size=study.batch_size,
        kept=kept(study, lens, split), progress=f"{lens.name}, {split} scenes, {noise_path.kind}", **options,
    )  # fmt: skip


def readers(study: Options, path: NoisePath | None = None, points: NamesFilter = ()) -> Iterator[Reader]:
    """Each model of the study in turn, with its probes; all are read after the blocks that the first model chose.

    Args:
        points: hook points that the question needs; a model that lacks them is refused before anything is captured.

    Raises:
        ValueError: `--block` that the model does not have. KeyError: a missing hook point; says why.
    """
    blocks: dict[int, int] = {}
    for _, lens in each(study):
        lens.table.select(points, lens.name)
        reader = reader_of(study, lens, path, blocks)
        blocks = dict(reader.blocks)
        yield reader


def reader_of(
    study: Options, lens: DiTLens, path: NoisePath | None = None, blocks: Mapping[int, int] | None = None
) -> Reader:
    """One model with its probes.

    Args:
        blocks: after which block the probe of each step reads; chosen out of fold (`--cell-rule`) unless given.
    """
    noise_path = path or path_of(study)
    trained = features(study, lens, scenes_of(study, "train"), "train", noise_path)
    probes = fit_probes(trained, rule=study.cell_rule)
    accuracy = probes.accuracy
    if study.block is not None and study.block not in accuracy.block.values:
        raise ValueError(f"got --block {study.block} for {lens.name} · expected 0 to {lens.blocks - 1}")
    chosen = blocks or {
        int(step): int(str(probes.cell_of(step=step)[1])) if study.block is None else study.block
        for step in accuracy.step.values
    }
    return Reader(lens, noise_path, trained, accuracy, chosen)
