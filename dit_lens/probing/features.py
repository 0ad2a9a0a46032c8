"""Features of clips by cell: the output of every reader, the input of probes, grids, controls and transfer."""

from __future__ import annotations

import itertools
import string
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int, Num, Shaped

from dit_lens.probing.checks import check_cells, check_clips, check_labels, known_or_none, shown
from dit_lens.probing.linear import Reads
from dit_lens.probing.tables import Key, by_cell, by_scene, places, values_along


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Features of clips by cell, with the metadata of each clip.

    A lens on a path gives cells (step, block) or (block, head), an encoder (layer,), pixels a single one.

    Attributes:
        cells: key -> (clip, feature); a key is a tuple along `dims`, and widths may differ between cells.
        clips: a row per clip, in the order of the features. `id` is unique; `scene` names the clips that are compared
            with each other; `group` is one independent observation, on one side of every split, and holds whole
            scenes; `role` is "A", "B" (possible), "C", "D" (impossible), or a data set's word; `property` the law
            tested; `possible` is True, False, or None where unknown; `crossed`, which may be missing, whether the
            scene is crossed. Further columns are kept.
        dims: names of the entries of a key.
        parts: how many means by latent frame lie side by side in a feature vector; 1 is one mean over all tokens.
        point: template of the hook point, such as "blocks.{block}.hook_resid_post"; "" for what is no activation.
        sigmas: noise level by step, where there are steps.
        name: the reader that computed the features.

    Raises:
        ValueError: see `checks.check_clips` and `checks.check_cells`; a point that names a dimension not in `dims`;
            widths that `parts` does not divide.
    """

    cells: Mapping[Any, Num[np.ndarray, "i d"]]
    clips: pd.DataFrame
    dims: tuple[str, ...] = ("step", "block")
    parts: int = 1
    point: str = ""
    sigmas: Mapping[int, float] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        clips = check_clips(self.clips)
        object.__setattr__(self, "clips", clips)
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "cells", check_cells(self.cells, self.dims, clips.id.tolist()))
        unknown = _named(self.point) - set(self.dims)
        uneven = [key for key, x in self.cells.items() if self.parts < 1 or x.shape[1] % self.parts]
        if unknown or uneven:
            raise ValueError(
                f"got point {self.point!r} and {self.parts} parts for features by {self.dims} of widths {self.widths}"
                " · expected a point that names these dimensions, and widths that are a multiple of the parts"
                " · parts is the number of latent frames whose means lie side by side"
            )

    @classmethod
    def of_arrays(
        cls,
        cells: Mapping[Any, Num[np.ndarray, "i d"]],
        labels: Any,
        groups: Shaped[np.ndarray, " i"],
        dims: Sequence[str] = ("step", "block"),
        properties: Shaped[np.ndarray, " i"] | None = None,
        name: str = "",
    ) -> Features:
        """Features from plain arrays; each group is one scene, and roles count its clips.

        Args:
            cells: key -> (i, d); with a single dimension a key may be bare: {"pixels": x}, dims=("layer",).
            labels: (i,) True, False, or None where unknown.
            groups: (i,) which clips stay on one side of every split.
            properties: (i,) what each clip violates or would violate.
        """
        group = pd.Series(groups)
        place = group.groupby(group).cumcount().astype(str)
        clips = pd.DataFrame(
            {
                "id": group.astype(str) + "/" + place,
                "scene": group,
                "group": group,
                "role": place,
                "property": "" if properties is None else properties,
                "possible": pd.Series(known_or_none(labels), dtype=object),
            }
        )
        keyed = {key if isinstance(key, tuple) or len(dims) > 1 else (key,): x for key, x in cells.items()}
        return cls(keyed, clips, tuple(dims), name=name)

    @classmethod
    def concat(cls, parts: Sequence[Features]) -> Features:
        """The clips of several features, one after the other; cells, dimensions and point must be the same.

        Raises:
            ValueError: nothing to join, other cells or widths, another reading, or clip ids that occur twice.
        """
        if not parts:
            raise ValueError("got no features · expected at least one to join · capture some clips")
        first = parts[0]
        for part in parts[1:]:
            first.check_like(part, first.cells)
        clips = pd.concat([part.clips for part in parts], ignore_index=True)
        cells = {key: np.concatenate([part.cells[key] for part in parts]) for key in first.cells}
        name = " + ".join(dict.fromkeys(part.name for part in parts if part.name))
        return replace(first, cells=cells, clips=clips, name=name)

    @property
    def labels(self) -> Bool[np.ndarray, " i"]:
        """Which clips are possible.

        Raises:
            ValueError: a label is unknown (see `labelled`), or there is a single class.
        """
        return check_labels(self.clips.possible)

    @property
    def groups(self) -> Shaped[np.ndarray, " i"]:
        """The group of each clip, which stays on one side of every split."""
        return np.array(self.clips.group.tolist())

    @property
    def scenes(self) -> Shaped[np.ndarray, " i"]:
        """The scene of each clip; clips of one scene are compared with each other."""
        return np.array(self.clips.scene.tolist())

    @property
    def crossed_roles(self) -> Shaped[np.ndarray, " i"] | None:
        """The role of each clip of a crossed scene, "" elsewhere; None where it is unknown which scenes are crossed."""
        if "crossed" not in self.clips:
            return None
        return np.where(self.clips.crossed.to_numpy(dtype=bool), self.clips.role.astype(str), "")

    @property
    def properties(self) -> Shaped[np.ndarray, " i"]:
        """The property (physical law) of each clip."""
        return np.array(self.clips.property.tolist())

    @property
    def widths(self) -> dict[Key, int]:
        """Number of features by cell."""
        return {key: x.shape[1] for key, x in self.cells.items()}

    @property
    def coordinates(self) -> dict[str, list[Any]]:
        """The values along each dimension, in the order in which they occur."""
        return values_along(list(self.cells), self.dims)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def __repr__(self) -> str:
        along = " x ".join(f"{len(values)} {dim}" for dim, values in self.coordinates.items())
        widths = sorted(set(self.widths.values()))
        return (
            f"Features({self.name!r}: {len(self)} clips in {len(np.unique(self.groups))} groups,"
            f" {len(self.cells)} cells ({along}), {widths[0]}{f' to {widths[-1]}' if len(widths) > 1 else ''} features)"
        )

    def at(self, rows: Int[np.ndarray, " j"] | Bool[np.ndarray, " i"] | Sequence[int]) -> Features:
        """Some of the clips, by number or by mask."""
        chosen = np.arange(len(self))[np.asarray(rows)] if len(rows) else np.arange(0)
        return replace(self, cells={key: x[chosen] for key, x in self.cells.items()}, clips=self.clips.iloc[chosen])

    def where(self, **columns: Any) -> Features:
        """The clips whose columns have a value, or one of several: `where(property="gravity", role=("A", "C"))`.

        Raises:
            ValueError: an unknown column, or no such clip.
        """
        mask = np.ones(len(self), dtype=bool)
        for column, values in columns.items():
            if column not in self.clips.columns:
                raise ValueError(f"got column {column!r} · expected one of {', '.join(self.clips.columns)}")
            mask &= self.clips[column].isin(_several(values)).to_numpy(dtype=bool)
        if not mask.any():
            present = {column: self.clips[column].unique().tolist() for column in columns}
            raise ValueError(f"got {columns}, which no clip has · expected values among {present}")
        return self.at(mask)

    def labelled(self) -> Features:
        """The clips whose label is known.

        Raises:
            ValueError: there is none.
        """
        return self.where(possible=(True, False))

    def cell(self, *key: Hashable) -> Num[np.ndarray, "i d"]:
        """The features of one cell.

        Raises:
            ValueError: there is no such cell.
        """
        return self.cells[self.check_key(key)]

    def check_key(self, key: Any) -> Key:
        """The key of a cell as a tuple; with a single dimension it may be bare.

        Raises:
            ValueError: there is no such cell.
        """
        full_key = key if isinstance(key, tuple) else (key,)
        if full_key not in self.cells:
            raise ValueError(
                f"got cell {full_key!r} · expected a key along {self.dims}, with values {self.coordinates} · capture"
                " the clips at this cell too"
            )
        return full_key

    def select(self, **values: Any) -> Features:
        """The cells with a value along a dimension, or one of several: `select(step=14, block=range(4, 8))`.

        Raises:
            ValueError: an unknown dimension, or values that no cell has.
        """
        cells = dict(self.cells)
        for dim, selection in values.items():
            if dim not in self.dims:
                raise ValueError(f"got dimension {dim!r} · expected one of {', '.join(self.dims)}")
            at, several = self.dims.index(dim), _several(selection)
            missing = [value for value in several if value not in self.coordinates[dim]]
            if missing:
                raise ValueError(f"got {dim} {shown(missing)} · expected values among {self.coordinates[dim]}")
            cells = {key: x for key, x in cells.items() if key[at] in several}
        if not cells:
            raise ValueError(f"got {values}, which no cell has · expected keys among {list(self.cells)}")
        steps = {key[self.dims.index("step")] for key in cells} if "step" in self.dims else set(self.sigmas)
        return replace(self, cells=cells, sigmas={step: s for step, s in self.sigmas.items() if step in steps})

    def joined(self, count: int, dim: str = "block") -> Features:
        """Cells of `count` consecutive values along a dimension side by side, each named by the last of them.

        Three blocks 0, 1, 2 with a count of 2 give the cells 1 (of 0 and 1) and 2 (of 1 and 2). A probe of them reads
        no single hook point.

        Raises:
            ValueError: an unknown dimension, or fewer values along it than are joined.
        """
        values = self.coordinates.get(dim, [])
        if not 0 < count <= len(values):
            raise ValueError(
                f"got {count} values of {dim} to join · expected 1 to {len(values)}, along {' or '.join(self.dims)}"
            )
        if count == 1:
            return self
        at, cells = self.dims.index(dim), {}
        for key in self.cells:
            place = values.index(key[at])
            keys = [(*key[:at], value, *key[at + 1 :]) for value in values[max(0, place - count + 1) : place + 1]]
            if len(keys) == count and all(k in self.cells for k in keys):
                cells[key] = np.concatenate([self.cells[k] for k in keys], axis=1)
        return replace(self, cells=cells, parts=count * self.parts, point="")

    def renamed(self, name: str) -> Features:
        """The same features by another name."""
        return replace(self, name=name)

    def check_like(self, other: Features, keys: Any) -> None:
        """Refuses features that were not read in the same way as these, at the given cells.

        Raises:
            ValueError: cells are missing or of another width, or dimensions, parts or hook points differ.
        """
        widths, other_widths = ({key: part.widths.get(key) for key in keys} for part in (self, other))
        reading, other_reading = ((part.dims, part.parts, part.point) for part in (self, other))
        if widths != other_widths or reading != other_reading:
            wrong = [
                f"{key!r}: {other_widths[key]} instead of {widths[key]}"
                for key in widths
                if widths[key] != other_widths[key]
            ]
            raise ValueError(
                f"got {other_reading} with {len(wrong)} cells of other widths ({shown(wrong)}) · expected {reading}"
                f" (dims, parts, point) and the widths of {self.name or 'the training clips'} · capture both with the"
                " same model and pooling"
            )

    def reads(self, *key: Hashable) -> Reads | None:
        """The hook point and step that a probe of a cell reads; None if not a whole activation, or step unknown."""
        at = dict(zip(self.dims, self.check_key(key), strict=True))
        steps = [at["step"]] if "step" in at else list(self.sigmas)
        if not self.point or at.keys() - {"step"} - _named(self.point) or len(steps) != 1:
            return None
        step = int(str(steps[0]))
        return Reads(self.point.format(**at), step, float(self.sigmas.get(step, np.nan)), self.name)

    def over_cells(
        self, values: Num[np.ndarray, "cell *rest"], rest: Mapping[str, Any] | None = None
    ) -> Float[xr.DataArray, "*dims *rest"]:
        """One number (or array) per cell, in the order of the cells, on the grid of `dims`; NaN where there is no cell.

        Args:
            rest: the further dimensions, with their coordinates.
        """
        result = by_cell(list(self.cells), self.dims, values, rest)
        if "step" not in self.dims or not self.sigmas:
            return result
        return result.assign_coords(sigma=("step", [self.sigmas.get(s, np.nan) for s in self.coordinates["step"]]))

    def table(self, values: Num[np.ndarray, " i"] | xr.DataArray) -> Float[xr.DataArray, "scene role"]:
        """One number per clip as (scene, role), with property, group and possible as coordinates.

        Roles are those that occur in any scene; NaN where a scene has no such clip.

        Raises:
            ValueError: see `tables.by_scene`.
        """
        return by_scene(self.clips, np.asarray(values)).rename(self.name or None)

    def to_array(self) -> Num[xr.DataArray, "scene role *dims feature"]:
        """All features as one array, with the coordinates of `table` and the attribute `parts`.

        Raises:
            ValueError: scenes of different roles, cells of different widths, or a grid with missing cells.
        """
        rows, widths = places(self.clips)[0], sorted(set(self.widths.values()))
        keys = list(itertools.product(*self.coordinates.values()))
        lacking, missing = int((rows < 0).any(1).sum()), len(keys) - len(self.cells)
        if lacking or missing or len(widths) > 1:
            raise ValueError(
                f"got {lacking} scenes without some role, {missing} missing cells and features of widths {widths} ·"
                " expected the same roles in all scenes, a full grid and one width · narrow them with where(...) and"
                " select(...)"
            )
        grid = self.over_cells(np.zeros(len(keys)))
        values = np.stack([self.cells[key] for key in keys], axis=1)[rows]
        return xr.DataArray(
            values.reshape(*rows.shape, *grid.shape, widths[0]),
            {**self.table(np.zeros(len(self))).coords, **grid.coords},
            ("scene", "role", *self.dims, "feature"),
            self.name or None,
            {"parts": self.parts},
        )


def _named(template: str) -> set[str]:
    """The names in the braces of a template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _several(values: Any) -> list[Any]:
    """One value or a collection of values as a list."""
    return [values] if isinstance(values, str) or not hasattr(values, "__iter__") else list(values)
