"""Which frames and positions of the noised latent does the probe's verdict depend on?

Method: integrated gradients (captum) of the logit of a linear probe over x_sigma, the latent that the step is fed: how
clips got there (inversion, noising) is held fixed, so this tells what the model reads at this step, not which pixels
made it. Three baselines. "paired clip": from an impossible clip to both possible ones that share a half with it, all
four pairs of a quadruplet; where two latents agree to the bit the attribution is 0 by construction (hatched; on the
whole shared half, but for inversion, which mixes halves). "quadruplet mean": from the mean of the four latents to each.
"zero clean part": from sigma times the clip's own noise (recovered by inversion, or drawn), with which a clean latent
of zeros would be fed; frames that are given clean begin at 0. What follows the label is the mean over the four pairs,
(A + B - C - D) / 2: it averages over both partners. Over all frames and positions it adds up to the logit's own
contrast, less that of the noise alone for the last baseline. Probe and route are those of attribute_writes.

Controls: the baselines beside each other; random directions of the probe's length, in the first model; a twin that
never saw lawful clips; a random initialisation. The convergence delta is told, and refused above a limit.

Output: figures/data/attribute_latents.nc with label-odd attributions (model, direction, baseline, quadruplet, frame,
row, column), and maps of a few pairs.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import xarray as xr

from analyses.attribute_writes import random_directions
from analyses.command import main
from analyses.frozen_probe import Options, by_model, load, probed
from analyses.lines import (
    SHOWN,
    drawn,
    from_baselines,
    from_partners,
    latents_by_role,
    line_of,
    logit_contrast,
    tabulate,
    with_noise_alone,
)
from dit_lens.attribution import LATENT, Line, between
from dit_lens.capture import batches, latent_splice, of_role
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Evaluation

BASELINES = ("paired clip", "quadruplet mean", "zero clean part")


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    train: int = 320
    """Training quadruplets the probe is fitted on."""
    test: int = 12
    """Test quadruplets."""
    shown: int = 2
    """How many of them are drawn: those whose pair the probe tells best."""
    directions: int = 1
    """Random directions beside the probe's, in the model in question."""
    nodes: int = 32
    """Gradients to each line (Gauss-Legendre)."""
    limit: float = 0.05
    """Largest convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Quadruplets to a batch."""


def run(config: Config) -> xr.Dataset:
    """Attributions of all models; every model is read at the block the first chose. Maps of the first.

    Raises:
        ValueError: too few quadruplets to fit or to split, or a convergence delta above the limit.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    maps: list[xr.Dataset] = []
    for name, lens, probe, accuracy in probed(config, train):
        told = attribute(lens, config, test, probe, 0 if parts else config.directions)
        maps = maps or [drawn(told.sel(direction="probe", drop=True), test, clip_frames(told, test), config.shown)]
        told = told.drop_vars(["heat", "agree"]).assign(train_accuracy=accuracy, probe_spread=probe.spread)
        parts.append(told.expand_dims(model=[name]))
    result = by_model(parts, config, lens, probe, join="outer")
    return xr.merge([result, *maps], combine_attrs="override")


# From the latent to the logit.


def attribute(
    lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe, directions: int = 0
) -> xr.Dataset:
    """Label-odd attributions and the map of the pair that is shown, by baseline, along the probe and at random."""
    weights = [probe.weight, *random_directions(probe.weight, directions, config.seed)]
    names = ["probe", *(f"random {index}" for index in range(directions))]
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, latents"):
        clips, alone = with_noise_alone(lens, config, batch)
        told = [_batch(lens, config, replace(probe, weight=weight), clips, alone) for weight in weights]
        latent = latents_by_role(lens, clips)
        agree = (latent[SHOWN[0]] == latent[SHOWN[1]]).all((1, 3, 4))  # over channels, rows and columns
        table = xr.concat(told, "direction").assign_coords(direction=names)
        cut = latent_splice(latent["A"], batch[0])
        parts.append(
            table.assign(agree=(("quadruplet", "frame"), agree.cpu().numpy())).assign_coords(
                quadruplet=[q.id for q in batch], splice=("quadruplet", [cut] * len(batch))
            )
        )
    told = xr.concat(parts, "quadruplet", coords="minimal", compat="override")
    told = told.assign_coords(property=("quadruplet", [quadruplet.property for quadruplet in test]))
    return told.assign(by_frame=told.odd.sum(["row", "column"]))


def _batch(lens: DiTLens, config: Config, probe: Probe, clips: Evaluation, alone: Evaluation) -> xr.Dataset:
    """All baselines on some quadruplets, and the logits of clips and of noise alone."""
    line = Line(steps=config.nodes, unit=probe.spread, limit=config.limit)
    first = of_role(clips, ROLES[0])  # all but the latent is the same in all roles
    logit = between(lens, first, first, LATENT, probe.logit).rerun(LATENT, "clean")
    latents, noise = latents_by_role(lens, clips), latents_by_role(lens, alone)
    mean = torch.stack(list(latents.values())).mean(0)
    lines = [
        from_partners(logit, latents, line),
        from_baselines(logit, latents, dict.fromkeys(ROLES, mean), line),
        from_baselines(logit, latents, noise, line),
    ]
    with torch.no_grad():
        plain = {
            name: (("quadruplet", "role"), torch.stack([logit(of[role]) for role in ROLES], 1).cpu().numpy())
            for name, of in (("logit", latents), ("noise_logit", noise))
        }
    return tabulate(dict(zip(BASELINES, lines, strict=True))).assign(plain).assign_coords(role=list(ROLES))


def clip_frames(told: xr.Dataset, test: Sequence[Quadruplet]) -> list[int]:
    """The last frame of a clip that each latent frame stands for."""
    compression = (len(test[0].a.frames) - 1) // (told.sizes["frame"] - 1)
    return [frame * compression for frame in range(told.sizes["frame"])]


# What follows from it.


def table(result: xr.Dataset) -> str:
    """Per model, direction and baseline: label-odd attribution in all, before the splice and behind it; deltas."""
    lines = [
        f"{result.sizes['quadruplet']} test quadruplets; label-odd attribution over x_sigma in probe SDs (how clips got"
        " there is held fixed), [95% interval over quadruplets]"
    ]
    for model in result.model.values:
        here = result.sel(model=model)
        accuracy = float(here.train_accuracy.sel(depth=int(here.readout_block)))
        lines += [
            "",
            f"{model}, sigma {float(here.sigma):.2f}, probe behind block {int(here.readout_block)}: {accuracy:.3f} out"
            " of fold on training scenes",
        ]
        for direction in here.direction.values[here.logit.notnull().any(["quadruplet", "role"])]:
            lines += _lines(here.sel(direction=direction))
    return "\n".join(lines)


def _lines(here: xr.Dataset) -> list[str]:
    contrasts = (logit_contrast(here[name], here.probe_spread) for name in ("logit", "noise_logit"))
    return [
        "  {}: contrast of the logit {}, of the noise alone {}".format(here.direction.values, *contrasts),
        "  baseline          all frames                 before the splice          from the splice on",
        *(line_of(here.sel(baseline=baseline), str(baseline)) for baseline in here.baseline.values),
    ]


if __name__ == "__main__":
    from figures.attribute_latents import draw

    main(Config, run, table, draw, "attribute_latents", __doc__)
