"""Selection of scenes: all that can be pooled, and those of each property."""

from __future__ import annotations

import numpy as np
import xarray as xr

ALL = "all"


def crossed(result: xr.Dataset | xr.DataArray) -> np.ndarray:
    """Which scenes are crossed (scene); all where the result does not say."""
    if "crossed" not in result.coords and not (isinstance(result, xr.Dataset) and "crossed" in result):
        return np.ones(result.sizes["scene"], dtype=bool)
    return np.asarray(result["crossed"], dtype=bool)


def pooled(result: xr.Dataset | xr.DataArray) -> np.ndarray:
    """Which scenes are pooled as "all" (scene): the crossed ones, or every scene where none is crossed."""
    chosen = crossed(result)
    return chosen if chosen.any() else np.ones_like(chosen)


def pool_name(result: xr.Dataset | xr.DataArray) -> str:
    """The name of the pooled scenes in a sentence: "crossed scenes" or "scenes"."""
    return "crossed scenes" if crossed(result).any() and "crossed" in result.coords else "scenes"


def counted(result: xr.Dataset | xr.DataArray, kind: str = "test scenes") -> str:
    """How many scenes, and groups of them where these are fewer: "22 test scenes in 11 groups"."""
    scenes = result.sizes["scene"]
    groups = len(np.unique(result["group"])) if "group" in result.coords else scenes
    return f"{scenes} {kind}" + (f" in {groups} groups" if groups < scenes else "")


def properties(result: xr.Dataset | xr.DataArray) -> list[str]:
    """The properties of the scenes, in the order in which they occur; none where the result does not say."""
    return [str(p) for p in dict.fromkeys(result["property"].values)] if "property" in result.coords else []


def by_property(result: xr.Dataset | xr.DataArray, least: int = 1) -> dict[str, np.ndarray]:
    """Indices of the pooled scenes ("all"), and of the scenes of each property of which there are at least `least`."""
    rows = {ALL: np.flatnonzero(pooled(result))}
    for name in properties(result):
        chosen = np.flatnonzero(result["property"].values == name)
        if len(chosen) >= least:
            rows[name] = chosen
    return rows
