"""How far videos are apart, clip by clip: PSNR and SSIM, of what an inversion brings back beside the autoencoder."""

from __future__ import annotations

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dit_lens.inversion import Input, Lens, decode, frames_of
from dit_lens.trajectory import Trajectory
from dit_lens.video import psnr, to_tensor

CEILING, TO_SOURCE, TO_CEILING = COMPARISONS = ("autoencoder to source", "x̂ to source", "x̂ to autoencoder")

WINDOW, SPREAD = 11, 1.5  # pixels
STABLE = (0.01**2, 0.03**2)  # in units of the squared range of values


def psnr_of(video: Float[Tensor, "b 3 F H W"], reference: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, " b"]:
    """PSNR in dB of each clip, its video clipped to [-1, 1] as it is shown; infinite where they are equal."""
    pairs = zip(video.clamp(-1, 1), reference, strict=True)
    return torch.stack([psnr(shown, true) for shown, true in pairs])


def ssim_of(video: Float[Tensor, "b 3 F H W"], reference: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, " b"]:
    """Mean SSIM of each clip over frames, colours and windows, its video clipped to [-1, 1]; 1 where they are equal.

    Equation 13 of Wang et al. 2004 with their Gaussian window (11 pixels, standard deviation 1.5), where it fits.

    Raises:
        ValueError: frames smaller than the window.
    """
    if min(video.shape[-2:]) < WINDOW:
        raise ValueError(f"got frames of {tuple(video.shape[-2:])} · expected at least {WINDOW} pixels each way")
    images = [rearrange(x, "b c f h w -> (b c f) 1 h w").double() for x in (video.clamp(-1, 1), reference)]
    x, y = images
    mean_x, mean_y, xx, yy, xy = map(_blurred, (x, y, x * x, y * y, x * y))
    luminance, contrast = (2.0**2 * stable for stable in STABLE)  # the range of values is 2
    like = (2 * mean_x * mean_y + luminance) / (mean_x**2 + mean_y**2 + luminance)
    deviations = (xx - mean_x**2) + (yy - mean_y**2)
    like = like * (2 * (xy - mean_x * mean_y) + contrast) / (deviations + contrast)
    return rearrange(like, "(b i) 1 h w -> b (i h w)", b=len(video)).mean(1).to(video.dtype)


def _blurred(x: Float[Tensor, "i 1 h w"]) -> Float[Tensor, "i 1 _h _w"]:
    """Under the Gaussian window, only where it lies within the image."""
    distance = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.softmax(-(distance**2) / (2 * SPREAD**2), 0)
    rows = functional.conv2d(x, weights.view(1, 1, -1, 1))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1))


def white_noise(clips: int, like: Float[Tensor, "_ c f h w"], seed: int) -> Float[Tensor, "clips c f h w"]:
    """Gaussian noise for that many clips, drawn on the CPU."""
    return torch.randn((clips, *like.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(like)


def reconstruction(lens: Lens, trajectory: Trajectory, back: Trajectory, clips: Input | None) -> xr.Dataset:
    """PSNR in dB and SSIM (comparison, clip) of the clip after the round trip, beside the autoencoder alone (ceiling).

    Args:
        back: the way back.
        clips: the source, where there is one in pixels.
    """
    ceiling, again = (decode(lens, path).cpu() for path in (trajectory, back))
    pairs: dict[str, tuple[Tensor, Tensor]] = {TO_CEILING: (again, ceiling.clamp(-1, 1))}
    if clips is not None and not isinstance(clips, Tensor):
        source = to_tensor(frames_of(clips))
        if source.shape != ceiling.shape:
            raise ValueError(
                f"got clips of shape {tuple(source.shape)} · expected {tuple(ceiling.shape)}, those that were inverted"
            )
        pairs |= {CEILING: (ceiling, source), TO_SOURCE: (again, source)}
    known = [name for name in COMPARISONS if name in pairs]
    values = {
        name: (("comparison", "clip"), torch.stack([measure(*pairs[pair]) for pair in known]).numpy())
        for name, measure in (("psnr", psnr_of), ("ssim", ssim_of))
    }
    return xr.Dataset(values, coords={"comparison": known, "clip": list(trajectory.clip_ids)})
