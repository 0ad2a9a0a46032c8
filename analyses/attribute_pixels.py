"""Which pixels does the probe's verdict depend on?

Method: integrated gradients (captum) of the logit of a linear probe over the pixels of a clip, through the autoencoder
and straight noising: no inversion, and the noise is held fixed, one for all four clips of a quadruplet. Two baselines.
"paired clip": from an impossible clip to the possible one that shares a half with it, all four pairs of a quadruplet;
where the two agree the attribution is 0 by construction (hatched). "quadruplet mean": from the mean of the four clips
to each. By frame, what follows the label: the mean over the four pairs, or (A + B - C - D) / 2; either sums to the
logit's own contrast. Probe and route are those of attribute_writes; by default the first half is given clean and the
second is noised ("continuation").

Controls: the two baselines; a twin that never saw lawful clips; a random initialisation. The convergence delta is told,
and refused above a limit.

Output: figures/data/attribute_pixels.nc with label-odd attributions (model, baseline, quadruplet, frame), and maps of a
few pairs.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from analyses.frozen_probe import Options, by_model, load, probed
from analyses.lines import SHOWN, drawn, from_baselines, from_partners, line_of, logit_contrast, tabulate
from dit_lens.attribution import Line
from dit_lens.capture import batches, latent_splice, partly_noised, role_major, spliced_noise
from dit_lens.clips import ROLES, Quadruplet, stack_frames
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.running import Request
from dit_lens.video import to_tensor

BASELINES = ("paired clip", "quadruplet mean")
Video = Float[Tensor, "b 3 F H W"]


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    path: Literal["continuation", "noising"] = "continuation"
    """To random noise, or that with the first half given clean."""
    train: int = 320
    """Training quadruplets the probe is fitted on."""
    test: int = 20
    """Test quadruplets."""
    shown: int = 3
    """How many of them are drawn: those whose pair the probe tells best."""
    nodes: int = 24
    """Gradients to each line (Gauss-Legendre)."""
    limit: float = 0.05
    """Largest convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Quadruplets to a batch."""


def run(config: Config) -> xr.Dataset:
    """Attributions by frame of all models; every model is read at the block the first chose. Maps of the first.

    Raises:
        ValueError: too few quadruplets to fit or to split, or a convergence delta above the limit.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    maps: list[xr.Dataset] = []
    for name, lens, probe, accuracy in probed(config, train):
        told = attribute(lens, config, test, probe)
        maps = maps or [drawn(told, test, range(told.sizes["frame"]), config.shown)]
        told = told.drop_vars(["heat", "agree"]).assign(train_accuracy=accuracy, probe_spread=probe.spread)
        parts.append(told.expand_dims(model=[name]))
    result = by_model(parts, config, lens, probe)
    return xr.merge([result, *maps], combine_attrs="override")


# From pixels to the logit.


@dataclass(frozen=True, eq=False)
class PixelLogit:
    """Logit of videos, encoded and noised: rows -> (rows,), for any number of copies of the noise's clips.

    Attributes:
        given: latent frames that are fed clean.
    """

    lens: DiTLens
    probe: Probe
    noise: Float[Tensor, "b c f h w"]
    given: int

    def __call__(self, video: Video) -> Float[Tensor, " b"]:
        """The probe's logit at its noise level."""
        point, noise = self.probe.reads.point, self.noise.repeat(len(video) // len(self.noise), 1, 1, 1, 1)
        latent = self.lens.family.encode(self.lens.vae, video).to(noise)
        fed = partly_noised(self.lens, latent, noise, self.probe.reads.sigma, self.given)
        evaluation = self.lens.model.evaluation(**fed, conditioning=self.lens.conditioning)
        _, cache = self.lens.model.run_with(evaluation, {}, Request(point, stop_at=point))
        return self.probe.of_activation(cache[point])


def attribute(lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    """Label-odd attribution by frame, the maps of the pair that is shown, and the deltas of all lines."""
    line = Line(steps=config.nodes, unit=probe.spread, limit=config.limit)
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, pixels"):
        latents = lens.encode(role_major(batch))
        noise = spliced_noise(latents, batch, config.seed)[: len(batch)]  # that of A, for all four
        given = latent_splice(latents, batch[0]) if config.path == "continuation" else 0
        videos = to_tensor(stack_frames(role_major(batch))).to(latents).unflatten(0, (len(ROLES), -1))
        parts.append(_batch(PixelLogit(lens, probe, noise, given), dict(zip(ROLES, videos, strict=True)), line))
    told = xr.concat(parts, "quadruplet", coords="minimal", compat="override")
    properties, splices = ([getattr(q, name) for q in test] for name in ("property", "splice"))
    return told.assign_coords(
        quadruplet=[q.id for q in test], property=("quadruplet", properties), splice=("quadruplet", splices)
    )


def _batch(logit: PixelLogit, videos: dict[str, Video], line: Line) -> xr.Dataset:
    """Both baselines on some quadruplets."""
    mean = torch.stack(list(videos.values())).mean(0)
    lines = from_partners(logit, videos, line), from_baselines(logit, videos, dict.fromkeys(ROLES, mean), line)
    with torch.no_grad():
        plain = torch.stack([logit(videos[role]) for role in ROLES], 1)
    agree = (videos[SHOWN[0]] == videos[SHOWN[1]]).all((1, 3, 4))  # over colours, rows and columns
    told = tabulate(dict(zip(BASELINES, lines, strict=True)))
    return told.drop_vars("odd").assign(
        by_frame=told.odd.sum(["row", "column"]),
        logit=(("quadruplet", "role"), plain.numpy()),
        agree=(("quadruplet", "frame"), agree.numpy()),
    ).assign_coords(role=list(ROLES))  # fmt: skip


# What follows from it.


def table(result: xr.Dataset) -> str:
    """Per model and baseline: label-odd attribution in all, before the splice and behind it, and the delta."""
    lines = [
        f"{result.sizes['quadruplet']} test quadruplets; label-odd attribution in probe SDs, [95% interval over"
        " quadruplets]"
    ]
    for model in result.model.values:
        here = result.sel(model=model)
        accuracy = float(here.train_accuracy.sel(depth=int(here.readout_block)))
        lines += [
            "",
            f"{model}, sigma {float(here.sigma):.2f}, probe behind block {int(here.readout_block)}: {accuracy:.3f} out"
            f" of fold on training scenes; contrast of the logit {logit_contrast(here.logit, here.probe_spread)}",
            "  baseline          all frames                 before the splice          from the splice on",
            *(line_of(here.sel(baseline=baseline), str(baseline)) for baseline in result.baseline.values),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.attribute_pixels import draw

    main(Config, run, table, draw, "attribute_pixels", __doc__)
