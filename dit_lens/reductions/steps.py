"""The steps of reductions; `str` of a step is its name for `dit_lens.reductions.parse`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from dit_lens.axes import Indices
from dit_lens.reductions.named import GRID, Named

TOKENS = (*GRID, "token", "text_token", "audio_token")
MOMENTS = ("mean", "deviation", "third")


@dataclass(frozen=True)
class Mean:
    """The mean over those of some axes that the tensor has."""

    name: str
    over: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    def __call__(self, x: Named) -> Named:
        """The tensor without the axes it was averaged over."""
        dims = [i for i, axis in enumerate(x.axes) if axis in self.over]
        if not dims:
            raise ValueError(f"got axes {', '.join(x.axes)} · expected one of {', '.join(self.over)} to average over")
        axes = tuple(axis for axis in x.axes if axis not in self.over)
        return Named(x.precise().mean(dims), axes, {k: v for k, v in x.labels.items() if k in axes})


@dataclass(frozen=True)
class Coarse:
    """Means over the cells of a coarse grid."""

    frames: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"coarse:{self.frames}:{self.rows}:{self.columns}"

    def __call__(self, x: Named) -> Named:
        """The tensor on the coarse grid; cells overlap by a token where sizes do not divide."""
        dims = [x.dim(axis) for axis in GRID]
        size = (self.frames, self.rows, self.columns)
        have = tuple(x.values.shape[dim] for dim in dims)
        if any(coarse > fine for coarse, fine in zip(size, have, strict=True)):
            raise ValueError(f"got a grid of {have} · expected at least {size} · ask for a coarser grid")
        last = x.precise().movedim(dims, (-3, -2, -1))
        pooled = functional.adaptive_avg_pool3d(last.flatten(0, -4).unsqueeze(0), size)
        pooled = pooled.reshape(*last.shape[:-3], *size).movedim((-3, -2, -1), dims)
        return replace(x, values=pooled, labels={k: v for k, v in x.labels.items() if k not in GRID})


@dataclass(frozen=True)
class Tokens:
    """Chosen video tokens."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join(["tokens", *map(str, self.numbers)])

    def __call__(self, x: Named) -> Named:
        """The tensor with one axis "token" instead of the grid."""
        first = x.dim("frame")
        if x.axes[first : first + 3] != GRID:
            raise ValueError(f"got axes {', '.join(x.axes)} · expected video tokens on their grid")
        flat = x.values.flatten(first, first + 2)
        tokens = flat.shape[first]
        if not all(0 <= number < tokens for number in self.numbers):
            raise ValueError(f"got tokens {self.numbers} · expected numbers from 0 to {tokens - 1}")
        chosen = flat.index_select(first, torch.tensor(self.numbers, device=flat.device))
        labels = {k: v for k, v in x.labels.items() if k not in GRID} | {"token": self.numbers}
        return Named(chosen, (*x.axes[:first], "token", *x.axes[first + 3 :]), labels)


@dataclass(frozen=True)
class Region:
    """A box of video tokens, with the axes of the grid."""

    frame: Indices
    row: Indices
    column: Indices

    def __str__(self) -> str:
        return ":".join(["region", *(_part_text(part) for part in (self.frame, self.row, self.column))])

    def __call__(self, x: Named) -> Named:
        """The tensor of the box, with axes labelled by the original indices."""
        values, labels = x.values, dict(x.labels)
        for axis, part in zip(GRID, (self.frame, self.row, self.column), strict=True):
            size = values.shape[x.dim(axis)]
            have = x.labels.get(axis, range(size))
            numbers = range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            if not numbers or numbers[-1] >= size:
                raise ValueError(f"got {axis} {_part_text(part)} · expected some of 0 to {size - 1}")
            values = values.narrow(x.dim(axis), numbers[0], len(numbers))
            labels[axis] = tuple(have[number] for number in numbers)
        return Named(
            values.clone(memory_format=torch.contiguous_format), x.axes, labels
        )  # a copy, since a view would keep the whole tensor in memory


@dataclass(frozen=True)
class RandomProjection:
    """Features times a Gaussian matrix / sqrt(width), which keeps squared lengths on average."""

    width: int
    seed: int = 0

    def __str__(self) -> str:
        return f"random:{self.width}:{self.seed}"

    def __call__(self, x: Named) -> Named:
        """The tensor with `width` features."""
        precise, dim = x.precise(), x.dim("feature")
        matrix = gaussian(x.values.shape[dim], self.width, self.seed).to(precise)
        return replace(x, values=(precise.movedim(dim, -1) @ matrix).movedim(-1, dim))


@lru_cache(maxsize=8)
def gaussian(features: int, width: int, seed: int) -> Tensor:
    """The matrix (features, width) of a random projection, float64, drawn on the CPU to be equal on all devices."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(features, width, generator=generator, dtype=torch.float64) / math.sqrt(width)


@dataclass(frozen=True)
class SpaceMoments:
    """Mean and standard deviation over the rows and columns of each latent frame, side by side.

    Within a frame alone: of crossed clips, each frame's numbers are those of the possible clip that the frame is from.
    """

    def __str__(self) -> str:
        return "space_moments"

    def __call__(self, x: Named) -> Named:
        """The tensor with an axis "moment" instead of "row" and "column"."""
        row, column, precise = x.dim("row"), x.dim("column"), x.precise()
        if column != row + 1:
            raise ValueError(f"got axes {', '.join(x.axes)} · expected row and column side by side")
        flat = precise.flatten(row, column)
        values = torch.stack([flat.mean(row), flat.std(row, correction=0)], row)
        labels = {k: v for k, v in x.labels.items() if k not in ("row", "column")} | {"moment": MOMENTS[:2]}
        return Named(values, (*x.axes[:row], "moment", *x.axes[column + 1 :]), labels)


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation and signed cube root of the third central moment over frames, at each place.

    All three have the unit of the activation, without any division. Followed by `space_mean` they are cheap features
    of motion, after SemanticMoments (training-free motion similarity by moments of features over time).
    """

    def __str__(self) -> str:
        return "moments"

    def __call__(self, x: Named) -> Named:
        """The tensor with an axis "moment" instead of "frame"."""
        dim, precise = x.dim("frame"), x.precise()
        mean = precise.mean(dim, keepdim=True)
        off = precise - mean
        third = off.pow(3).mean(dim, keepdim=True)
        root = third.sign() * third.abs().pow(1 / 3)
        values = torch.cat([mean, off.square().mean(dim, keepdim=True).sqrt(), root], dim)
        labels = {k: v for k, v in x.labels.items() if k != "frame"} | {"moment": MOMENTS}
        return Named(values, (*x.axes[:dim], "moment", *x.axes[dim + 1 :]), labels)


@dataclass(frozen=True, eq=False)
class Projection:
    """The inner product of the last axes with a direction, which is not normalised."""

    name: str
    vector: Tensor

    def __str__(self) -> str:
        digest = hashlib.sha256(self.vector.double().numpy().tobytes()).hexdigest()[:8]
        return f"direction:{self.name}:{digest}"

    def __call__(self, x: Named) -> Named:
        """The tensor without the axes of the direction, such as "feature", or "head" and "feature"."""
        shape, rank = tuple(self.vector.shape), self.vector.ndim
        if x.values.shape[-rank:] != shape or x.axes[-1] != "feature":
            raise ValueError(f"got axes {', '.join(x.axes)} of {tuple(x.values.shape)} · expected features of {shape}")
        precise = x.precise()
        values = precise.flatten(-rank) @ self.vector.to(precise).flatten()
        return Named(values, x.axes[:-rank], x.labels)

    @classmethod
    def open(cls, file: str) -> Projection:
        """The tensor "direction" of a safetensors file.

        Raises:
            ValueError: the file does not exist, or has no such tensor.
        """
        path = Path(file)
        tensors = load_file(path) if path.is_file() else {}
        if "direction" not in tensors:
            raise ValueError(f"got {path} · expected a safetensors file with a tensor called 'direction'")
        return cls(path.stem, tensors["direction"])


def _part_text(part: Indices) -> str:
    if isinstance(part, int):
        return str(part)
    return "*" if part == slice(None) else f"{part.start}-{part.stop - 1}"
