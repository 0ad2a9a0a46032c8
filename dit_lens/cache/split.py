"""A readout and what it is made of, as a labelled table."""

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
    """What each token of a stream is multiplied by in a readout of its mean, or of its means by frame."""
    by_frame = torch.atleast_2d(weight.to(stream))
    each, rest = divmod(stream.shape[-2], len(by_frame))
    if rest or weight.shape[-1] != stream.shape[-1]:
        raise ValueError(
            f"got a direction of {tuple(weight.shape)} · expected ({stream.shape[-1]},), or that for each of the"
            f" frames that {stream.shape[-2]} tokens make"
        )
    return repeat(by_frame / each, "f d -> (f n) d", n=each)


@runtime_checkable
class LinearProbe(Protocol):
    """What `attribute_to` takes of a probe: logit = mean over tokens of the activation . weight + bias."""

    @property
    def weight(self) -> Float[Tensor, "*f d"]:
        """In units of the raw activation; (f, d) is one for the mean of each latent frame."""
        ...

    @property
    def bias(self) -> float:
        """Added to the mean."""
        ...

    @property
    def reads(self) -> Any:
        """Its `point` is where the probe reads."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """A readout and what it is made of, token by token: readout = constant + sum over tokens of everything else.

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
        """The same with a single token, the sum of all."""
        components = {key: _total(value) for key, value in self.components.items()}
        return Split(self.readout, self.constant, _total(self.embedding), components)

    def dataset(self, steps: tuple[int, ...] | None, grid: TokenGrid | None = None) -> xr.Dataset:
        """`attribution` (step, clip, block, component), `embedding`, `constant`, `readout` and `unexplained`.

        Args:
            steps: of the leading axis, where there is one.
            grid: with one, attribution and embedding are told by frame, row and column.
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

        def told(dims: tuple[str, ...], values: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
            values = values.unflatten(-1, sizes) if place else values.squeeze(-1)
            return (*lead, *dims, *place), _array(values)

        heads = [label.rpartition(".")[2] for label in labels]
        return xr.Dataset(
            {
                "attribution": told(("block", "component"), attribution),
                "embedding": told((), embedding),
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
