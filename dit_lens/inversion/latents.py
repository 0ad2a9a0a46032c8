"""Between clips and latents: encoding, decoding, and the sizes that a model takes whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dit_lens.arguments import integer
from dit_lens.clips import Clip, clip_ids, stack_frames
from dit_lens.inversion.interface import Input, Lens
from dit_lens.inversion.solver_runs import evaluation, guided_value
from dit_lens.models.facts import trained_by_frame
from dit_lens.models.path_support import PathSupport, path_support
from dit_lens.models.sizes import Sizes, check_latent, patch_of, sizes_of
from dit_lens.reading import read_frames
from dit_lens.running import Request
from dit_lens.trajectory import Trajectory, checked
from dit_lens.video import to_tensor


@torch.no_grad()
def encode(lens: Lens, clips: Input, batch_size: int = 32) -> Float[Tensor, "b c f h w"]:
    """Normalised latents of clips, of uint8 frames (F, H, W, 3) or (b, F, H, W, 3), or of latents themselves.

    A path is a folder of frames, an animated image or a video file (see `dit_lens.reading`), in the size and number
    of frames that the model takes.

    Latents are in float32 or wider whatever the model's dtype: they are rounded where the model gets them, no sooner.

    Raises:
        ValueError: a tensor that is no latent, frames that are not uint8 RGB, or a number of frames or a size of
            which the model would drop some without a word (names the nearest that fit).
    """
    device = lens.model.device
    if isinstance(clips, Tensor):
        return checked_latents(lens, clips, "latents").to(device)
    frames, fits = frames_of(clips), sizes(lens)
    if fits is not None and frames.ndim == 5 and frames.shape[-1] == 3 and frames.dtype == np.uint8:
        fits.check_frames(frames.shape[1])
        fits.check_size(*frames.shape[2:4])
    starts = range(0, len(frames), integer(batch_size, "batch_size", 1))
    parts = [lens.family.encode(lens.vae, to_tensor(frames[start : start + batch_size])) for start in starts]
    return torch.cat(parts).to(device)


@torch.no_grad()
def decode(lens: Lens, trajectory: Trajectory, step: int = 0, clean: bool = True) -> Float[Tensor, "b 3 F H W"]:
    """Video in about [-1, 1]: by default the model's clean estimate x0 = x - sigma v at a step.

    Args:
        clean: False decodes the latent x_sigma itself, as step 0 always does.
    """
    trajectory = checked(trajectory)

    def clean_estimate(branch: str) -> Float[Tensor, "b c f h w"]:
        return lens.model.run(evaluation(lens, trajectory, step, branch), Request("hook_x0"))[1]["hook_x0"]

    latent = trajectory.latent(step)
    if clean and step:
        latent = guided_value(lens, trajectory.conditions, clean_estimate)
    return lens.family.decode(lens.vae, latent.float())


def checked_latents(lens: Lens, latents: Any, what: str) -> Float[Tensor, "b c f h w"]:
    """Latents that the model takes whole, in float32 or wider.

    Args:
        what: how errors call them.

    Raises:
        TypeError: no tensor. ValueError: another shape, or not all finite floats.
    """
    if not isinstance(latents, Tensor):
        raise TypeError(f"got a {type(latents).__name__} as {what} · expected a tensor (b, {channels(lens)}, f, h, w)")
    if latents.ndim != 5 or latents.shape[1] != channels(lens) or not len(latents):
        raise ValueError(
            f"got {what} of shape {tuple(latents.shape)} · expected (b, {channels(lens)}, f, h, w)"
            " · frames are uint8 numpy arrays (F, H, W, 3)"
        )
    if not latents.is_floating_point() or not latents.isfinite().all():
        wrong = (~latents.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        clips = f" (clips {', '.join(map(str, wrong[:8]))} of the batch)" if wrong else ""
        raise ValueError(
            f"got {str(latents.dtype).removeprefix('torch.')} {what}, not all of them finite floats{clips} · expected"
            " such as an autoencoder makes · encode the clip again"
        )
    patch = patch_of(type(lens.transformer).__name__, lens.transformer.config)
    if patch is not None:
        check_latent(patch, *latents.shape[2:])
    return latents.to(torch.promote_types(latents.dtype, torch.float32))


def channels(lens: Lens) -> int:
    """Channels of a latent."""
    return lens.transformer.config.get("out_channels") or lens.transformer.config.in_channels


def sizes(lens: Lens) -> Sizes | None:
    """Frames and pixels that the model takes whole; None where its autoencoder is not known."""
    vae, transformer = getattr(lens.parts.pipeline, "vae", None), lens.transformer
    if vae is None:
        return None
    return sizes_of(type(vae).__name__, vae.config, type(transformer).__name__, transformer.config)


def latent_shape(lens: Lens, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
    """The shape (1, c, f, h, w) of the latent of a video of this many frames and pixels.

    Raises:
        ValueError: the model does not take it whole, or its autoencoder is not known.
    """
    fits = sizes(lens)
    if fits is None:
        raise ValueError(f"got {lens.name} without a known autoencoder · expected one · encode a clip instead")
    video = {"frames": frames, "height": height, "width": width}
    return 1, channels(lens), *fits.latent(*(integer(size, name, 1) for name, size in video.items()))


def supports(lens: Lens, path: str) -> PathSupport:
    """Whether a path ("inversion", "noising", "continuation") suits the model, and if not why."""
    pipeline, source = lens.parts.pipeline, lens.parts.source
    config = {**(pipeline.config if pipeline is not None else {}), "_class_name": type(pipeline).__name__}
    by_frame = trained_by_frame(config, source and source.folder)
    return path_support(path, lens.family.name, by_frame, lens.family.as_fed is not None)


def frames_of(clips: Clip | Sequence[Clip] | np.ndarray | str | Path) -> UInt8[np.ndarray, "b F H W 3"]:
    """The frames of clips, of an array, or of files (see `reading.read_frames`)."""
    return stack_frames(read_frames(clips) if isinstance(clips, str | Path) else clips)


def ids_of(clips: Input) -> tuple[str, ...]:
    """How results call clips."""
    return (str(clips),) if isinstance(clips, str | Path) else clip_ids(clips)
