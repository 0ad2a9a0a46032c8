"""What a lens holds: a pipeline's parts, clips as latents, the levels of its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dit_lens.clips import Clip, clip_ids, stack_frames
from dit_lens.conditioning import Conditioning
from dit_lens.reading import read_frames
from dit_lens.running import Experts, HookedTransformer
from dit_lens.trajectory import Schedule
from dit_lens.video import to_tensor

Input = Clip | Sequence[Clip] | np.ndarray | Tensor | str | Path
Steps = int | Sequence[float] | Schedule


class Loaded:
    """The part of `DiTLens` that holds a model and its pipeline.

    Attributes:
        name: how results call the model.
        model: evaluates velocities.
        family: the model's conventions.
        conditioning: what is fed beside latent and time.
        facts: what a result says of its model.
    """

    name: str
    transformer: Any
    model: HookedTransformer | Experts
    family: ModuleType
    conditioning: Conditioning
    facts: Callable[[], dict[str, str]]
    _pipeline: Any

    @property
    def pipeline(self) -> Any:
        """The pipeline.

        Raises:
            TypeError: the lens was made of a transformer alone.
        """
        if self._pipeline is None:
            raise TypeError(
                f"got {self.name} as a transformer alone · expected a pipeline for latents, schedules and decoding"
                " · DiTLens(pipeline), or run_with_cache(latent=, timestep=, ...)"
            )
        return self._pipeline

    @property
    def vae(self) -> Any:
        """The pipeline's autoencoder."""
        return self.pipeline.vae

    @torch.no_grad()
    def encode(self, clips: Input, batch_size: int = 32) -> Float[Tensor, "b c f h w"]:
        """Normalised latents of clips, of uint8 frames (F, H, W, 3) or (b, F, H, W, 3), or of latents themselves.

        A path is a folder of frames or an animated image (see `reading.read_frames`), in the size that the model takes.

        Raises:
            ValueError: a tensor that is no latent, or frames that are not uint8 RGB.
        """
        if isinstance(clips, Tensor):
            channels = self.transformer.config.get("out_channels") or self.transformer.config.in_channels
            if clips.ndim != 5 or clips.shape[1] != channels:
                raise ValueError(
                    f"got a tensor of shape {tuple(clips.shape)} · expected latents (b, {channels}, f, h, w)"
                    " · give frames as a uint8 numpy array (F, H, W, 3)"
                )
            return clips.to(self.model.members[0].device)
        frames = frames_of(clips)
        starts = range(0, len(frames), batch_size)
        parts = [self.family.encode(self.vae, to_tensor(frames[start : start + batch_size])) for start in starts]
        return torch.cat(parts).to(self.model.members[0].device)

    def schedule(
        self,
        steps: int | Sequence[float] | Schedule,
        latent: Float[Tensor, "b c f h w"] | None = None,
        **arguments: Any,
    ) -> Schedule:
        """The levels of the pipeline's own scheduler, or levels of one's own.

        Args:
            steps: their number; or the levels, rising from 0 and not shifted again; or a schedule, which is returned.
            latent: a latent of the size in question, for models whose levels depend on it.
            **arguments: for the scheduler's `set_timesteps` (`sigmas`, `mu`), instead of those of the model's pipeline.

        Raises:
            ValueError: fewer than one step; or a flow's scheduler does not count noise as sigma in [0, 1], or shifts
                its levels by the latent's size in a way that is not known.
        """
        if isinstance(steps, Schedule):
            return steps
        if not isinstance(steps, int):
            return Schedule(tuple(steps), tuple(self.family.to_timestep(sigma) for sigma in steps))
        if steps < 1:
            raise ValueError(f"got steps={steps} · expected at least 1")
        if hasattr(self.family, "noise_levels"):
            return self.schedule(self.family.noise_levels(self.pipeline, steps, **arguments))
        scheduler = self.pipeline.scheduler
        own = getattr(self.family, "schedule_arguments", None)
        if own is not None and not arguments:
            arguments = own(self.pipeline, latent, steps)
        if getattr(scheduler, "sigmas", None) is not None:
            schedule = Schedule.from_scheduler(scheduler, steps, **arguments)
            if self.model.same_levels(torch.tensor(schedule.sigmas[1:]), torch.tensor(schedule.timesteps[1:])):
                return schedule
        raise ValueError(
            f"got the noise levels of a {type(scheduler).__name__}, which are not those of a flow from data to noise"
            f" · expected a flow-match scheduler · {self.name} can be traced, but not inverted or sampled yet"
        )


def frames_of(clips: Clip | Sequence[Clip] | np.ndarray | str | Path) -> UInt8[np.ndarray, "b F H W 3"]:
    """The frames of clips, of an array, or of files (see `reading.read_frames`)."""
    return stack_frames(read_frames(clips) if isinstance(clips, str | Path) else clips)


def ids_of(clips: Input) -> tuple[str, ...]:
    """How results call clips."""
    return (str(clips),) if isinstance(clips, str | Path) else clip_ids(clips)
