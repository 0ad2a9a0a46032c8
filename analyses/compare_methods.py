"""Do ablation, patching, direct attribution, first-order patching and integrated gradients name the same heads?

Why: each method has its own assumptions; a head that all of them name is a safer claim, and where they differ shows
what later layers contribute.

Method: for every head up to the probe's block, six estimates of its share of the label effect (possible minus
impossible clips, averaged over the pairs of a scene: (A + B - C - D) / 2, or A - C for one pair), on the same clips,
step and probe. Patching: z is taken from the other clip of a possible/impossible pair, over all such pairs of a scene.
Ablation: what the label effect loses when z is that of another scene (same property), or the mean over training clips.
Direct: the head's gated write along the probe, exactly. First order: gradient times difference of z over the same
pairs (AtP). Integrated gradients: the same along the line between the two. For a head that only writes to the probe
all six are equal; they differ by what later layers make of its write (indirect = patching - direct) and by
nonlinearity. Agreement is Spearman's rank correlation over heads, with a bootstrap over scenes. Each method is also
compared with itself on two halves of the scenes: does it rank heads, or only these scenes?

Controls: control models, and a random direction of the probe's length in place of the probe. There effects are small
and a method does not reproduce its own ranking; methods that estimate one another still agree. The heads shown are
chosen on half of the test scenes and reported on the other half.

Output: compare_methods-*.nc with contrasts (model, readout, estimate, scene, block, head) in probe SDs.

Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null",), "properties": LAWS, "train": 160, "test": 24,
    }  # fmt: skip
    ONE_PLACE: ClassVar[bool] = True

    nodes: int = 6
    """Gradients per integration line of integrated gradients (Gauss-Legendre nodes)."""
    limit: float = 0.1
    """Largest accepted convergence delta, relative to max(|change of the logit|, probe SD)."""

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each head by patching, over both pairs of a clip, and by two ablations; and gradients."""
        pairs = 1 + (size.clips == 4)
        heads = 0.5 * size.blocks * size.heads * (pairs + 2)
        return size.clips * (heads + 2 * pairs * 3 * size.blocks * (1 + self.nodes))


CONFIG = asked(Config, __name__)

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from tqdm import tqdm

from dit_lens import ablation
from dit_lens.attribution import Attribution, Integral, gradient_times_difference, integrated_gradients
from dit_lens.cache import ActivationCache
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import batches, evaluations
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import CROSSED
from dit_lens.lens import DiTLens
from dit_lens.measures.compare_methods import METHODS
from dit_lens.measures.labels import label_effect
from dit_lens.measures.patching import PLAUSIBILITY, RANDOM
from dit_lens.metrics import Readout
from dit_lens.patching import patch_heads
from dit_lens.running import Evaluation, Request, count, some
from dit_lens.studies import outcome
from dit_lens.studies.ablations import by_property, check_donors, check_points, donors_of
from dit_lens.studies.exchanges import pairs_of
from dit_lens.studies.readers import Reader, reader_of
from dit_lens.studies.readouts import Readouts, readouts

Means = Mapping[str, Mapping[int, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Bench:
    """The inputs that all methods share.

    Attributes:
        step: that is read.
        read: the probe and a random direction.
        means: mean z of training clips by hook point and step.
        roles: of every scene's clips.
        partners: see `partners_of`.
        line: of integrated gradients; its unit is set for each readout.
    """

    lens: DiTLens
    step: int
    read: Readouts
    means: Means
    roles: tuple[str, ...]
    partners: Sequence[Sequence[int]]
    integral: Integral

    @property
    def blocks(self) -> int:
        """The number of blocks up to the readout."""
        return block_of(self.read.point) + 1

    @property
    def heads(self) -> list[str]:
        """The hook points of the z of these blocks, of the video stream alone."""
        return [f"blocks.{block}.attn.hook_z" for block in range(self.blocks)]


def run(config: Config) -> xr.Dataset:
    """Contrasts of all models, along a dimension `model`; all are read after the block that the first model chose.

    Raises:
        ValueError: too few scenes, a single scene of a property, or a convergence delta above the limit.
        KeyError: a model without z.
    """
    train, test = config.scenes("train"), config.scenes("test")
    check_donors(test)
    roles = test.roles or test[0].roles
    partners = partners_of(roles, CROSSED in config.spec.gives)
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for _, lens in config.lenses():
        check_points(lens, [f"blocks.{block}.attn.hook_z" for block in range(lens.blocks)])
        reader = reader_of(config, lens, blocks=blocks)
        blocks, first, (step,) = reader.blocks, lens if not parts else first, reader.steps
        read = readouts(reader, train.at([]), step, 1, config.seed)
        read = replace(read, lines=tuple(line for line in read.lines if line.kind in (PLAUSIBILITY, RANDOM)))
        integral = Integral(steps=config.nodes, limit=config.limit)
        bench = Bench(lens, step, read, means_of(reader, config, train), roles, partners, integral)
        parts[lens.name] = compare(bench, config, reader, test).assign(score=read.facts().score.drop_vars("kind"))
    result = outcome.by_model(parts).assign_coords(readout_block=blocks[step], sigma=reader.probe.reads.sigma)
    return outcome.finished(outcome.with_scenes(result, config), config, first)


def partners_of(roles: Sequence[str], crossed: bool) -> list[list[int]]:
    """For each clip of a scene its partner in a possible/impossible pair; one list for each pair that a clip is in.

    Worked example: of crossed scenes C, D, A, B (which share the first frames) and D, C, B, A (which share the last)
    for A, B, C, D; of single pairs C, A for A, C.
    """
    pairs = [pair.split("→") for pair, sign in pairs_of(roles, crossed).items() if sign]
    clean = {role: [source for source, target in pairs if target == role] for role in roles}
    return [[list(roles).index(name) for name in column] for column in zip(*clean.values(), strict=True)]


def means_of(reader: Reader, config: Config, train: Scenes) -> Means:
    """Mean z of the training clips."""
    inputs = (evaluations(reader.lens, batch, reader.steps, reader.path) for batch in batches(train, config.batch_size))
    names = [f"blocks.{block}.attn.hook_z" for block in range(reader.blocks[reader.steps[0]] + 1)]
    return ablation.means_over(reader.lens, inputs, names)


def compare(bench: Bench, config: Config, reader: Reader, test: Scenes) -> xr.Dataset:
    """`contrast` (readout, estimate, scene, block, head) in probe SDs, in batches of one property each."""
    parts, ids = list[np.ndarray](), list[str]()
    batched = by_property(test, config.batch_size)
    for batch in map(list, tqdm(batched, desc=f"{bench.lens.name}, methods", unit="batch")):
        (evaluation,) = evaluations(bench.lens, batch, [bench.step], reader.path).values()
        parts.append(contrasts(bench, evaluation, donors_of(batch, config.seed)))
        ids += [scene.id for scene in batch]
    dims = ("readout", "estimate", "scene", "block", "head")
    values = np.concatenate(parts, axis=2)
    spread = np.array([line.spread for line in bench.read.lines]).reshape(-1, *[1] * (len(dims) - 1))
    coords = {
        "readout": [line.name for line in bench.read.lines], "estimate": list(METHODS), "scene": ids,
        "block": range(values.shape[3]), "head": range(values.shape[4]),
    }  # fmt: skip
    return xr.Dataset({"contrast": (dims, (values / spread).astype("float32"))}, coords=coords)


def contrasts(
    bench: Bench, fed: Evaluation, donors: torch.Tensor
) -> Float[np.ndarray, "readout method scene block head"]:
    """Each head's share of each readout's label effect by all methods, on clips that lie role by role."""
    rows = [
        _patched(bench, fed),
        _ablated(bench, fed, ablation.resampled(donors)),
        _ablated(bench, fed, ablation.mean_of(bench.means)),
        _written(bench, fed),
        *_followed(bench, fed),
    ]
    return np.stack(rows, axis=1)


def _patched(bench: Bench, evaluation: Evaluation) -> np.ndarray:
    """Share of the label effect by patching: the logit gained by impossible clips and lost by possible ones."""
    shares: list[np.ndarray] = []
    for partners in bench.partners:
        clean, corrupted = {bench.step: some(evaluation, _rows(bench, evaluation, partners))}, {bench.step: evaluation}
        table = patch_heads(bench.lens, clean, corrupted, [bench.step], bench.read.metric)
        shares.append(_of_effect(bench, table) / 2)
    return np.mean(shares, axis=0)[:, :, : bench.blocks]


def _ablated(bench: Bench, evaluation: Evaluation, replacement: ablation.Replacement) -> np.ndarray:
    """Share of the label effect by ablation: its loss without each head."""
    blocks = range(bench.blocks)
    table = ablation.ablate_heads(
        bench.lens, {bench.step: evaluation}, [bench.step], bench.read.metric, replacement=replacement, blocks=blocks
    )
    return _of_effect(bench, table)


def _of_effect(bench: Bench, table: xr.Dataset) -> np.ndarray:
    """The share of the label effect that an effect of removing a head implies: the negated effect."""
    return _label_effect(bench, -table.effect.squeeze("step").transpose("feature", "clip", "block", "head").values)


@torch.no_grad()
def _written(bench: Bench, evaluation: Evaluation) -> np.ndarray:
    """Share of the label effect by direct attribution: the head's write projected on the readout."""
    lens, point = bench.lens, bench.read.point
    _, activations = lens.model.run(evaluation, Request(lens.anatomy.needs(point), stop_at=point))
    cache = ActivationCache(activations, lens.model.grid(evaluation), lens.blocks, anatomy=lens.anatomy)
    shares: list[np.ndarray] = []
    for line in bench.read.lines:
        table = cache.attribute_to(torch.from_numpy(line.weight).float(), point)
        heads = table.attribution.isel(component=(table.layer.values == "attn") & (table["head"].values >= 0))
        shares.append(heads.transpose("clip", "block", "component").values)
    return _label_effect(bench, np.stack(shares))


def _followed(bench: Bench, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Gradient times difference, and integrated gradients, over the pairs that are patched."""
    lens, point = bench.lens, bench.read.point
    pairs = [(some(evaluation, _rows(bench, evaluation, partners)), evaluation) for partners in bench.partners]
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for place, readout in enumerate(bench.read.lines):
        integral = replace(bench.integral, unit=readout.spread)
        metric = Readout(lambda v, cache, i=place: bench.read.of_activation(cache[point])[:, i], (point,))
        for into, attributions in zip(
            rows,
            (
                [gradient_times_difference(lens, *pair, bench.heads, metric) for pair in pairs],
                [integrated_gradients(lens, *pair, bench.heads, metric, integral) for pair in pairs],
            ),
            strict=True,
        ):
            into.append(
                np.mean([_label_effect(bench, -_by_head(by_point)[None])[0] / 2 for by_point in attributions], axis=0)
            )
    return np.stack(rows[0]), np.stack(rows[1])


def _by_head(attributions: Mapping[str, Attribution]) -> Float[np.ndarray, "b block head"]:
    return torch.stack([attribution.over("b k") for attribution in attributions.values()], 1).float().cpu().numpy()


def _rows(bench: Bench, evaluation: Evaluation, partners: Sequence[int]) -> list[int]:
    """Row of each clip's partner, in a batch ordered role by role."""
    size = count(evaluation) // len(bench.roles)
    return [role * size + scene for role in partners for scene in range(size)]


def _label_effect(
    bench: Bench, values: Float[np.ndarray, "readout b block head"]
) -> Float[np.ndarray, "readout scene block head"]:
    """The label effect of values of clips ordered role by role."""
    by_role = rearrange(values, "readout (role scene) ... -> readout role scene ...", role=len(bench.roles))
    names = ("readout", "role", "scene", "block", "head")
    return label_effect(xr.DataArray(by_role.astype(float), {"role": list(bench.roles)}, names)).values


if CONFIG is not None:
    answer(CONFIG, run)
