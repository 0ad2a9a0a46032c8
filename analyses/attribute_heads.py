"""Which heads does the probe's verdict depend on, by integrated gradients?

Method: of each possible/impossible pair of a test quadruplet, both directions, every block's z goes on a straight line
from one clip's value to the other's, while what enters the block stays: integrated gradients (captum) of the logit of a
linear probe, by head. Only the blocks from there to the probe are run. Beside it the first-order estimate, gradient
times difference, which one backward tells for all heads; and another baseline: integrated gradients of each clip from
the run of its noise alone (a clean part of zeros, as in attribute_latents), of a pair the one's less the other's. Of
the eight pairs, what follows the label (odd) is told from what follows the content of either half, as in patch_heads.
Probe and route are those of attribute_writes: fitted on training scenes, at the block those scenes choose; by default
the first half is given clean and the second is noised.

Where attribute_writes tells what a head itself puts along the probe, this counts what blocks behind it make of it too.

Controls: a twin that never saw lawful clips and a random initialisation; A with B, where all changes but the label.
The convergence delta is told, and refused above a limit. Heads are ranked on half the test scenes and reported on the
other.

Output: figures/data/attribute_heads.nc with attributions (estimate, model, quadruplet, pair, step, block, head).
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.stats import spearmanr

from analyses.command import main
from analyses.frozen_probe import Options, by_model, halves, interval, load, probed
from analyses.lines import with_noise_alone
from analyses.pairs import PAIRS, content, label_odd, top_places
from dit_lens.attribution import Attribution, Line, gradient_times_difference, integrated_gradients
from dit_lens.capture import batches, of_role
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Evaluation

ESTIMATES = ("integrated gradients", "gradient × difference", "integrated gradients from noise")
CONTRASTS = {pair: sign for pair, sign in PAIRS.items() if sign}  # possible into impossible and back
SAME_LABEL = {"A→B": 0}
HEADS = "blocks.*.attn.hook_z"


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    train: int = 320
    """Training quadruplets the probe is fitted on."""
    test: int = 24
    """Test quadruplets."""
    nodes: int = 10
    """Gradients to each line (Gauss-Legendre)."""
    limit: float = 0.05
    """Largest convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Quadruplets to a batch."""


def run(config: Config) -> xr.Dataset:
    """The attributions of all models, along a dimension `model`; every model is read at the block the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split, or a convergence delta above the limit.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    for name, lens, probe, accuracy in probed(config, train):
        told = attribute(lens, config, test, probe)
        spread = xr.DataArray([probe.spread], coords={"step": [config.step]})
        parts.append(told.assign(probe_spread=spread, train_accuracy=accuracy).expand_dims(model=[name]))
    return by_model(parts, config, lens, probe)


def attribute(lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    """Of all pairs: `effect_logit` (estimate, quadruplet, pair, step, block, head), and the deltas of the lines."""
    pairs, parts = {**CONTRASTS, **SAME_LABEL}, []
    line = Line(steps=config.nodes, unit=probe.spread, limit=config.limit)
    for batch in batches(test, config.batch_size, f"{lens.name}, attribution"):
        clips, noise = ({role: of_role(one, role) for role in ROLES} for one in with_noise_alone(lens, config, batch))
        alone = {role: _of_lines(lens, (clips[role], noise[role]), probe, line) for role in ROLES}
        told = [_pair(lens, pair, clips, alone, probe, line) for pair in pairs]
        table = xr.concat(told, "pair").assign_coords(pair=list(pairs), sign=("pair", list(pairs.values())))
        parts.append(table.assign_coords(quadruplet=[quadruplet.id for quadruplet in batch]))
    told = xr.concat(parts, "quadruplet", coords="minimal", compat="override").expand_dims(step=[config.step])
    return told.assign_coords(property=("quadruplet", [quadruplet.property for quadruplet in test]))


def _pair(
    lens: DiTLens,
    pair: str,
    clips: Mapping[str, Evaluation],
    alone: Mapping[str, xr.Dataset],
    probe: Probe,
    line: Line,
) -> xr.Dataset:
    """All estimates for one pair of roles, clean and corrupted."""
    clean, corrupted = pair[0], pair[-1]
    ends = clips[clean], clips[corrupted]
    first = gradient_times_difference(lens, *ends, HEADS, probe.logit)
    from_noise = alone[clean].assign(
        effect_logit=alone[clean].effect_logit - alone[corrupted].effect_logit,
        delta=np.maximum(alone[clean].delta, alone[corrupted].delta),
    )
    told = [_of_lines(lens, ends, probe, line), _by_head(first, line), from_noise]
    return xr.concat(told, "estimate").assign_coords(estimate=list(ESTIMATES))


def _of_lines(lens: DiTLens, ends: tuple[Evaluation, Evaluation], probe: Probe, line: Line) -> xr.Dataset:
    return _by_head(integrated_gradients(lens, *ends, HEADS, probe.logit, line), line)


def _by_head(told: Mapping[str, Attribution], line: Line) -> xr.Dataset:
    """Attributions of all blocks' heads, and how far each block's are from complete."""
    deltas = [(one.over("b") - one.change).abs() / one.change.abs().clamp_min(line.unit) for one in told.values()]
    heads = torch.stack([one.over("b k") for one in told.values()], 1)
    return xr.Dataset(
        {
            "effect_logit": (("quadruplet", "block", "head"), heads.cpu().numpy()),
            "delta": (("quadruplet", "block"), torch.stack(deltas, 1).cpu().numpy()),
        },
        coords={"block": range(len(told))},
    )


# What follows from it.


def agreement(result: xr.Dataset, model: str, other: str = ESTIMATES[1]) -> float:
    """Rank correlation over heads of two estimates' label-odd maps, the first and another (Spearman)."""
    maps = [
        label_odd(result.sel(estimate=estimate, model=model)).mean("quadruplet").values.ravel()
        for estimate in (ESTIMATES[0], other)
    ]
    ranked: Any = spearmanr(maps[0], maps[1])
    return float(ranked.statistic)


def same_label(result: xr.Dataset) -> xr.DataArray:
    """Root mean square over quadruplets of the attribution between A and B, two possible clips, in probe SDs."""
    effect = result.effect_logit.sel(pair="A→B") / result.probe_spread
    return np.sqrt((effect**2).mean("quadruplet"))


def table(result: xr.Dataset) -> str:
    """Per model: the top heads on held-out scenes by all estimates, the controls, and the deltas."""
    _, report = halves(result)
    step = int(result.step.item())
    lines = [
        f"heads ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets, reported on"
        f" {report.sizes['quadruplet']}; label-odd attribution in probe SDs, [95% interval over quadruplets]"
    ]
    for model in result.model.values:
        whole = result.sel(estimate=ESTIMATES[0])
        chosen = top_places(whole, str(model), step)
        lines += ["", *_lines(result, report.sel(model=model, step=step), str(model), chosen)]
    return "\n".join(lines)


def _lines(result: xr.Dataset, report: xr.Dataset, model: str, chosen: Sequence[tuple[int, ...]]) -> list[str]:
    block = int(result.readout_block)
    accuracy = float(result.train_accuracy.sel(model=model, depth=block))
    lines = [
        f"{model}, sigma {float(result.sigma):.2f}, probe behind block {block}: {accuracy:.3f} out of fold on training"
        " scenes",
        "  block head   integrated gradients       gradient x difference      from noise alone           content"
        "   A with B (label kept)",
    ]
    odd = label_odd(report)
    rest = content(report.sel(estimate=ESTIMATES[0])).mean("quadruplet")
    kept = same_label(report.sel(estimate=ESTIMATES[0]))
    for at in chosen:
        cells = [odd.sel(estimate=estimate, block=at[0]).isel(head=at[1]).values for estimate in ESTIMATES]
        told = [interval(cell, np.ones_like(cell)) for cell in cells]
        lines.append(
            f"  {at[0]:5d} {at[1]:4d}   {'    '.join(told)}    {float(rest[at]):.3f}     {float(kept[at]):.3f}"
        )
    largest = float(np.abs(label_odd(result.sel(model=model, estimate=ESTIMATES[0])).mean("quadruplet")).max())
    deltas = [float(result.delta.sel(model=model, estimate=estimate).max()) for estimate in ESTIMATES]
    return [
        *lines,
        f"  all heads: largest label-odd attribution {largest:.3f}; rank agreement with the first order"
        f" {agreement(result, model):.2f}, with the lines from noise {agreement(result, model, ESTIMATES[2]):.2f}",
        f"  largest delta, of max(|change|, probe SD): {deltas[0]:.1g} of integrated gradients, {deltas[2]:.1g} from"
        f" noise, {deltas[1]:.1g} of the first order",
    ]


if __name__ == "__main__":
    from figures.attribute_heads import draw

    main(Config, run, table, draw, "attribute_heads", __doc__)
