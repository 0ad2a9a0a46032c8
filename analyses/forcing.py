"""How faithfully does the model continue a clip, for how long, and how much of the past does it use?

What: objects found, in place and of the right colour, and PSNR: forcing-*.nc with sums (model, context, scene, role,
count) and drift (level, round, rolled, statistic).
Why: generation is the behaviour that probes are compared with. Before asking whether it obeys physics, one must know
whether objects survive it at all.
How: first frames are kept clean, later ones sampled, a noise level for each latent frame; a tracker compares with the
truth. Forgetting: fewer given frames, down to none. Drift: window after window, at several context noises.
Controls: the true clips through the autoencoder (the ceiling); a model trained on clips whose halves are independent; a
random initialisation; no context at all. All share the same noise.
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import ContinuationStudy, Size


@dataclass(frozen=True)
class Config(ContinuationStudy):
    """Options of the analysis; clips are sampled in --sampler-steps steps, and nothing is read or fitted."""

    DEMO: ClassVar[Mapping[str, Any]] = {"sampler_steps": 12, "read_at": (0.5,), "train": 0, "test": 44}

    rolled: int = 22
    """Maximum number of test scenes whose clip A is rolled out."""
    rounds: int = 8
    """Windows generated in a rollout, after the true clip."""
    context_noise: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    """Noise levels of the context in rollouts, at least 0 and below 1."""

    def check(self) -> None:
        """Checks options as for every study, and the options of rollouts."""
        super().check()
        levels = self.context_noise
        if self.rounds < 1 or self.rolled < 2 or not levels or not all(0 <= level < 1 for level in levels):
            raise ValueError(
                f"got --rolled {self.rolled} --rounds {self.rounds} --context-noise {' '.join(map(str, levels))} ·"
                " expected at least 2 scenes, 1 round and 1 noise level in [0, 1)"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations to continue A and B from every length of context, and to roll out some of them."""
        rollouts = self.rolled / max(1, size.test) * self.rounds * len(self.context_noise)
        return (self.sampler_steps or 0) * (2 * 4 + rollouts)


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from dit_lens.capture import alike, generator_of, latent_splice, spliced_noise
from dit_lens.clips import Scene, stack_frames
from dit_lens.continuation import Context, Window, continue_frames, frame_velocity, roll_on
from dit_lens.lens import DiTLens
from dit_lens.measures.forcing import CEILING, STATISTICS
from dit_lens.studies import outcome
from dit_lens.toy import truth
from dit_lens.video import to_tensor


def run(config: Config) -> xr.Dataset:
    """Continuations of every clip by every model, from every length of context; and drift by level and round."""
    test = config.scenes("test")
    frames, rolled_scenes = len(test[0].clips[0].frames), test.first(config.rolled)
    parts: dict[str, xr.DataArray] = {}
    for name, lens in config.lenses():
        batches = alike(test, config.batch_size, frames, f"{name}, continuations")
        parts[name] = xr.concat([continued(lens, batch, config) for batch in batches], "scene", join="exact")
        if len(parts) == 1:
            question = lens
            ceilings = xr.concat(
                [truth.ceiling(lens, batch) for batch in alike(test, config.batch_size, frames)], "scene"
            )
            rolled = alike(rolled_scenes, config.batch_size, frames, f"{name}, rollouts")
            drift = xr.concat([drifted(lens, batch, config) for batch in rolled], "rolled")
    aligned = xr.broadcast(*parts.values(), ceilings)
    sums = xr.concat(aligned, xr.Variable("model", [*parts, CEILING])).transpose("model", "context", ...)
    result = outcome.with_scenes(xr.Dataset({"sums": sums, "drift": drift}), config)
    return outcome.finished(result, config, question)


@torch.no_grad()
def continued(
    lens: DiTLens, scenes: Sequence[Scene], config: Config
) -> Float[xr.DataArray, "context scene role count"]:
    """Sums of continuations of A and B (see `truth.against_truth`), from no context to all before the break.

    Args:
        scenes: that break at the same frame.
    """
    clean = lens.encode(truth.possible_clips(scenes))
    noise = spliced_noise(clean, scenes, config.seed)[: len(clean)]
    velocity, sigmas = frame_velocity(lens), lens.schedule(config.sampler_steps or 0, clean[:1]).sigmas[::-1]
    frame, cut = torch.arange(clean.shape[2]), latent_splice(clean, scenes[0])
    by_context: list[xr.DataArray] = []
    for context in range(cut + 1):
        context_frames = Context(clean, (frame >= cut - context) & (frame < cut))
        video = lens.family.decode(lens.vae, continue_frames(velocity, context_frames, noise, sigmas))
        by_context.append(truth.against_truth(video, scenes))
    return xr.concat(by_context, xr.Variable("context", range(cut + 1)))


@torch.no_grad()
def drifted(
    lens: DiTLens, scenes: Sequence[Scene], config: Config
) -> Float[xr.DataArray, "level round rolled statistic"]:
    """Statistics of clips A rolled on (see `truth.drift`); round 0 is the end of the true clip."""
    true = to_tensor(stack_frames([scene["A"] for scene in scenes]))
    clean = lens.family.encode(lens.vae, true)
    cut = latent_splice(clean, scenes[0])
    end = lens.family.decode(lens.vae, clean)[:, :, scenes[0].splice :]
    values: list[list[np.ndarray]] = []
    for level in config.context_noise:
        generators = [generator_of(scene, config.seed) for scene in scenes]
        window = Window(cut, level, config.sampler_steps or 0)
        rolled = roll_on(lens, true, config.rounds, window, generators)
        values.append([truth.drift(z, video, true) for z, video in [(clean[:, :, cut:], end), *rolled]])
    coordinates = {"level": list(config.context_noise), "round": range(config.rounds + 1)}
    labels = {"rolled": [scene.id for scene in scenes], "statistic": list(STATISTICS)}
    return xr.DataArray(np.array(values), coordinates | labels, ("level", "round", "rolled", "statistic"))


if CONFIG is not None:
    answer(CONFIG, run)
