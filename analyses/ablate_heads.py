"""Which attention heads does the model need to tell possible clips from impossible ones?

Method: one head at a time is taken away (its z zero, the mean over training clips, or another clip's of the same
property), with the route and the probe of `patch_heads`. Of the states at the probe's block two things are asked. Does
the *fixed* probe, fitted on the whole model, still tell? And does a probe *refitted* on states without the head? Only
where the second falls is the knowledge gone, and not merely moved. And what becomes of content: the object's colour,
decoded from the same states by a probe refitted likewise.

Controls: a random write as long as the head's own at each token (the damage that a change of this size does, whatever
it carries); the same on a twin that never saw lawful clips and on a random initialisation, which have nothing to lose.
Heads are ranked on half the test scenes and reported on the other.

Output: figures/data/ablate_heads.nc with scores (model, replacement, quadruplet, block, head).
Cost: about nine minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from analyses.ablations import SCORES, by_frame, by_property, by_quadruplet, loss, loss_interval, scores
from analyses.command import main
from analyses.frozen_probe import Options, cross_validate, fit_probe, halves, load, route
from dit_lens import ablation, edits
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import evaluations
from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Evaluation

REPLACEMENTS = ("zero", "mean", "resample", "random write")
TOP = 4


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    replacements: tuple[str, ...] = REPLACEMENTS
    """What takes the place of a head."""
    train: int = 120
    """Training quadruplets of all probes."""
    test: int = 60
    """Test quadruplets."""


@dataclass(frozen=True, eq=False)
class States:
    """Means by latent frame at the readout: `whole` (q, role, feature), `without` a head (q, role, l, k, feature)."""

    whole: np.ndarray
    without: Mapping[str, np.ndarray]


def run(config: Config) -> xr.Dataset:
    """Scores of all models with and without each head; every model is read at the block that the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split, or an unknown replacement.
    """
    for name in config.replacements:
        check_choice(name, REPLACEMENTS, "replacement")
    splits = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    train, test = (by_property(split, config.batch_size) for split in splits)
    parts: list[xr.Dataset] = []
    readout: int | None = None
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        accuracy, cells = cross_validate(lens, config, splits[0])
        readout = int(accuracy.values[0].argmax()) if readout is None else readout
        probe = fit_probe(cells, config.step, readout, lens.name)
        parts.append(score(lens, config, probe, (train, test)).expand_dims(model=[name]))
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "path": config.path, "lens": lens.facts()}
    return xr.concat(parts, "model").assign(readout=readout).assign_attrs(attrs)


def score(
    lens: DiTLens, config: Config, probe: Probe, splits: tuple[Sequence[list[Quadruplet]], Sequence[list[Quadruplet]]]
) -> xr.Dataset:
    """`good` and `whole` of each score by replacement, test quadruplet, block and head; "none" is the whole model."""
    train, test = splits
    means = _means(lens, config, train, probe) if "mean" in config.replacements else {}
    fit, seen = (states(lens, config, part, probe, means, name) for part, name in ((train, "train"), (test, "test")))
    known = [[q for batch in part for q in batch] for part in (train, test)]
    sources = {"none": (fit.whole[:, :, None, None], seen.whole[:, :, None, None])}
    sources |= {name: (fit.without[name], seen.without[name]) for name in config.replacements}
    found = {}
    for name, (x, y) in sources.items():
        cells = np.ndindex(*x.shape[2:4])
        scored = [scores(probe, x[:, :, *cell], y[:, :, *cell], known) for cell in cells]
        found[name] = np.stack(scored, -1).reshape(len(SCORES), 2, len(known[1]), *x.shape[2:4])
    shape = next(found[name].shape for name in config.replacements)
    values = np.stack([np.broadcast_to(found[name], shape) for name in found])
    dims = ("replacement", "score", "part", "quadruplet", "block", "head")
    coords = {
        "replacement": list(found), "score": list(SCORES), "part": ["good", "of"],
        "quadruplet": [q.id for q in known[1]], "property": ("quadruplet", [q.property for q in known[1]]),
        "block": range(shape[3]), "head": range(shape[4]),
    }  # fmt: skip
    return xr.Dataset({"counts": (dims, values)}, coords=coords)


def states(
    lens: DiTLens,
    config: Config,
    batches: Sequence[list[Quadruplet]],
    probe: Probe,
    means: Mapping[str, Mapping[int, Tensor]],
    name: str,
) -> States:
    """What the probe reads of every clip, with the whole model and without each head of the blocks up to it."""
    whole: list[np.ndarray] = []
    without: dict[str, list[np.ndarray]] = {kind: [] for kind in config.replacements}
    for batch in tqdm(batches, desc=f"{lens.name}, {name}", unit="batch"):
        fed = evaluations(lens, batch, config.steps, route(config))
        for kind, replacement in _replacements(config, batch, means):
            found = ablation.ablate_heads(lens, fed, config.steps, by_frame(probe), replacement, _blocks(probe)).isel(
                step=0
            )
            before = by_quadruplet(found.before.values)
            without[kind].append(before[:, :, None, None] + by_quadruplet(found.effect.values))
        whole.append(before)
    return States(np.concatenate(whole), {kind: np.concatenate(parts) for kind, parts in without.items()})


def _replacements(
    config: Config, batch: Sequence[Quadruplet], means: Mapping[str, Mapping[int, Tensor]]
) -> Iterator[tuple[str, ablation.Replacement]]:
    ids, laws = [q.id for q in batch] * len(ROLES), [q.property for q in batch] * len(ROLES)
    for kind in config.replacements:
        match kind:
            case "zero":
                yield kind, ablation.zero
            case "mean":
                yield kind, ablation.mean_of(means)
            case "resample":
                yield kind, ablation.resampled(edits.donors(ids, laws, config.seed))
            case "random write":
                yield kind, ablation.random_write(config.seed)


def _means(
    lens: DiTLens, config: Config, train: Sequence[list[Quadruplet]], probe: Probe
) -> dict[str, dict[int, Tensor]]:
    """Mean z of each head over training clips."""
    fed: list[Mapping[int, Evaluation]] = [evaluations(lens, batch, config.steps, route(config)) for batch in train]
    return ablation.means_over(lens, fed, [f"blocks.{block}.attn.hook_z" for block in _blocks(probe)])


def _blocks(probe: Probe) -> range:
    """The blocks up to a probe's."""
    return range(block_of(probe.reads.point) + 1)


def top_heads(result: xr.Dataset, model: str) -> list[tuple[int, int]]:
    """The (block, head) without which the refitted probe loses most, over replacements but the random write."""
    ranking, _ = halves(result)
    kinds = [str(kind) for kind in result.replacement.values if kind not in ("none", "random write")]
    lost = loss(ranking).sel(model=model, score="refitted", replacement=kinds or ["random write"]).mean("replacement")
    values = lost.transpose("block", "head").values
    order = np.argsort(-values, axis=None)[:TOP]
    return [(int(o) // values.shape[1], int(o) % values.shape[1]) for o in order]


def table(result: xr.Dataset) -> str:
    """Per model: scores of the whole model, and what the top heads' ablation costs on held-out scenes."""
    _, report = halves(result)
    lines = [
        f"states behind block {int(result.readout)}; loss in points without a head [95% interval over"
        f" {report.sizes['quadruplet']} quadruplets other than those that heads were ranked on]"
    ]
    for model in map(str, result.model.values):
        sums = result.sel(model=model, replacement="none").isel(block=0, head=0).counts.sum("quadruplet")
        whole = sums.sel(part="good") / sums.sel(part="of")
        told = " · ".join(f"{name} {float(whole.sel(score=name)):.3f}" for name in SCORES)
        lines += ["", f"{model}, whole: {told} (n = {result.sizes['quadruplet']})"]
        lines += [f"  {'block.head':<11}{'replacement':<14}" + "".join(f"{name:>24}" for name in SCORES)]
        for block, head in top_heads(result, model):
            for kind in result.replacement.values[1:]:
                lines.append(f"  {f'{block}.{head}':<11}{kind:<14}" + _cells(report, model, kind, block, head))
        everywhere = 100 * loss(report).sel(model=model).mean(["block", "head"])
        for kind in result.replacement.values[1:]:
            cells = "".join(f"{float(everywhere.sel(replacement=kind, score=name)):>+24.1f}" for name in SCORES)
            lines.append(f"  {'all, mean':<11}{kind:<14}{cells}")
    return "\n".join(lines)


def _cells(report: xr.Dataset, model: str, kind: str, block: int, head: int) -> str:
    cells = ""
    for name in SCORES:
        at = report.sel(model=model, score=name, block=block, head=head, replacement=["none", kind])
        estimate, low, high = (100 * float(x) for x in loss_interval(at))
        cells += f"{f'{estimate:+.1f} [{low:+.1f}, {high:+.1f}]':>24}"
    return cells


if __name__ == "__main__":
    from figures.ablate_heads import draw

    main(Config, run, table, draw, "ablate_heads", __doc__)
