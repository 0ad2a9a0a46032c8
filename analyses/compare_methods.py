"""Do ablation, patching, direct attribution, first-order patching and integrated gradients name the same heads?

Method: for every head up to the probe's block, how much of the probe's contrast (A + B - C - D) / 2 is its, told six
ways on the same clips, step and probe. Patching: z of the partner that shares a half is put in its place, over all
eight possible/impossible pairs. Ablation: what the contrast loses where z is another quadruplet's (of the same law), or
the mean over training clips. Direct: the head's gated write along the probe, exactly. To first order: gradient times
difference of z over the same pairs (AtP). Integrated gradients: the same along the line between the two.
All six are one number for a head that writes to the probe and is read by nothing in between; they part by what later
layers make of a head's write (indirect = patching - direct) and by how far from linear these are.

Agreement is Spearman's over heads, with a bootstrap over quadruplets. Two methods can agree on what is an accident of
these scenes, so each also stands beside itself on two halves of the quadruplets: does it rank heads, or scenes?
Controls: a twin that never saw lawful clips, and a random direction of the probe's length in place of the probe. There
effects are small and a method does not find its own ranking again; methods that estimate one another still agree.
The heads shown are chosen on half the test scenes and reported on the other.

Output: figures/data/compare_methods.nc with contrasts (model, readout, way, quadruplet, block, head) in probe SDs.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from analyses.compare_methods_table import METHODS, table
from analyses.frozen_probe import Options, cross_validate, load, route
from analyses.readouts import PLAUSIBILITY, RANDOM, Readouts, fit_readouts
from dit_lens import ablation, edits
from dit_lens.attribution import Attribution, Line, gradient_times_difference, integrated_gradients
from dit_lens.cache import ActivationCache
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import batches, evaluations
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.patching import patch_heads
from dit_lens.running import Evaluation, Request, count, some

HEADS = "blocks.*.attn.hook_z"
PARTNERS = (2, 3, 0, 1), (3, 2, 1, 0)  # of A, B, C, D: with the same first half, and with the same second
SIGNS = np.array([1, 1, -1, -1])
Means = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    controls: tuple[str, ...] = ("mini-wan-null",)
    """Models in which no head has a share to speak of; none with an empty list."""
    train: int = 160
    """Training quadruplets of the probe and of the means."""
    test: int = 24
    """Test quadruplets, at least two of each law."""
    nodes: int = 6
    """Gradients to each line of integrated gradients (Gauss-Legendre)."""
    limit: float = 0.1
    """Largest convergence delta, relative to max(|change of the logit|, probe SD)."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all methods are given alike.

    Attributes:
        read: the probe and a random direction.
        means: mean z of training clips by hook point and step.
    """

    lens: DiTLens
    config: Config
    read: Readouts
    means: Means


def run(config: Config) -> xr.Dataset:
    """The contrasts of all models, along a dimension `model`; every model is read at the block that the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split, or a convergence delta above the limit.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    block: int | None = None
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        accuracy, cells = cross_validate(lens, config, train)
        block = int(accuracy.values[0].argmax()) if block is None else block
        read = fit_readouts(cells.sel(step=config.step, block=block), train, None, 1, config.seed)
        read = replace(read, lines=tuple(line for line in read.lines if line.kind in (PLAUSIBILITY, RANDOM)))
        told = compare(Bench(lens, config, read, _means(lens, config, train, block)), test)
        parts.append(told.assign(score=read.facts().score).expand_dims(model=[name]))
    result = xr.concat(parts, "model", data_vars="all", join="exact", coords="minimal", compat="override")
    sigma = lens.schedule(config.levels).sigmas[config.step]
    result = result.assign_coords(readout_block=block, sigma=sigma)
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def _means(lens: DiTLens, config: Config, train: Sequence[Quadruplet], block: int) -> Means:
    """Mean z of the training clips, as far as they fill whole batches."""
    whole = train[: len(train) // config.batch_size * config.batch_size] or train
    fed = [evaluations(lens, batch, config.steps, route(config)) for batch in batches(whole, config.batch_size)]
    return ablation.means_over(lens, fed, [f"blocks.{b}.attn.hook_z" for b in range(block + 1)])


def compare(bench: Bench, test: Sequence[Quadruplet]) -> xr.Dataset:
    """`contrast` (readout, way, quadruplet, block, head) in probe SDs, law by law (within which is resampled)."""
    parts: list[np.ndarray] = []
    ordered: list[Quadruplet] = []
    for law in dict.fromkeys(q.property for q in test):
        batch = [q for q in test if q.property == law]
        (fed,) = evaluations(bench.lens, batch, bench.config.steps, route(bench.config)).values()
        ids = [q.id for q in batch] * len(ROLES)
        donors = edits.donors(ids, [law] * len(ids), bench.config.seed)
        parts.append(contrasts(bench, fed, donors))
        ordered += batch
    names = ("readout", "way", "quadruplet", "block", "head")
    values = np.concatenate(parts, axis=2)
    spread = np.array([line.spread for line in bench.read.lines]).reshape(-1, *[1] * (len(names) - 1))
    coords = {
        "readout": [line.name for line in bench.read.lines], "way": list(METHODS),
        "quadruplet": [q.id for q in ordered], "property": ("quadruplet", [q.property for q in ordered]),
        "block": range(values.shape[3]), "head": range(values.shape[4]),
    }  # fmt: skip
    return xr.Dataset({"contrast": (names, (values / spread).astype("float32"))}, coords=coords)


def contrasts(bench: Bench, fed: Evaluation, donors: Tensor) -> Float[np.ndarray, "readout method q block head"]:
    """Each head's share of each readout's contrast by all methods, on role-major clips."""
    told = [
        _patched(bench, fed),
        _ablated(bench, fed, ablation.resampled(donors)),
        _ablated(bench, fed, ablation.mean_of(bench.means)),
        _written(bench, fed),
        *_followed(bench, fed),
    ]
    return np.stack(told, axis=1)


def _patched(bench: Bench, fed: Evaluation) -> np.ndarray:
    """With the partner's z in its place: what is gained by an impossible clip, and lost by a possible one."""
    step, found = bench.config.step, []
    for partners in PARTNERS:
        clean = some(fed, _rows(fed, partners))
        told = patch_heads(bench.lens, {step: clean}, {step: fed}, [step], bench.read.metric).effect
        found.append(_contrast(-told.squeeze("step").transpose("feature", "clip", "block", "head").values) / 2)
    return np.mean(found, axis=0)[:, :, : _blocks(bench)]


def _ablated(bench: Bench, fed: Evaluation, replacement: ablation.Replacement) -> np.ndarray:
    """What the contrast loses without the head."""
    step, blocks = bench.config.step, range(_blocks(bench))
    told = ablation.ablate_heads(bench.lens, {step: fed}, [step], bench.read.metric, replacement, blocks).effect
    return _contrast(-told.squeeze("step").transpose("feature", "clip", "block", "head").values)


@torch.no_grad()
def _written(bench: Bench, fed: Evaluation) -> np.ndarray:
    """What the head itself adds to the readout."""
    lens, point = bench.lens, bench.read.point
    _, kept = lens.model.run(fed, Request(lens.anatomy.needs(point), stop_at=point))
    cache = ActivationCache(kept, lens.model.grid(fed), lens.blocks, anatomy=lens.anatomy)
    found: list[np.ndarray] = []
    for line in bench.read.lines:
        told = cache.attribute_to(torch.from_numpy(line.weight).float(), point)
        heads = told.attribution.isel(component=(told.layer.values == "attn") & (told["head"].values >= 0))
        found.append(heads.transpose("clip", "block", "component").values)
    return _contrast(np.stack(found))


def _followed(bench: Bench, fed: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Gradient times difference, and integrated gradients, over the pairs that are patched."""
    first: list[np.ndarray] = []
    whole: list[np.ndarray] = []
    for place, line in enumerate(bench.read.lines):
        way = Line(steps=bench.config.nodes, unit=line.spread, limit=bench.config.limit)
        metric = Readout(lambda v, cache, i=place: bench.read.of_activation(cache[bench.read.point])[:, i],
                         (bench.read.point,))  # fmt: skip
        pairs = [(some(fed, _rows(fed, partners)), fed) for partners in PARTNERS]
        for found, told in (
            (first, [gradient_times_difference(bench.lens, *pair, HEADS, metric) for pair in pairs]),
            (whole, [integrated_gradients(bench.lens, *pair, HEADS, metric, way) for pair in pairs]),
        ):
            found.append(np.mean([_contrast(-_by_head(one)[None])[0] / 2 for one in told], axis=0))
    return np.stack(first), np.stack(whole)


def _by_head(told: Mapping[str, Attribution]) -> Float[np.ndarray, "b block head"]:
    return torch.stack([attribution.over("b k") for attribution in told.values()], 1).numpy()


def _rows(fed: Evaluation, partners: Sequence[int]) -> list[int]:
    """Rows of the role-major clips that stand at each clip's partner."""
    size = count(fed) // len(ROLES)
    return [role * size + quadruplet for role in partners for quadruplet in range(size)]


def _contrast(values: Float[np.ndarray, "readout b *rest"]) -> Float[np.ndarray, "readout q *rest"]:
    """(A + B - C - D) / 2 of role-major clips."""
    by_role = values.reshape(len(values), len(ROLES), -1, *values.shape[2:])
    return np.tensordot(SIGNS, by_role, (0, 1)) / 2


def _blocks(bench: Bench) -> int:
    """How many blocks come before what is read."""
    return block_of(bench.read.point) + 1


if __name__ == "__main__":
    from figures.compare_methods import draw

    main(Config, run, table, draw, "compare_methods", __doc__)
