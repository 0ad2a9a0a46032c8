"""Which pixels does the probe's logit depend on?

What: label effects (possible minus impossible clips) of attributions (model, baseline, scene, frame), and maps of a few
pairs: attribute_pixels-*.nc.
Why: latents mix frames and positions; pixels are what a person can check by eye, frame by frame.
How: integrated gradients (captum) of the logit over the pixels of a clip, through autoencoder and straight noising (no
inversion; one noise for all clips of a scene), from the paired clip and from the mean of the scene.
Controls: the two baselines; control models; the run stops above a limit on the convergence delta.
Cost: about three minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.datasets.spec import SPLICES
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 320, "test": 20}
    ONE_PLACE: ClassVar[bool] = True

    shown: int = 3
    """Test scenes in the figure, at most one per property: those whose pair the probe separates best."""
    nodes: int = 24
    """Gradients per integration line (Gauss-Legendre nodes)."""
    limit: float = 0.05
    """Largest accepted convergence delta, relative to max(|change of the logit|, probe SD)."""
    batch_size: int = 4
    """Number of scenes in a batch."""

    def resolved(self) -> Config:
        """With every unset option filled in; whole clips are noised where continuation is not the default."""
        if self.path is None and not (self.bundled and SPLICES in self.spec.gives):
            return replace(self, path="noising").resolved()
        return super().resolved()

    def check(self) -> None:
        """That options go together.

        Raises:
            ValueError: see `Study.check`; or inversion, through which no gradient is taken.
        """
        super().check()
        if self.path == "inversion":
            raise ValueError(
                "got path inversion · expected noising or continuation: gradients reach pixels through the"
                " autoencoder, not through an inversion · use --path noising, or attribute_latents"
            )

    def per_test_scene(self, size: Size) -> float:
        """Gradients on two lines to each clip."""
        return 2 * 3 * size.clips * self.nodes


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens.attribution import Integral
from dit_lens.capture import clean_frames, clips_of, encode, evaluations, partly_noised, spliced_noise
from dit_lens.clips import Scene, stack_frames
from dit_lens.lens import DiTLens
from dit_lens.studies import integrated_gradients as gradients
from dit_lens.studies import outcome
from dit_lens.studies.integrated_gradients import Logit
from dit_lens.studies.readers import Reader, readers
from dit_lens.studies.shown import Shown
from dit_lens.video import to_tensor

BASELINES = ("paired clip", "scene mean")
Video = Float[Tensor, "b 3 F H W"]


def run(config: Config) -> xr.Dataset:
    """Attributions by frame of all models, read after the block that the first model chose; maps of the first model.

    Raises:
        ValueError: too few scenes to fit on or to test on, or a convergence delta above the limit.
    """
    test, shown, parts = config.scenes("test"), Shown(), dict[str, xr.Dataset]()
    for reader in readers(config):
        first = not parts
        parts[reader.lens.name] = attribute(reader, config, test, shown if first else None).assign(reader.facts())
        question = reader if first else question
    result = outcome.by_model(parts).assign_coords(question.place())
    result = xr.merge([outcome.with_scenes(result, config), shown.table(config.shown)])
    return outcome.finished(result, config, question.lens)


# From pixels to the logit.


@dataclass(frozen=True, eq=False)
class PixelLogit:
    """Logit of videos, encoded and noised: rows -> (rows,), for any number of copies of the noise's clips.

    Attributes:
        of_latents: the logit as a function of the noised latents.
        sigma: their noise level.
        given: the number of latent frames of each clip that are given clean.
    """

    lens: DiTLens
    of_latents: Logit
    noise: Float[Tensor, "b c f h w"]
    sigma: float
    given: Sequence[int]

    def __call__(self, video: Video) -> Float[Tensor, " rows"]:
        """The probe's logit at its noise level."""
        copies = len(video) // len(self.noise)
        noise, clean_counts = self.noise.repeat(copies, 1, 1, 1, 1), list(self.given) * copies
        latent = self.lens.family.encode(self.lens.vae, video).to(noise)
        return self.of_latents(partly_noised(self.lens, latent, noise, self.sigma, clean_counts)["latent"])


def logits_of(reader: Reader, batch: Sequence[Scene]) -> dict[str, PixelLogit]:
    """For each role the logit as a function of its clips' pixels; all roles share the noise of the first."""
    lens, probe, roles, size = reader.lens, reader.probe, batch[0].roles, len(batch)
    (evaluation,) = evaluations(lens, batch, reader.steps, reader.path).values()
    latents = encode(lens.encode, batch, reader.path.crossing)
    noise = spliced_noise(latents, batch, reader.path.seed)[:size]
    continued = reader.path.kind == "continuation"
    clean_counts = clean_frames(batch, latents.shape[2]) if continued else [0] * len(latents)
    of_latents = gradients.of_latents(lens, evaluation, roles, probe)
    return {
        role: PixelLogit(
            lens, of_latents[role], noise, evaluation.sigma, clean_counts[place * size : (place + 1) * size]
        )
        for place, role in enumerate(roles)
    }


def attribute(reader: Reader, config: Config, test: Sequence[Scene], shown: Shown | None = None) -> xr.Dataset:
    """Label effect of the attribution by frame, and the largest delta of each scene's lines.

    Args:
        shown: collects the maps to draw.
    """
    integral, parts = gradients.integral_of(config, reader.probe, config.nodes, config.limit), list[xr.Dataset]()
    for batch in gradients.scenes_of_a_kind(test, config.batch_size, f"{reader.lens.name}, pixels"):
        table = _batch(logits_of(reader, batch), batch, integral)
        splices = gradients.splices_of(batch, table.sizes["frame"])
        table = table.assign_coords(scene=[scene.id for scene in batch], splice=("scene", splices))
        if shown is not None:
            shown.add(table, batch)
        parts.append(table.drop_vars(["heat", "agree"]))
    return xr.concat(parts, "scene", coords="minimal", compat="override")


def _batch(logits: Mapping[str, PixelLogit], batch: Sequence[Scene], integral: Integral) -> xr.Dataset:
    """Attributions of some scenes from both baselines."""
    like = next(iter(logits.values())).noise
    clips = to_tensor(stack_frames(clips_of(batch))).to(like.device, torch.float32)
    videos = dict(zip(logits, clips.chunk(len(logits)), strict=True))
    attributions = (
        gradients.from_partners(logits, videos, gradients.pairs_of(batch[0]), integral),
        gradients.from_baselines(logits, videos, gradients.mean_of(videos), integral),
    )
    table = gradients.tabulate(dict(zip(BASELINES, attributions, strict=True)))
    by_frame, plain = table.label_effect.sum(["row", "column"]), gradients.logits_by_role(logits, videos)
    return table.drop_vars("label_effect").assign(by_frame=by_frame, logit=plain, agree=gradients.agreement(videos))


if CONFIG is not None:
    answer(CONFIG, run)
