"""Numbers by clip as tables over scenes and roles, numbers by cell as grids: labelled arrays for maps and files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int, Num

from dit_lens.probing.checks import shown

Key = tuple[Hashable, ...]


def values_along(keys: Sequence[Key], dims: Sequence[str]) -> dict[str, list[Any]]:
    """The values along each dimension, in the order in which they occur in the keys."""
    return {dim: list(dict.fromkeys(key[i] for key in keys)) for i, dim in enumerate(dims)}


def by_cell(
    keys: Sequence[Key],
    dims: Sequence[str],
    values: Num[np.ndarray, "cell *rest"],
    rest: Mapping[str, Any] | None = None,
) -> Float[xr.DataArray, "*dims *rest"]:
    """One number (or array) per cell on the grid of `dims`; NaN where there is no cell.

    Args:
        values: in the order of the keys.
        rest: the further dimensions, with their coordinates.
    """
    along, rest = values_along(keys, dims), rest or {}
    grid = np.full((*(len(entries) for entries in along.values()), *np.shape(values)[1:]), np.nan)
    for key, value in zip(keys, values, strict=True):
        grid[tuple(entries.index(entry) for entries, entry in zip(along.values(), key, strict=True))] = value
    return xr.DataArray(grid, {**along, **rest}, (*dims, *rest))


def places(clips: pd.DataFrame) -> tuple[Int[np.ndarray, "scene role"], list[Any], list[Any]]:
    """The row of each scene's clip of each role, -1 where there is none; the scenes and the roles.

    Raises:
        ValueError: a scene has two clips of one role.
    """
    scenes, roles = (list(dict.fromkeys(clips[column])) for column in ("scene", "role"))
    scene_at, role_at = ({name: i for i, name in enumerate(names)} for names in (scenes, roles))
    rows = np.full((len(scenes), len(roles)), -1)
    for row, (scene, role) in enumerate(zip(clips.scene, clips.role, strict=True)):
        if rows[scene_at[scene], role_at[role]] >= 0:
            raise ValueError(
                f"got two clips of scene {scene!r} with role {role!r} · expected each role at most once in a scene ·"
                " number the roles, or split the scenes"
            )
        rows[scene_at[scene], role_at[role]] = row
    return rows, scenes, roles


def by_scene(clips: pd.DataFrame, values: Num[np.ndarray, " i"]) -> Float[xr.DataArray, "scene role"]:
    """One number per clip as (scene, role), with the metadata of scenes and clips as coordinates.

    Roles are those that occur in any scene; NaN where a scene has no such clip. `possible` is boolean, or a number
    with NaN where a label is unknown or a clip is missing.

    Raises:
        ValueError: not one number per clip, a scene with two clips of one role, or with several properties.
    """
    if np.shape(values) != (len(clips),):
        raise ValueError(f"got values of shape {np.shape(values)} · expected one for each of the {len(clips)} clips")
    rows, scenes, roles = places(clips)
    laws = clips.groupby("scene", sort=False).property.agg(["first", "nunique"])
    several = laws.index[laws["nunique"] > 1].tolist()
    if several:
        raise ValueError(f"got scenes with several properties ({shown(several)}) · expected one for each scene")
    present = rows >= 0
    labels = np.array([np.nan if label is None else float(label) for label in clips.possible])
    possible = np.where(present, labels[rows], np.nan)
    return xr.DataArray(
        np.where(present, np.asarray(values, dtype=np.float64)[rows], np.nan),
        {
            "scene": scenes,
            "role": roles,
            "property": ("scene", laws["first"].tolist()),
            "group": ("scene", np.array(clips.group.tolist())[rows.max(1)]),
            "possible": (("scene", "role"), possible if np.isnan(possible).any() else possible > 0),
        },
        ("scene", "role"),
    )
