"""Tables over the four clips of a quadruplet: what of a value follows the label, and what the content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens import stats
from dit_lens.clips import ROLES, Quadruplet


def by_role(told: xr.Dataset, batch: Sequence[Quadruplet]) -> xr.Dataset:
    """A table over role-major clips as one over (role, quadruplet)."""
    ids = [quadruplet.id for quadruplet in batch]
    roles = np.repeat(ROLES, len(ids))
    told = told.assign_coords(role=("clip", roles), quadruplet=("clip", ids * len(ROLES)))
    told = told.set_index(clip=["role", "quadruplet"]).unstack("clip").sel(role=list(ROLES), quadruplet=ids)
    return told.assign_coords(property=("quadruplet", [quadruplet.property for quadruplet in batch]))


def contrast(values: xr.DataArray, spread: xr.DataArray) -> xr.DataArray:
    """(A + B - C - D) / 2 in probe SDs, role gone."""
    first, *rest = ("quadruplet", "role", *(dim for dim in values.dims if dim not in ("quadruplet", "role")))
    ordered = values.transpose(first, *rest)
    return ordered.isel(role=0, drop=True).copy(data=stats.interaction(ordered.values)) / spread


def content(values: xr.DataArray, spread: xr.DataArray) -> xr.DataArray:
    """Root mean square over quadruplets of what the first half and the second, each alone, make of it, in SDs."""
    a, b, c, d = (values.sel(role=role, drop=True) for role in ROLES)
    first, second = (a + c - b - d) / 2, (a + d - b - c) / 2
    return ((first**2 + second**2) / 2).mean("quadruplet") ** 0.5 / spread
