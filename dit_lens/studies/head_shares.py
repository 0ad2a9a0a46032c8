"""Each head's share of the label effect by six methods, on the same clips, step, pairs and readouts.

For a head that only writes to the readout all six are equal (but for the donors' writes in resample ablation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float

from dit_lens import ablation
from dit_lens.attribution import Attribution, Integral, gradient_times_difference, integrated_gradients
from dit_lens.cache import ActivationCache
from dit_lens.cache.anatomy import block_of
from dit_lens.lens import DiTLens
from dit_lens.measures.labels import label_effect
from dit_lens.metrics import Readout
from dit_lens.patching import patch_heads
from dit_lens.running import Evaluation, Request, count, some
from dit_lens.studies.readouts import Readouts

Means = Mapping[str, Mapping[int, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Bench:
    """The inputs that all methods share.

    Attributes:
        step: that is read.
        read: the probe and a random direction.
        means: mean z of training clips by hook point and step.
        roles: of every scene's clips.
        partners: see `exchanges.partners_of`.
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
