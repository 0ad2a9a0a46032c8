"""Which heads does the probe's logit depend on, by integrated gradients?

What: share of the logit's label effect (possible minus impossible clips) by head: attribute_heads-*.nc with
attributions (estimate, model, scene, pair, step, block, head).
Why: `attribute_writes` measures what a head itself writes along the probe's direction; this also counts what later
blocks make of it, without one forward for each head.
How: z moves on a line from one clip of a pair to the other, or from a baseline of noise alone, the block's input held
fixed; integrated gradients (captum) attribute the logit to heads, beside gradient times difference.
Controls: control models; A against B, where everything differs but the label; the run stops above a limit on the
convergence delta; heads are ranked on half of the test scenes and reported on the other half.
Cost: about four minutes on one core with the defaults.
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

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 320, "test": 24}
    ONE_PLACE: ClassVar[bool] = True

    nodes: int = 10
    """Gradients per integration line (Gauss-Legendre nodes)."""
    limit: float = 0.05
    """Largest accepted convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Number of scenes in a batch."""

    def per_test_scene(self, size: Size) -> float:
        """Gradients on a line to each block of each pair, and of each clip from its noise."""
        pairs = 9 if size.clips == 4 else 2
        return 1.5 * (pairs + size.clips) * self.nodes * size.blocks


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from dit_lens.attribution import Attribution, Integral, gradient_times_difference, integrated_gradients
from dit_lens.capture import batches, of_role
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.attribute_heads import ESTIMATES
from dit_lens.probing import Probe
from dit_lens.running import Evaluation
from dit_lens.studies import exchanges, outcome
from dit_lens.studies.integrated_gradients import integral_of, with_noise_alone
from dit_lens.studies.readers import Reader, readers

HEADS = "blocks.*.attn.hook_z"
SAME_LABEL = "A→B"


def run(config: Config) -> xr.Dataset:
    """The attributions of all models, along a dimension `model`; every model is read at the block the first chose.

    Raises:
        ValueError: too few scenes to fit on or to test on, or a convergence delta above the limit.
        KeyError: a model without heads to attribute to.
    """
    test, parts = config.scenes("test"), dict[str, xr.Dataset]()
    for reader in readers(config, points=HEADS):
        facts = reader.facts()
        facts["probe_spread"] = facts.probe_spread.expand_dims(step=reader.steps)
        parts[reader.lens.name] = attribute(reader, config, test).assign(facts)
        question = reader if len(parts) == 1 else question
    result = outcome.by_model(parts).assign_coords({**question.place(), "step": question.steps})
    return outcome.finished(outcome.with_scenes(result, config), config, question.lens)


def attribute(reader: Reader, config: Config, test: Sequence[Scene]) -> xr.Dataset:
    """Of all pairs: `effect_logit` (estimate, scene, pair, step, block, head), and the deltas of the lines."""
    lens, probe, roles, (step,) = reader.lens, reader.probe, test[0].roles, reader.steps
    signs = exchanges.pairs_of(roles, "crossed" in config.spec.gives)
    signs = {pair: sign for pair, sign in signs.items() if sign or pair == SAME_LABEL}
    integral, parts = integral_of(config, probe, config.nodes, config.limit), list[xr.Dataset]()
    for batch in batches(test, config.batch_size, f"{lens.name}, attribution"):
        both = with_noise_alone(config, lens, batch, step)
        clips, noise = ({role: of_role(evaluation, role, roles) for role in roles} for evaluation in both)
        alone = {role: _of_lines(lens, (clips[role], noise[role]), probe, integral) for role in roles}
        rows = [_pair(lens, pair, clips, alone, probe, integral) for pair in signs]
        table = xr.concat(rows, "pair").assign_coords(pair=list(signs), sign=("pair", list(signs.values())))
        parts.append(table.assign_coords(scene=[scene.id for scene in batch]))
    return xr.concat(parts, "scene", coords="minimal", compat="override").expand_dims(step=[step])


def _pair(
    lens: DiTLens,
    pair: str,
    clips: Mapping[str, Evaluation],
    alone: Mapping[str, xr.Dataset],
    probe: Probe,
    integral: Integral,
) -> xr.Dataset:
    """All estimates for one pair of roles, clean and corrupted."""
    clean, corrupted = pair.split("→")
    ends = clips[clean], clips[corrupted]
    first = gradient_times_difference(lens, *ends, HEADS, probe.logit)
    from_noise = alone[clean].assign(
        effect_logit=alone[clean].effect_logit - alone[corrupted].effect_logit,
        delta=np.maximum(alone[clean].delta, alone[corrupted].delta),
    )
    estimates = [_of_lines(lens, ends, probe, integral), _by_head(first, integral), from_noise]
    return xr.concat(estimates, "estimate").assign_coords(estimate=list(ESTIMATES))


def _of_lines(lens: DiTLens, ends: tuple[Evaluation, Evaluation], probe: Probe, integral: Integral) -> xr.Dataset:
    return _by_head(integrated_gradients(lens, *ends, HEADS, probe.logit, integral), integral)


def _by_head(attributions: Mapping[str, Attribution], integral: Integral) -> xr.Dataset:
    """Attributions of all blocks' heads, and how far each block's are from complete."""
    by_block = list(attributions.values())
    errors = [
        (attribution.over("b") - attribution.change).abs() / attribution.change.abs().clamp_min(integral.unit)
        for attribution in by_block
    ]
    heads = torch.stack([attribution.over("b k") for attribution in by_block], 1)
    return xr.Dataset(
        {
            "effect_logit": (("scene", "block", "head"), heads.float().cpu().numpy()),
            "delta": (("scene", "block"), torch.stack(errors, 1).float().cpu().numpy()),
        },
        coords={"block": range(len(by_block))},
    )


if CONFIG is not None:
    answer(CONFIG, run)
