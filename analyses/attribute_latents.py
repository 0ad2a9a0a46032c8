"""Which frames and positions of the noised latent does the probe's logit depend on?

What: label effects (possible minus impossible clips) of attributions (model, direction, baseline, scene, frame, row,
column), and maps of a few pairs: attribute_latents-*.nc.
Why: it shows whether the probe's evidence lies where the physics happens (where an object disappears and reappears) or
elsewhere.
How: integrated gradients (captum) of the logit over x_sigma, the latent that the transformer reads, from three
baselines: the paired clip, the mean of the scene, a clean latent of zeros. How the clip got to noise is held fixed.
Controls: the three baselines side by side; random directions of the probe's length, in the model in question; control
models; the run stops above a limit on the convergence delta.
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

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 320, "test": 12}
    ONE_PLACE: ClassVar[bool] = True

    shown: int = 2
    """Test scenes in the figure, at most one per property: those whose pair the probe separates best."""
    directions: int = 1
    """Number of random directions, as long as the probe's, in the model in question."""
    nodes: int = 32
    """Gradients per integration line (Gauss-Legendre nodes)."""
    limit: float = 0.05
    """Largest accepted convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Number of scenes in a batch."""

    def per_test_scene(self, size: Size) -> float:
        """Gradients on three lines to each clip, along each direction."""
        return 3 * 3 * size.clips * self.nodes * (1 + self.directions)


CONFIG = asked(Config, __name__)

from collections.abc import Sequence
from dataclasses import replace

import xarray as xr

from dit_lens.attribution import Integral
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Evaluation
from dit_lens.studies import integrated_gradients as gradients
from dit_lens.studies import outcome
from dit_lens.studies.readers import Reader, readers
from dit_lens.studies.readouts import random_directions
from dit_lens.studies.shown import Shown

BASELINES = ("paired clip", "scene mean", "zero clean part")


def run(config: Config) -> xr.Dataset:
    """Attributions of all models, read after the block that the first model chose; maps of the first model.

    Raises:
        ValueError: too few scenes to fit on or to test on, or a convergence delta above the limit.
    """
    test, shown, parts = config.scenes("test"), Shown(), dict[str, xr.Dataset]()
    for reader in readers(config):
        first = not parts
        table = attribute(reader, config, test, config.directions if first else 0, shown if first else None)
        parts[reader.lens.name] = table.assign(reader.facts())
        question = reader if first else question
    result = outcome.by_model(parts, join="outer").assign_coords(question.place())
    result = xr.merge([outcome.with_scenes(result, config), shown.table(config.shown)])
    return outcome.finished(result, config, question.lens)


def attribute(
    reader: Reader, config: Config, test: Sequence[Scene], directions: int = 0, shown: Shown | None = None
) -> xr.Dataset:
    """Label effects of attributions by baseline, along the probe and at random.

    Args:
        shown: collects the maps to draw.
    """
    lens, probe, parts = reader.lens, reader.probe, list[xr.Dataset]()
    weights = {"probe": probe.weight, **random_directions(probe.weight, directions, config.seed)}
    integral = gradients.integral_of(config, probe, config.nodes, config.limit)
    for batch in gradients.scenes_of_a_kind(test, config.batch_size, f"{lens.name}, latents"):
        clips, alone = gradients.with_noise_alone(config, lens, batch, probe.reads.step)
        rows = [
            _batch(lens, batch, replace(probe, weight=weight), (clips, alone), integral) for weight in weights.values()
        ]
        table = xr.concat(rows, "direction").assign_coords(direction=list(weights))
        splices = gradients.splices_of(batch, table.sizes["frame"])
        table = table.assign_coords(scene=[scene.id for scene in batch], splice=("scene", splices))
        table["agree"] = gradients.agreement(gradients.latents_by_role(lens, clips, batch[0].roles))
        if shown is not None:
            shown.add(table.sel(direction="probe", drop=True), batch)
        parts.append(table.drop_vars(["heat", "agree"]))
    result = xr.concat(parts, "scene", coords="minimal", compat="override")
    return result.assign(by_frame=result.label_effect.sum(["row", "column"]))


def _batch(
    lens: DiTLens, batch: Sequence[Scene], probe: Probe, runs: tuple[Evaluation, Evaluation], integral: Integral
) -> xr.Dataset:
    """Attributions of some scenes from all baselines; and the logits of the two runs, clips and noise alone."""
    roles = batch[0].roles
    latents, noise = (gradients.latents_by_role(lens, run, roles) for run in runs)
    logits = gradients.of_latents(lens, runs[0], roles, probe)
    attributions = [
        gradients.from_partners(logits, latents, gradients.pairs_of(batch[0]), integral),
        gradients.from_baselines(logits, latents, gradients.mean_of(latents), integral),
        gradients.from_baselines(logits, latents, noise, integral),
    ]
    table = gradients.tabulate(dict(zip(BASELINES, attributions, strict=True)))
    plain = {"logit": gradients.logits_by_role(logits, latents), "noise_logit": gradients.logits_by_role(logits, noise)}
    return table.assign(plain)


if CONFIG is not None:
    answer(CONFIG, run)
