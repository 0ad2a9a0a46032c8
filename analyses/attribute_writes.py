"""Which component writes plausibility: which heads, MLPs and blocks make up what the probe reads?

Method: the stream is the sum of all writes before it, so that the logit of a linear probe is the sum of what the
embedding, each head (of self- and cross-attention) and each MLP add to it: exactly, nothing is patched
(`cache.attribute_to`). Every part is contrasted over the four clips of a test quadruplet, (A + B - C - D) / 2: what
depends on possibility and on neither half alone. The probe (on means by latent frame) is fitted on training scenes, at
the block those scenes choose, and frozen. By default the first half is given clean and the second is noised
("continuation"): two clips that share a half agree there to the bit, and attention alone can bring the halves together.

Controls: what the embedding writes is a sum over frames, whose contrast is 0; random directions of the probe's length;
a twin that never saw lawful clips; a random initialisation. Components are ranked on half the test scenes and reported
on the other, with a p-value for the largest of all components (signs of quadruplets flipped).

Output: figures/data/attribute_writes.nc with attributions (model, direction, quadruplet, role, block, component).
Cost: about two minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from analyses.command import main
from analyses.frozen_probe import Options, by_model, halves, interval, load, probed, route
from analyses.roles import by_role, content, contrast
from dit_lens import stats
from dit_lens.cache import ActivationCache
from dit_lens.capture import batches, evaluations
from dit_lens.clips import Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Request

TOP = 6


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    train: int = 320
    """Training quadruplets the probe is fitted on."""
    test: int = 120
    """Test quadruplets."""
    directions: int = 4
    """Random directions beside the probe's."""


def run(config: Config) -> xr.Dataset:
    """The attributions of all models, along a dimension `model`; every model is read at the block the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    for name, lens, probe, accuracy in probed(config, train):
        told = written(lens, config, test, probe).assign(probe_spread=probe.spread, train_accuracy=accuracy)
        parts.append(told.expand_dims(model=[name]))
    return by_model(parts, config, lens, probe)


# What is written along it.


def written(lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    """What every component writes along the probe and along random directions, on all four clips of a quadruplet."""
    point = probe.reads.point
    directions = random_directions(probe.weight, config.directions, config.seed)
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, writes"):
        (fed,) = evaluations(lens, batch, config.steps, route(config)).values()
        _, kept = lens.model.run(fed, Request(lens.anatomy.needs(point), stop_at=point))
        cache = ActivationCache(kept, lens.model.grid(fed), lens.blocks, anatomy=lens.anatomy)
        told = [cache.attribute_to(probe), *(cache.attribute_to(direction, point) for direction in directions)]
        parts.append(by_role(xr.concat(told, "direction", coords="minimal", compat="override"), batch))
    names = ["probe", *(f"random {index}" for index in range(len(directions)))]
    told = xr.concat(parts, "quadruplet", coords="minimal", compat="override").assign_coords(direction=names)
    return told.assign(attribution=told.attribution.astype("float32"))


def random_directions(weight: Float[torch.Tensor, "*f d"], count: int, seed: int) -> list[Float[torch.Tensor, "*f d"]]:
    """Directions of equal length."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(weight.shape, generator=generator) for _ in range(count))
    return [direction / direction.norm() * weight.norm() for direction in drawn]


# What follows from it.


def components(result: xr.Dataset) -> xr.Dataset:
    """What can depend on the clip: without the biases of projections, which write the same into every clip."""
    return result.sel(component=[not str(name).endswith("bias") for name in result.component.values])


def top(result: xr.Dataset, model: str) -> list[tuple[int, str]]:
    """The (block, component) with the largest contrasts on the ranking half, by size."""
    ranking = components(halves(result)[0].sel(model=model, direction="probe"))
    mean = contrast(ranking.attribution, ranking.probe_spread).mean("quadruplet").transpose("block", "component")
    order = np.argsort(-np.abs(mean.values), axis=None)[:TOP]
    return [
        (int(mean.block[row]), str(mean.component.values[column]))
        for row, column in zip(*np.unravel_index(order, mean.shape), strict=True)
    ]


def table(result: xr.Dataset) -> str:
    """Per model: the probe's contrast, the components that write it on held-out scenes, and the controls."""
    _, report = halves(result)
    lines = [
        f"components ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets, reported on"
        f" {report.sizes['quadruplet']}; contrast (A + B - C - D) / 2 in probe SDs, [95% interval over quadruplets]"
    ]
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model), top(result, str(model)))]
    return "\n".join(lines)


def _lines(whole: xr.Dataset, report: xr.Dataset, chosen: list[tuple[int, str]]) -> list[str]:
    block, spread = int(whole.readout_block), report.probe_spread
    total = contrast(report.readout, spread).sel(direction="probe").values
    effects = contrast(components(report).attribution, spread)
    own = effects.sel(direction="probe").stack(cell=["block", "component"]).transpose("quadruplet", "cell")
    p = own[0].copy(data=stats.sign_flip_p(own.values))
    written_by = content(components(report).attribution.sel(direction="probe"), spread)
    lines = [
        f"{whole.model.item()}, sigma {float(whole.sigma):.2f}, probe behind block {block}: out of fold"
        f" {float(whole.train_accuracy.sel(depth=block)):.3f} on training scenes; contrast of the logit"
        f" {interval(total, np.ones_like(total))}",
        "  block component     contrast                   share of the logit's         content   p (largest of all)",
    ]
    for at in chosen:
        effect = own.sel(cell=at).values
        lines.append(
            f"  {at[0]:5d} {at[1]:14s}  {interval(effect, np.ones_like(effect))}  {interval(effect, total)}"
            f"   {float(written_by.sel(block=at[0], component=at[1])):.3f}     {float(p.sel(cell=at)):.4f}"
        )
    return [*lines, *_controls(whole, effects)]


def _controls(whole: xr.Dataset, effects: xr.DataArray) -> list[str]:
    """Largest contrasts along the probe and along random directions, what must be 0, and what the sums leave."""
    largest = abs(effects.mean("quadruplet")).max(["block", "component"])
    random = [f"{float(x):.3f}" for x in largest.values[1:]]
    embedding = float(np.abs(contrast(whole.embedding, whole.probe_spread)).max())
    left = float(np.abs(whole.unexplained / whole.probe_spread).max())
    return [
        f"  largest contrast of any component {float(largest[0]):.3f}; along random directions"
        f" {', '.join(random) or 'none drawn'}",
        f"  embedding (0 by construction): at most {embedding:.1g}; parts add up to every logit to {left:.1g}",
    ]


if __name__ == "__main__":
    from figures.attribute_writes import draw

    main(Config, run, table, draw, "attribute_writes", __doc__)
