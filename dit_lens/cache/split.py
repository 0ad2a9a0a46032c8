"""A readout and its parts by block, head and layer, as a labelled table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.cache.decomposition import Components


def per_token(weight: Float[Tensor, "*f d"], stream: Float[Tensor, "... n d"]) -> Float[Tensor, "n d"]:
    """The weight of each token in a linear readout of the mean over tokens, or of the means by frame.

    A direction (d,) over 6 tokens gives direction / 6 at every token; (f, d) with 2 frames gives the direction of frame
    0 divided by 3 at tokens 0 to 2, and that of frame 1 divided by 3 at tokens 3 to 5.
    """
    by_frame = torch.atleast_2d(weight.to(stream))
    per_frame, rest = divmod(stream.shape[-2], len(by_frame))
    if rest or weight.shape[-1] != stream.shape[-1]:
        raise ValueError(
            f"got a direction of {tuple(weight.shape)} · expected ({stream.shape[-1]},), or that for each of the"
            f" frames that {stream.shape[-2]} tokens make"
        )
    return repeat(by_frame / per_frame, "f d -> (f n) d", n=per_frame)


@runtime_checkable
class LinearProbe(Protocol):
    """The part of a probe that `attribute_to` uses: logit = mean over tokens of activation · weight + bias."""

    @property
    def weight(self) -> Float[Tensor, "*f d"]:
        """The direction for raw activations, (d,), or (f, d) with one for the mean of each latent frame."""
        ...

    @property
    def bias(self) -> float:
        """The constant added to the mean."""
        ...

    @property
    def reads(self) -> Any:
        """An object whose `point` is the hook point that the probe reads."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """A readout and its parts by token: readout = constant + the sum over tokens of all parts.

    Attributes:
        readout, constant: (...,).
        embedding: (..., n).
        components: (..., n) each, by (block, label).
    """

    readout: Tensor
    constant: Tensor
    embedding: Tensor
    components: Components

    def pooled(self) -> Split:
        """The split with the parts summed over tokens, as a single token."""
        components = {key: _total(value) for key, value in self.components.items()}
        return Split(self.readout, self.constant, _total(self.embedding), components)

    def dataset(self, steps: tuple[int, ...] | None, grid: TokenGrid | None = None) -> xr.Dataset:
        """`attribution` (step, clip, block, component), `embedding`, `constant`, `readout` and `unexplained`.

        Args:
            steps: the steps of the leading axis, if there is one.
            grid: if given, attribution and embedding have dimensions frame, row and column.
        """
        blocks = sorted({block for block, _ in self.components})
        labels = list(dict.fromkeys(label for _, label in self.components))
        empty = torch.zeros_like(self.embedding)
        rows = [torch.stack([self.components.get((block, x), empty) for x in labels], -2) for block in blocks]
        attribution, embedding = torch.stack(rows, -3).double(), self.embedding.double()
        explained = self.constant + embedding.sum(-1) + attribution.sum((-3, -2, -1))
        lead = ("clip",) if steps is None else ("step", "clip")
        place = () if grid is None else ("frame", "row", "column")
        sizes = (1,) if grid is None else (grid.frames, grid.rows, grid.columns)

        def variable(dims: tuple[str, ...], values: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
            values = values.unflatten(-1, sizes) if place else values.squeeze(-1)
            return (*lead, *dims, *place), _array(values)

        heads = [label.rpartition(".")[2] for label in labels]
        return xr.Dataset(
            {
                "attribution": variable(("block", "component"), attribution),
                "embedding": variable((), embedding),
                "constant": (lead, _array(self.constant.expand(self.readout.shape))),
                "readout": (lead, _array(self.readout)),
                "unexplained": (lead, _array(self.readout - explained)),
            },
            coords={
                "clip": range(self.readout.shape[-1]),
                "block": blocks,
                "component": labels,
                "layer": ("component", [label.partition(".")[0] for label in labels]),
                "head": ("component", [int(head) if head.isdigit() else -1 for head in heads]),
                **({} if steps is None else {"step": list(steps)}),
            },
        )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def _total(values: Tensor) -> Tensor:
    return values.double().sum(-1, keepdim=True)
