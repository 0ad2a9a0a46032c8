"""Which parts tell which, on the way to what the probe reads as plausibility?

Method: the route, probe and pairs of `patch_heads`. From every head and MLP before the readout, the direct path to the
readout, to every MLP, and to the queries, keys and values of the heads that matter most (ranked by patching whole heads
on half the test scenes) is patched from one clip of a quadruplet into another, all other writes held as they were, and
what follows the label (odd) is told from what follows content. The strongest paths make a circuit. Of the logit's
contrast A + B - C - D, how much is left when all heads and MLPs outside the circuit are resampled from clips of other
quadruplets (faithfulness), and when those of the circuit are (completeness: none should be)?
With `--screened N` no receivers are chosen before: the paths from all parts to all MLPs and to the queries, keys and
values of all heads are ranked by gradients on the ranking scenes (EAP-IG), and the first N are patched.

Controls: a clip patched with itself; over the same paths, on the report scenes, a twin that never saw lawful clips and
a random initialisation; random circuits of as many heads and MLPs. Heads and paths are ranked on half the test scenes
and reported on the other, with a p-value for the largest of all paths (signs of quadruplets flipped).
With a screen, paths drawn at random are patched too, on which its ranking is judged.

Output: figures/data/patch_paths.nc with effects (model, quadruplet, pair, sender, receiver), and logits of the first
model's circuits (circuit, resampled, role, scene).
Cost: about four minutes on one core with the defaults; about as much with `--screened 40`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from analyses.command import main
from analyses.frozen_probe import Options, cross_validate, fit_probe, halves, load, route
from analyses.pairs import PAIRS, label_odd
from analyses.patch_paths_table import table
from analyses.roles import by_role
from dit_lens import edits
from dit_lens.capture import batches, evaluations, of_role
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.patching import patch_heads
from dit_lens.paths import (
    READOUT,
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
from dit_lens.probing import Probe
from dit_lens.running import Evaluation

CROSSED = {pair: sign for pair, sign in PAIRS.items() if sign or pair == "A→A"}
Runs = Mapping[int, Evaluation]


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    test: int = 32
    """Test quadruplets; half of them rank, half of them report (at least two of each law)."""
    heads: int = 2
    """Heads whose queries, keys and values are receivers."""
    top: int = 12
    """Paths that make the circuit, at most."""
    least: float = 0.1
    """The smallest of them, as a share of the largest."""
    draws: int = 20
    """Random circuits."""
    screened: int = 0
    """Paths to patch, of all from all parts to all, those that gradients rank first; 0: all to a few receivers."""
    sample: int = 40
    """Paths drawn at random that are patched beside these."""


def run(config: Config) -> xr.Dataset:
    """The paths of all models, along a dimension `model`; all with the readout and the paths that the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split, or of a law, to resample.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    ranking, report = split(test)
    parts: list[xr.Dataset] = []
    tested, screen, block, edges = xr.Dataset(), xr.Dataset(), 0, list[Edge]()
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        accuracy, cells = cross_validate(lens, config, train)
        if not parts:
            block = int(accuracy.squeeze("step").values.argmax())
        probe = fit_probe(cells, config.step, block, lens.name)
        if not parts:
            edges, screen = chosen(lens, config, ranking, probe)
        told = paths(lens, config, report if parts else test, probe, edges)
        if not parts:
            tested = circuits(lens, config, report, probe, told)
        parts.append(told.assign(train_accuracy=float(accuracy.sel(block=block).squeeze())).expand_dims(model=[name]))
    result = joined(parts, tested, test).assign_coords(readout=block, sigma=probe.reads.sigma)
    if screen:
        result = result.reindex(sender=screen.sender, receiver=screen.receiver).merge(screen)
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def joined(parts: Sequence[xr.Dataset], tested: xr.Dataset, test: Sequence[Quadruplet]) -> xr.Dataset:
    """The paths of all models, NaN where a control was not asked (it is on the report scenes alone), and circuits."""
    alike = [part.drop_vars("property") for part in parts]
    result = xr.concat(alike, "model", data_vars="all", join="outer", coords="minimal", compat="override")
    result = result.reindex(quadruplet=[q.id for q in test], model=[str(part.model.item()) for part in parts])
    return result.assign_coords(property=("quadruplet", [q.property for q in test])).merge(tested)


def split(test: Sequence[Quadruplet]) -> tuple[list[Quadruplet], list[Quadruplet]]:
    """Quadruplets to rank on and to report on."""
    facts = xr.Dataset(coords={"quadruplet": [q.id for q in test]})
    two = halves(facts.assign_coords(property=("quadruplet", [q.property for q in test])))
    ranking, report = ([q for q in test if q.id in part.quadruplet.values] for part in two)
    return ranking, report


# Paths.


def over_pairs(
    lens: DiTLens,
    config: Config,
    quadruplets: Sequence[Quadruplet],
    measure: Callable[[Runs, Runs], xr.Dataset],
    what: str,
) -> xr.Dataset:
    """What `measure` tells of (clean, corrupted) for all pairs of quadruplets, as `patch_heads` tells it."""
    parts: list[xr.Dataset] = []
    for batch in batches(quadruplets, config.batch_size, f"{lens.name}, {what}"):
        fed = evaluations(lens, batch, config.steps, route(config))[config.step]
        pairs = [measure(*({config.step: of_role(fed, role)} for role in pair.split("→"))) for pair in CROSSED]
        told = xr.concat([one.drop_vars(["donor", "clip"], errors="ignore") for one in pairs], "pair")
        parts.append(told.rename(clip="quadruplet").assign_coords(quadruplet=[q.id for q in batch]))
    told = xr.concat(parts, "quadruplet").squeeze("step", drop=True)
    told = told.rename({name: f"{name}_logit" for name in told.data_vars})
    laws = ("quadruplet", [q.property for q in quadruplets])
    return told.assign_coords(pair=list(CROSSED), sign=("pair", list(CROSSED.values())), property=laws)


def chosen(lens: DiTLens, config: Config, ranking: Sequence[Quadruplet], probe: Probe) -> tuple[list[Edge], xr.Dataset]:
    """The paths to patch; and the screen that chose them, empty where none was asked for.

    Returns:
        Of the screen `estimate` (sender, receiver), label-odd in probe SDs, on the ranking scenes, and which paths
        were `verified` for it and which `sampled`.
    """
    senders = parts_before(lens, probe.logit)
    if not config.screened:
        return list(product(senders, receivers(lens, config, ranking, probe))), xr.Dataset()
    mlps = [name for name in senders if name.startswith("mlp")]
    heads = [name for name in senders if name not in mlps and not name.startswith("0.")]
    every = [READOUT, *mlps, *(f"{head}.{taken}" for head in heads for taken in "qkv")]

    def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
        return screen_paths(lens, clean, corrupted, config.steps, probe.logit, senders, every).to_dataset(name="effect")

    told = over_pairs(lens, config, ranking, measure, "screen").assign(probe_spread=probe.spread)
    estimate = label_odd(told).mean("quadruplet", skipna=False)
    verified, sampled = ranked(estimate, config.screened, config.sample, config.seed)
    marks = {"verified": among(verified, estimate), "sampled": among(sampled, estimate)}
    return list(dict.fromkeys([*verified, *sampled])), xr.Dataset({"estimate": estimate, **marks})


def receivers(lens: DiTLens, config: Config, ranking: Sequence[Quadruplet], probe: Probe) -> list[str]:
    """The readout, the MLPs, and queries, keys and values of the heads with the largest label-odd effects.

    Heads of the first block are none: only the embedding comes before them.
    """

    def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
        return patch_heads(lens, clean, corrupted, config.steps, probe.logit)

    effects = over_pairs(lens, config, ranking, measure, "heads")
    odd = label_odd(effects.assign(probe_spread=probe.spread)).mean("quadruplet").sel(block=slice(1, None))
    each = odd.stack(at=["block", "head"]).dropna("at")
    heads = [f"{block}.{head}" for block, head in each.at.values[np.argsort(-np.abs(each.values))[: config.heads]]]
    mlps = [name for name in parts_before(lens, probe.logit) if name.startswith("mlp")]
    return [READOUT, *mlps, *(f"{head}.{taken}" for head in sorted(heads) for taken in "qkv")]


def paths(lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe, edges: Sequence[Edge]) -> xr.Dataset:
    """Effects (quadruplet, pair, sender, receiver) of some paths, NaN elsewhere."""

    def measure(clean: Runs, corrupted: Runs) -> xr.Dataset:
        return patch_edges(lens, clean, corrupted, config.steps, probe.logit, edges)

    return over_pairs(lens, config, test, measure, "paths").assign(probe_spread=probe.spread)


def found(told: xr.Dataset, config: Config) -> tuple[list[Edge], list[str]]:
    """The circuit by the ranking half: paths, the largest label-odd effect first, and the parts that they join."""
    odd = label_odd(halves(told)[0]).mean("quadruplet", skipna=False)
    edges = circuit(odd, config.top, config.least * float(np.abs(odd).max()))
    return edges, parts_of(edges)


# The circuit.


def circuits(
    lens: DiTLens, config: Config, report: Sequence[Quadruplet], probe: Probe, ranked: xr.Dataset
) -> xr.Dataset:
    """Logits `value` (circuit, resampled, role, scene) and `whole` of the report scenes, and the circuit's paths."""
    edges, parts = found(ranked, config)
    told: list[xr.Dataset] = []
    for law in dict.fromkeys(q.property for q in report):  # within which clips are resampled
        batch = [q for q in report if q.property == law]
        fed = evaluations(lens, batch, config.steps, route(config))
        donors = edits.donors([q.id for q in batch] * len(ROLES), [law] * len(batch) * len(ROLES), config.seed)
        one = ablate_circuit(lens, fed, config.steps, probe.logit, parts, donors, config.draws, config.seed)
        told.append(by_role(one.drop_vars("clip").squeeze("step", drop=True), batch))
    scenes = xr.concat(told, "quadruplet").drop_vars("property").rename(quadruplet="scene")  # the report half
    return scenes.assign(path_joined=(("rank", "end"), np.array(edges)))


if __name__ == "__main__":
    from figures.patch_paths import draw

    main(Config, run, table, draw, "patch_paths", __doc__)
