"""A fixed linear video autoencoder with the interface of diffusers' video VAEs: patch-wise PCA.

Frame 0 is encoded alone, then groups of four frames (the causal 4k+1 layout of `AutoencoderKLWan`), each as
non-overlapping square patches projected on their leading principal components. Being linear and blind across
groups, it mixes nothing across a splice that lies on a latent-frame boundary: what a probe decodes from a DiT does
not come from the codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class AutoencoderPatchPCA(ModelMixin, ConfigMixin):
    """Patch PCA over space and time.

    Args:
        z_dim: latent channels (principal components kept).
        scale_factor_spatial: height and width of a patch in pixels.
        scale_factor_temporal: frames per latent frame after the first.
        latents_mean, latents_std: per-channel statistics; pipelines feed (z - mean) / std to the transformer.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        scale_factor_spatial: int = 4,
        scale_factor_temporal: int = 4,
        latents_mean: Sequence[float] = (0.0,) * 16,
        latents_std: Sequence[float] = (1.0,) * 16,
    ):
        super().__init__()
        first = 3 * scale_factor_spatial**2
        later = first * scale_factor_temporal
        self.mean_first = nn.Parameter(torch.zeros(first), requires_grad=False)
        self.mean_later = nn.Parameter(torch.zeros(later), requires_grad=False)
        self.encode_first = nn.Parameter(torch.zeros(z_dim, first), requires_grad=False)
        self.encode_later = nn.Parameter(torch.zeros(z_dim, later), requires_grad=False)
        self.decode_first = nn.Parameter(torch.zeros(first, z_dim), requires_grad=False)
        self.decode_later = nn.Parameter(torch.zeros(later, z_dim), requires_grad=False)

    def encode(self, x: Float[Tensor, "b 3 F H W"], return_dict: bool = True):
        """The latent distribution (b, z, f, h, w) of a video in [-1, 1]; its variance is zero.

        Raises:
            ValueError: F is not 1 + a multiple of the temporal factor, or H or W no multiple of the spatial one.
        """
        group, patch = self.config["scale_factor_temporal"], self.config["scale_factor_spatial"]
        frames, height, width = x.shape[2:]
        if (frames - 1) % group or height % patch or width % patch:
            raise ValueError(
                f"got {frames} frames of {height}x{width} · expected {group}k+1 frames and sides divisible by {patch}"
                " · crop or pad the video first"
            )
        first, later = self._patches(x[:, :, :1]), self._patches(x[:, :, 1:])
        z = torch.cat(
            [(first - self.mean_first) @ self.encode_first.T, (later - self.mean_later) @ self.encode_later.T], dim=1
        )
        z = rearrange(z, "b f h w z -> b z f h w")
        posterior = DiagonalGaussianDistribution(torch.cat([z, torch.full_like(z, -30.0)], dim=1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Float[Tensor, "b z f h w"], return_dict: bool = True):
        """The video (b, 3, F, H, W) in about [-1, 1]."""
        z = rearrange(z, "b z f h w -> b f h w z")
        first = z[:, :1] @ self.decode_first.T + self.mean_first
        later = z[:, 1:] @ self.decode_later.T + self.mean_later
        size = {"p": self.config["scale_factor_spatial"], "q": self.config["scale_factor_spatial"]}
        video = torch.cat(
            [rearrange(part, "b f h w (c t p q) -> b c (f t) (h p) (w q)", c=3, **size) for part in (first, later)],
            dim=2,
        )
        return DecoderOutput(sample=video) if return_dict else (video,)

    def _patches(self, x: Tensor) -> Tensor:
        frames = 1 if x.shape[2] == 1 else self.config["scale_factor_temporal"]
        patch = self.config["scale_factor_spatial"]
        return rearrange(x, "b c (f t) (h p) (w q) -> b f h w (c t p q)", t=frames, p=patch, q=patch)


@torch.no_grad()
def fit_patch_pca(
    videos: Iterable[Float[Tensor, "_ 3 F H W"]], z_dim: int = 16, patch_size: int = 4, group: int = 4
) -> AutoencoderPatchPCA:
    """The codec whose latents keep the leading principal components of the videos' patches.

    A patch of frame 0 has fewer pixels than a patch of a later group; its components are scaled to the standard
    deviation of the later ones, so that one `latents_std` whitens all latent frames.

    Args:
        videos: batches in [-1, 1].
    """
    probe = AutoencoderPatchPCA(z_dim, patch_size, group)
    moments: dict[str, list[Tensor]] = {"first": [], "later": []}
    for video in videos:
        parts = {"first": video[:, :, :1], "later": video[:, :, 1:]}
        for name, part in parts.items():
            rows = probe._patches(part.double()).flatten(0, -2)
            ones = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
            moments[name].append(ones.T @ ones)
    pca = {name: _principal(sum(parts[1:], parts[0]), z_dim) for name, parts in moments.items()}
    (mean_first, axes_first, std_first), (mean_later, axes_later, std_later) = pca["first"], pca["later"]
    ratio = (std_later / std_first)[:, None]
    codec = AutoencoderPatchPCA(z_dim, patch_size, group, (0.0,) * z_dim, tuple(std_later.tolist()))
    weights = {
        "mean_first": mean_first,
        "mean_later": mean_later,
        "encode_first": axes_first * ratio,
        "encode_later": axes_later,
        "decode_first": (axes_first / ratio).T,
        "decode_later": axes_later.T,
    }
    codec.load_state_dict({name: value.float().contiguous() for name, value in weights.items()})
    return codec.eval()


def _principal(moment: Tensor, z_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (p,), axes (z, p) and standard deviations (z,) from the summed outer products of (row, 1)."""
    count, mean = moment[-1, -1], moment[-1, :-1] / moment[-1, -1]
    variances, axes = torch.linalg.eigh(moment[:-1, :-1] / count - torch.outer(mean, mean))
    axes = axes.flip(1).T[:z_dim]
    signs = torch.sign(axes.gather(1, axes.abs().argmax(1, keepdim=True)))
    return mean, axes * signs, variances.flip(0)[:z_dim].sqrt()
