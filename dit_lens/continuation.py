"""Continuation: some latent frames are given, the others are sampled beside them; and on from there, window by window.

Every latent frame has a noise level of its own (Diffusion Forcing, Chen et al. 2024): frames that are given stay at
one low level, which the model gets as their time, while the others go from noise to data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from dit_lens import flow
from dit_lens.flow import Solver
from dit_lens.inversion import Lens, schedule

FrameVelocity = Callable[[Tensor, Tensor], Tensor]  # of a latent (b, c, f, h, w), levels (f)


@dataclass(frozen=True, eq=False)
class Context:
    """The frames that a continuation starts from.

    Attributes:
        latent: clean; only the frames of the mask are read.
        mask: which latent frames are given.
        level: sigma at which they are held, noised. 0 is a clean prefix; a low level covers up what
            the model itself made wrong before, the "stable rollout" of Diffusion Forcing.

    Raises:
        ValueError: no frame is left to make, the mask is of another length, or the level is not in [0, 1).
    """

    latent: Float[Tensor, "b c f h w"]
    mask: Bool[Tensor, " f"]
    level: float = 0.0

    def __post_init__(self):
        frames = self.latent.shape[2]
        if len(self.mask) != frames or self.mask.all() or not 0 <= self.level < 1:
            raise ValueError(
                f"got {int(self.mask.sum())} frames given in a mask of {len(self.mask)}, at sigma {self.level:g}"
                f" · expected fewer than all of {frames} frames, sigma in [0, 1)"
            )


@dataclass(frozen=True)
class Window:
    """How a rollout goes on.

    Attributes:
        context: latent frames that each window begins with; the rest of it is made.
        level: see `Context`.
        steps: of the sampler.
        solver: see `flow.SOLVERS`.
    """

    context: int = 3
    level: float = 0.0
    steps: int = 20
    solver: str | Solver = "euler"


def frame_velocity(lens: Lens) -> FrameVelocity:
    """The velocity of a lens's model, with a time for each latent frame (one for the clip where they agree)."""

    def velocity(x: Tensor, levels: Tensor) -> Tensor:
        times = torch.tensor([lens.family.to_timestep(level) for level in levels.tolist()])
        time = times[0] if (levels == levels[0]).all() else times.expand(len(x), -1)
        return lens.model.velocity(lens.model.evaluation(x, time, lens.conditioning)).float()

    return velocity


@torch.no_grad()
def continue_frames(
    velocity: FrameVelocity,
    context: Context,
    noise: Float[Tensor, "b c f h w"],
    sigmas: Sequence[float],
    solver: str | Solver = "euler",
) -> Float[Tensor, "b c f h w"]:
    """The latent with given frames as they are and all others sampled, whether they lie after them or before.

    Args:
        noise: where sampled frames begin, and what given ones are noised with.
        sigmas: levels that the sampler visits, falling from 1 to 0.

    Raises:
        ValueError, FloatingPointError: see `flow.integrate`.
    """
    noise, mask = noise.to(context.latent), context.mask.to(context.latent.device)
    still = rearrange(mask, "f -> f 1 1")
    held = (1 - context.level) * context.latent + context.level * noise

    def moving(x: Tensor, sigma: float) -> Tensor:
        return velocity(x, torch.where(mask, context.level, sigma)).masked_fill(still, 0)

    *_, last = flow.integrate(moving, torch.where(still, held, noise), sigmas, solver)
    return torch.where(still, context.latent, last.x)


@torch.no_grad()
def roll_on(
    lens: Lens,
    video: Float[Tensor, "b 3 F H W"],
    rounds: int,
    window: Window,
    generators: torch.Generator | Sequence[torch.Generator],
) -> Iterator[tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b 3 F H W"]]]:
    """What each round adds to a video as long as one window: its new latent frames, and the same as pixels.

    The last frames of what has been made so far, as pixels, are encoded again as the beginning of the next window: a
    video autoencoder's first latent frame stands for one frame and all others for several, so that latents cannot
    slide.

    Args:
        generators: of the noise; one for each clip where its noise must not depend on the others.

    Raises:
        ValueError: a context of no frame, or of a whole window.
    """
    known = lens.family.encode(lens.vae, video)
    frames = known.shape[2]
    velocity, sigmas = frame_velocity(lens), schedule(lens, window.steps, known[:1]).sigmas[::-1]
    if not 0 < window.context < frames:
        raise ValueError(f"got a context of {window.context} latent frames · expected 1 to {frames - 1}")
    overlap = 1 + (window.context - 1) * ((video.shape[2] - 1) // (frames - 1))
    mask = torch.arange(frames) < window.context
    for _ in range(rounds):
        known = lens.family.encode(lens.vae, video[:, :, -overlap:])
        latent = torch.cat(
            [known, torch.zeros_like(known[:, :, :1]).expand(-1, -1, frames - window.context, -1, -1)], 2
        )
        continued = continue_frames(
            velocity, Context(latent, mask, window.level), _noise(latent, generators), sigmas, window.solver
        )
        video = lens.family.decode(lens.vae, continued)
        yield continued[:, :, window.context :], video[:, :, overlap:]


def _noise(
    like: Float[Tensor, "b c f h w"], generators: torch.Generator | Sequence[torch.Generator]
) -> Float[Tensor, "b c f h w"]:
    if isinstance(generators, torch.Generator):
        return torch.randn(like.shape, generator=generators)
    shape = like.shape[1:]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
