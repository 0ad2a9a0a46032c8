"""What patching, ablation and attribution have in common: the way to noise, and a frozen probe at a chosen block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import xarray as xr

from dit_lens.capture import Route, capture_pooled
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads, out_of_fold_logits

SCENES = 10


class Asked(Protocol):
    """The options that a probe's fit takes."""

    @property
    def path(self) -> Literal["continuation", "inversion", "noising"]: ...  # noqa: D102
    @property
    def steps(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def levels(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def route(config: Asked) -> Route:
    """The way to noise that was asked for."""
    return Route(config.path, config.levels, "euler", config.seed)


def cross_validate(lens: DiTLens, config: Asked, train: Sequence[Quadruplet]) -> tuple[xr.DataArray, xr.DataArray]:
    """Out-of-fold accuracy (step, block) on training scenes, and the pooled activations it was fitted on."""
    seen = capture_pooled(
        lens, train, config.steps, route(config), pooling="frames", batch_size=config.batch_size,
        progress=f"{lens.name}, probe",
    )  # fmt: skip
    possible, groups = seen.possible.values.ravel(), np.repeat(seen.quadruplet.values, len(ROLES))
    accuracy = xr.zeros_like(seen.activation[0, 0, :, :, 0], dtype=float).drop_vars(["quadruplet", "role", "property"])
    for cell in np.ndindex(accuracy.shape):
        logits = out_of_fold_logits(_rows(seen.activation[:, :, *cell]), possible, groups)
        accuracy[cell] = ((logits > 0) == possible).mean()
    return accuracy.drop_vars("possible"), seen.activation


def fit_probe(cells: xr.DataArray, step: int, block: int, model: str) -> Probe:
    """The probe of one cell, fitted on all training scenes."""
    cell = cells.sel(step=step, block=block)
    groups = np.repeat(cells.quadruplet.values, len(ROLES))
    reads = Reads(f"blocks.{block}.hook_resid_post", step, float(cell.sigma), model)
    return Probe.fit(_rows(cell), cells.possible.values.ravel(), groups, reads, cells.attrs["parts"])


def _rows(cell: xr.DataArray) -> np.ndarray:
    return cell.values.reshape(-1, cell.sizes["feature"])


def halves(result: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The test scenes in two halves with the same properties: one to rank heads on, one to report."""
    turn = np.zeros(result.sizes["quadruplet"], dtype=bool)
    for prop in np.unique(result.property):
        turn[np.flatnonzero(result.property.values == prop)[::2]] = True
    return result.isel(quadruplet=turn), result.isel(quadruplet=~turn)
