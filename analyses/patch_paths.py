"""Which direct paths between components carry the plausibility signal?

What: label effect (possible minus impossible clips) by path, and what a circuit keeps of it: patch_paths-*.nc with
effects (model, scene, pair, sender, receiver) and logits (circuit, resampled, role, report_scene).
Why: single components can matter for many reasons. Paths show who reads whom, and a circuit can be tested as a whole.
How: the path from every head and MLP to the readout, MLPs and the q, k, v of the best heads is patched, other writes
held fixed (or EAP-IG ranks all: `--screened N`). A circuit is tested by resampling what is outside it, or inside.
Controls: a clip with itself; control models; random circuits of as many parts; ranked on half of the test scenes,
reported on the other, with a p-value for the largest path; with a screen, paths drawn at random.
Cost: about four minutes on one core with the defaults; about as much with `--screened 40`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study

LEAST = 0.1  # the weakest path of a circuit, as a share of its strongest
PARTS = ("{}.0", "{}.0.q", "{}.0.k", "{}.0.v", "mlp {}")  # of every block


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "test": 32}
    ONE_PLACE: ClassVar[bool] = True

    heads: int = 2
    """Number of heads whose queries, keys and values are receivers."""
    top: int = 12
    """Maximum number of paths in the circuit; paths below a tenth of the strongest are left out."""
    draws: int = 20
    """Number of random circuits."""
    screened: int = 0
    """Number of paths to patch out of all, ranked by gradients; 0 patches all paths to a few receivers."""
    sample: int = 40
    """Number of random paths patched as well, to judge the ranking."""

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each path of each pair, and whole ones for circuits."""
        pairs, parts = 9 if size.clips == 4 else 3, size.blocks * (size.heads + 1)
        paths = self.screened + self.sample if self.screened else parts * (1 + size.blocks + 3 * self.heads)
        return 0.5 * pairs * (paths + size.blocks * size.heads) + size.clips * 2 * (1 + self.draws)


CONFIG = asked(Config, __name__)

from collections.abc import Sequence
from itertools import product

import numpy as np
import xarray as xr

from dit_lens.capture import evaluations
from dit_lens.circuits import (
    READOUT,
    CircuitPart,
    Edge,
    ablate_circuit,
    among,
    circuit,
    parts_before,
    parts_of,
    patch_edges,
    ranked,
    screen_paths,
)
from dit_lens.datasets.scenes import Scenes
from dit_lens.measures.labels import halves
from dit_lens.measures.patching import label_effect_of_pairs
from dit_lens.patching import patch_heads
from dit_lens.studies import outcome
from dit_lens.studies.ablations import by_property, check_donors, check_points, donors_of
from dit_lens.studies.exchanges import Measure, Runs, over_pairs
from dit_lens.studies.readers import Reader, reader_of
from dit_lens.studies.scenes import divided


def run(config: Config) -> xr.Dataset:
    """The paths of all models, along a dimension `model`; the first model chooses the readout and the paths.

    Raises:
        ValueError: too few scenes to fit or to divide, or a single report scene of a property, to resample.
        KeyError: a model without the parts that paths join.
    """
    test = config.scenes("test")
    ranking, report = divided(test)
    check_donors(report)
    parts: dict[str, xr.Dataset] = {}
    for _, lens in config.lenses():
        check_points(lens, [CircuitPart.of(name.format(b)).point for b in range(lens.blocks) for name in PARTS])
        if not parts:
            first = reader = reader_of(config, lens)
            bench = Bench(config, reader)
            edges, screen = bench.chosen(ranking)
            effects = bench.paths(test, edges)
            tested = bench.circuits(report, effects)
        else:
            reader = reader_of(config, lens, blocks=first.blocks)
            effects = Bench(config, reader).paths(report, edges)
        accuracy = float(reader.accuracy.sel(step=reader.steps[0], block=reader.blocks[reader.steps[0]]))
        parts[lens.name] = effects.drop_vars(["property", "group"]).assign(train_accuracy=accuracy)
    result = outcome.with_scenes(outcome.by_model(parts, "outer"), config).reindex(model=list(parts)).merge(tested)
    result = result.assign_coords(readout=first.blocks[first.steps[0]], sigma=first.probe.reads.sigma)
    if screen:
        result = result.reindex(sender=screen.sender, receiver=screen.receiver).merge(screen)
    return outcome.finished(result, config, first.lens)


@dataclass(frozen=True, eq=False)
class Bench:
    """The probe of one model, and the measures of its paths."""

    config: Config
    reader: Reader

    # Paths.

    def over_pairs(self, scenes: Scenes, measure: Measure, what: str) -> xr.Dataset:
        """The results of `measure` for all pairs of scenes, read by this model's probe."""
        return over_pairs(self.reader, self.config, scenes, measure, what)

    def chosen(self, ranking: Scenes) -> tuple[list[Edge], xr.Dataset]:
        """The paths to patch; and the screen that chose them, empty without `--screened`.

        Returns:
            Of the screen `estimate` (sender, receiver), label effect in probe SDs, on the ranking scenes, and which
            paths were `verified` for it and which `sampled`.
        """
        lens, config, logit = self.reader.lens, self.config, self.reader.probe.logit
        senders = parts_before(lens, logit)
        if not config.screened:
            return list(product(senders, self.receivers(ranking))), xr.Dataset()
        mlps = [name for name in senders if name.startswith("mlp")]
        heads = [name for name in senders if name not in mlps and not name.startswith("0.")]
        receivers = [READOUT, *mlps, *(f"{head}.{input_name}" for head in heads for input_name in "qkv")]

        def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
            estimates = screen_paths(lens, clean, corrupted, self.reader.steps, logit, senders, receivers)
            return estimates.to_dataset(name="effect")

        estimate = label_effect_of_pairs(self.over_pairs(ranking, measure, "screen")).mean("scene", skipna=False)
        verified, sampled = ranked(estimate, config.screened, config.sample, config.seed)
        marks = {"verified": among(verified, estimate), "sampled": among(sampled, estimate)}
        return list(dict.fromkeys([*verified, *sampled])), xr.Dataset({"estimate": estimate, **marks})

    def receivers(self, ranking: Scenes) -> list[str]:
        """The readout, the MLPs, and queries, keys and values of the heads with the largest label effects.

        Heads of the first block are none: only the embedding comes before them.
        """
        lens, logit = self.reader.lens, self.reader.probe.logit

        def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
            return patch_heads(lens, clean, corrupted, self.reader.steps, logit)

        effects = label_effect_of_pairs(self.over_pairs(ranking, measure, "heads")).mean("scene", skipna=False)
        candidates = effects.sel(block=slice(1, None)).stack(at=["block", "head"]).dropna("at")
        order = np.argsort(-np.abs(candidates.values))[: self.config.heads]
        heads = [f"{block}.{head}" for block, head in candidates.at.values[order]]
        mlps = [name for name in parts_before(lens, logit) if name.startswith("mlp")]
        return [READOUT, *mlps, *(f"{head}.{input_name}" for head in sorted(heads) for input_name in "qkv")]

    def paths(self, scenes: Scenes, edges: Sequence[Edge]) -> xr.Dataset:
        """Effects (scene, pair, sender, receiver) of some paths, NaN elsewhere."""
        lens, logit = self.reader.lens, self.reader.probe.logit

        def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
            return patch_edges(lens, clean, corrupted, self.reader.steps, logit, edges)

        return self.over_pairs(scenes, measure, "paths")

    # The circuit.

    def strongest(self, effects: xr.Dataset) -> tuple[list[Edge], list[str]]:
        """The circuit by the ranking half: paths, the largest label effect first, and the parts that they join."""
        effect = label_effect_of_pairs(halves(effects)[0]).mean("scene", skipna=False)
        edges = circuit(effect, self.config.top, LEAST * float(np.abs(effect).max()))
        return edges, parts_of(edges)

    def circuits(self, report: Scenes, effects: xr.Dataset) -> xr.Dataset:
        """Logits `value` (circuit, resampled, role, report_scene), `whole`, and the paths of the circuit."""
        lens, config, reader = self.reader.lens, self.config, self.reader
        (edges, parts), tables = self.strongest(effects), list[xr.Dataset]()
        for batch in map(list, by_property(report, config.batch_size)):  # within which clips are resampled
            inputs, donors = evaluations(lens, batch, reader.steps, reader.path), donors_of(batch, config.seed)
            table = ablate_circuit(
                lens, inputs, reader.steps, reader.probe.logit, parts, donors, config.draws, config.seed
            )
            tables.append(outcome.by_role(table.squeeze("step", drop=True), batch))
        scenes = xr.concat(tables, "scene").rename(scene="report_scene")
        return scenes.assign(path_joined=(("rank", "end"), np.array(edges)))


if CONFIG is not None:
    answer(CONFIG, run)
