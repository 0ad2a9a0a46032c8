"""Numbers of frames and frame sizes that an autoencoder and a transformer accept without dropping anything.

Stock autoencoders silently drop frames and crop pictures that do not fit: 16 frames encoded by Wan come out as 13.
Here the rule is read from class names and configs alone; neither torch nor diffusers is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm, prod
from typing import Any

# The classes' own defaults, for configs that were saved before an entry existed.
PATCHES = {
    "WanTransformer3DModel": (1, 2, 2), "SkyReelsV2Transformer3DModel": (1, 2, 2),
    "CosmosTransformer3DModel": (1, 2, 2), "LTXVideoTransformer3DModel": (1, 1, 1),
    "LTX2VideoTransformer3DModel": (1, 1, 1),
    "HunyuanVideoTransformer3DModel": (1, 2, 2), "HunyuanVideo15Transformer3DModel": (1, 1, 1),
    "CogVideoXTransformer3DModel": (1, 2, 2), "MochiTransformer3DModel": (1, 2, 2),
    "AllegroTransformer3DModel": (1, 2, 2),
}  # fmt: skip
COGVIDEOX, ALLEGRO = "AutoencoderKLCogVideoX", "AutoencoderKLAllegro"


@dataclass(frozen=True)
class Numbers:
    """The numbers first, first + step, first + 2 step, ..."""

    first: int
    step: int

    def __contains__(self, number: int) -> bool:
        return number >= self.first and (number - self.first) % self.step == 0

    def __str__(self) -> str:
        """As a formula: "4k+1", "multiples of 16"."""
        if self.first == self.step:
            return f"multiples of {self.step}"
        return f"{self.step}k+{self.first}"

    def nearest(self, number: int) -> tuple[int, ...]:
        """The largest that is not above a number, if any, and the least that is not below it."""
        below = self.first + (number - self.first) // self.step * self.step
        if number <= self.first or below == number:
            return (max(below, self.first),)
        return below, below + self.step


@dataclass(frozen=True)
class Sizes:
    """The video sizes that a model accepts without dropping frames or pixels.

    Attributes:
        temporal, spatial: the autoencoder's compression: frames and pixels per latent position.
        patch: frames, rows and columns of the latent per token.
        frames, height, width: of a video in pixels.
    """

    temporal: int
    spatial: int
    patch: tuple[int, int, int]
    frames: Numbers
    height: Numbers
    width: Numbers

    def check_frames(self, frames: int) -> None:
        """Checks that no frame would be dropped.

        Raises:
            ValueError: some would be dropped; names the nearest numbers that fit.
        """
        if frames not in self.frames:
            near = self.frames.nearest(frames)
            raise ValueError(
                f"got {frames} frames · expected {self.frames} ({_or(near)}), because the autoencoder silently drops"
                f" other frames · trim, pad or resample the clip, for example with Framing(count={near[0]},"
                " policy='resample')"
            )

    def check_size(self, height: int, width: int) -> None:
        """Checks that no row or column would be cropped.

        Raises:
            ValueError: some would be cropped; names the nearest sizes that fit.
        """
        if height in self.height and width in self.width:
            return
        rule = f"{self.height}" if self.height == self.width else f"{self.height} by {self.width}"
        near = f"{_or(self.height.nearest(height))} by {_or(self.width.nearest(width))}"
        raise ValueError(
            f"got frames of {height} x {width} pixels · expected {rule} ({near}), because the model silently crops"
            " other sizes · crop or letterbox the clip to one of these, for example with Framing(size=..., fit='crop')"
        )

    def latent(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Frames, rows and columns of the latent of a video of this size.

        Raises:
            ValueError: the video does not fit.
        """
        self.check_frames(frames)
        self.check_size(height, width)
        no_single_frame = self.frames.first % self.temporal == 0  # no first frame that stands alone
        length = frames // self.temporal if no_single_frame else 1 + (frames - 1) // self.temporal
        return length, height // self.spatial, width // self.spatial


def sizes_of(autoencoder: str, vae: Mapping[str, Any], transformer: str, config: Mapping[str, Any]) -> Sizes | None:
    """The video sizes that a model accepts, from the class names and configs of its two parts; None if unknown."""
    compression, patch = compression_of(autoencoder, vae), patch_of(transformer, config)
    if compression is None or patch is None:
        return None
    temporal, spatial = compression
    height, width = (Numbers(spatial * length, spatial * length) for length in patch[1:])
    # The first frame alone becomes a latent frame, and so does every group of `temporal` later frames.
    frames = Numbers(1 + temporal * (patch[0] - 1), temporal * patch[0])
    if autoencoder == COGVIDEOX and patch[0] == 1:  # its decoder makes four frames of the first of an even number
        frames = Numbers(1, 2 * temporal)
    if autoencoder == ALLEGRO:  # in overlapping tiles of 24 frames and sample_size pixels alone
        tile = vae.get("sample_size", 320)
        frames = Numbers(24, 16)
        height, width = (_tiles(tile, tile - overlap, sides) for overlap, sides in ((120, height), (80, width)))
    return Sizes(temporal, spatial, patch, frames, height, width)


def compression_of(autoencoder: str, config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Temporal and spatial compression of an autoencoder (frames and pixels per latent position); None if unknown."""
    config = {name: value for name, value in config.items() if value is not None}
    if autoencoder == "AutoencoderKLWan":
        folds = len(config.get("dim_mult", (1, 2, 4, 4))) - 1
        halved = sum(config.get("temperal_downsample", (False, True, True)))
        return 2**halved, 2**folds * config.get("patch_size", 1)
    if autoencoder == "AutoencoderPatchPCA":
        return config.get("scale_factor_temporal", 4), config.get("scale_factor_spatial", 4)
    if autoencoder in ("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video"):
        deep = (True, True, True, autoencoder == "AutoencoderKLLTX2Video")
        scaling = config.get("spatio_temporal_scaling", deep)
        folds = 4 * scaling if isinstance(scaling, bool) else sum(scaling)
        temporal = config.get("temporal_compression_ratio", config.get("patch_size_t", 1) * 2**folds)
        return temporal, config.get("spatial_compression_ratio", config.get("patch_size", 4) * 2**folds)
    if autoencoder in (COGVIDEOX, ALLEGRO):
        widths = config.get("block_out_channels", (128, 256, 256, 512))
        return int(config.get("temporal_compression_ratio", 4)), 2 ** (len(widths) - 1)
    if autoencoder == "AutoencoderKLMochi":
        return prod(config.get("temporal_expansions", (1, 2, 3))), prod(config.get("spatial_expansions", (2, 2, 2)))
    stated = {
        "AutoencoderKLHunyuanVideo": (4, 8),
        "AutoencoderKLHunyuanVideo15": (4, 16),
        "AutoencoderKLCosmos": (8, 8),
    }
    if autoencoder in stated:
        temporal, spatial = stated[autoencoder]
        return config.get("temporal_compression_ratio", temporal), config.get("spatial_compression_ratio", spatial)
    return None


def patch_of(transformer: str, config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Frames, rows and columns of the latent per token; None for an unknown transformer."""
    if transformer not in PATCHES:
        return None
    frames, rows, columns = PATCHES[transformer]
    sizes = config.get("patch_size", (frames, rows, columns))
    if isinstance(sizes, int):
        return config.get("patch_size_t") or 1, sizes, sizes
    frames, rows, columns = sizes
    return frames, rows, columns


def check_latent(patch: tuple[int, int, int], frames: int, rows: int, columns: int) -> None:
    """Checks that every latent position is part of a token.

    Raises:
        ValueError: some would be left out.
    """
    if any(size % length or not size for size, length in zip((frames, rows, columns), patch, strict=True)):
        raise ValueError(
            f"got latents of {frames} x {rows} x {columns} (frames, rows, columns) · expected multiples of"
            f" {' x '.join(map(str, patch))}, the size of a token, because the model drops the rest · encode a clip of"
            " another size"
        )


def _tiles(first: int, step: int, sides: Numbers) -> Numbers:
    """The heights or widths that tiles cover exactly, among those that give whole tokens."""
    while first not in sides:
        first += step
    return Numbers(first, lcm(step, sides.step))


def _or(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, numbers))
