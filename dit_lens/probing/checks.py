"""Checks before a probe is fitted: labels, finite features, the table of clips, and enough groups."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Num, Shaped

COLUMNS = ("id", "scene", "group", "role", "property", "possible")
SHOWN = 5  # as many names as a message lists
LARGEST = 1e18  # squares of what is larger overflow float32, in which some probes are trained


def shown(names: Sequence[object]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def known_or_none(labels: Any) -> list[bool | None]:
    """Labels as True, False, or None where unknown.

    Raises:
        ValueError: a label that is neither a boolean, nor the integer 0 or 1, nor None.
    """
    values = [_plain(value) for value in np.asarray(labels, dtype=object).ravel().tolist()]
    wrong = [value for value in values if not (value is None or _is_label(value))]
    if wrong:
        kinds = list(dict.fromkeys(map(repr, wrong)))
        raise ValueError(
            f"got labels {shown(kinds)} · expected True, False, 0, 1, or None where unknown · convert them to booleans,"
            " for example values == 'possible'"
        )
    return [None if value is None else bool(value) for value in values]


def check_labels(possible: Any) -> Bool[np.ndarray, " i"]:
    """The labels as booleans.

    Args:
        possible: (i,) booleans or integers 0 and 1; None where unknown.

    Raises:
        ValueError: an unknown label, a single class, or a label that is no boolean (see `known_or_none`).
    """
    values = known_or_none(possible)
    unknown = sum(value is None for value in values)
    if unknown or len(set(values)) < 2:
        raise ValueError(
            f"got {unknown} clips without a label and classes {sorted(set(map(str, values)))} · expected possible and"
            " impossible clips · leave out clips whose label is unknown"
        )
    return np.array(values, dtype=bool)


def check_features(
    cells: Mapping[Hashable, Any],
    ids: Sequence[object] | None = None,
    axes: Sequence[str] = ("clips", "features"),
) -> None:
    """Refuses features that are not a table of real, finite numbers with one row per clip.

    Args:
        cells: key -> (i, ...) features.
        ids: (i,) names of the clips; their row numbers without.
        axes: names of the dimensions of a cell.

    Raises:
        ValueError: another type or shape, other numbers of clips, or non-finite features, by cell and clip.
    """
    for key, values in cells.items():
        real = isinstance(values, np.ndarray) and values.dtype.kind in "fiu"
        if not real or values.ndim != len(axes) or not values.size:
            kind = f"{type(values).__name__} of shape {tuple(getattr(values, 'shape', ()))}"
            dtype = f" and dtype {values.dtype}" if hasattr(values, "dtype") else ""
            raise ValueError(
                f"got {kind}{dtype} in cell {key!r} · expected a real numpy array ({', '.join(axes)}) without empty"
                f" axes · {'capture without pooling' if 'tokens' in axes else 'average over tokens'} and call"
                " .float().numpy()"
            )
    counts = {len(values) for values in cells.values()} | ({len(ids)} if ids is not None else set())
    if len(counts) > 1:
        rows = [f"{len(values)} rows in cell {key!r}" for key, values in cells.items()]
        table = f" and {len(ids)} clips in the table" if ids is not None else ""
        raise ValueError(f"got {shown(rows)}{table} · expected one row per clip · select the clips that all cells have")
    for key, values in cells.items():
        check_finite(key, values, ids)


def check_finite(key: Hashable, values: Num[np.ndarray, "i ..."], ids: Sequence[object] | None = None) -> None:
    """Refuses NaN, infinity, and numbers whose square is infinite.

    Raises:
        ValueError: non-finite features, by cell and clip.
    """
    if values.dtype.kind != "f":
        return
    bad = ~(np.abs(values) <= min(LARGEST, float(np.finfo(values.dtype).max)))  # NaN compares false
    rows = np.flatnonzero(bad.any(tuple(range(1, values.ndim)))).tolist()
    if rows:
        names = [row if ids is None else ids[row] for row in rows]
        raise ValueError(
            f"got non-finite features in cell {key!r} for {len(rows)} of {len(values)} clips ({shown(names)}) ·"
            f" expected numbers below {LARGEST:g} in absolute value · capture these clips again (in float32 or"
            " bfloat16), or leave them out"
        )


def check_rows(**parts: Any) -> None:
    """Refuses arrays of different numbers of clips.

    Raises:
        ValueError: with the number of each.
    """
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(
            f"got {listed} · expected one of each for every clip · select the clips for which all are known"
        )


def check_strengths(strengths: Sequence[float]) -> None:
    """Refuses inverse penalties that are not positive numbers.

    Raises:
        ValueError: no strength, or one that is not positive and finite.
    """
    wrong = [strength for strength in strengths if not 0 < strength < np.inf]
    if wrong or not len(strengths):
        raise ValueError(
            f"got strengths {tuple(strengths)} · expected one or more positive numbers · a strength is the inverse of"
            " the penalty (C in scikit-learn)"
        )


def check_logits(logits: Float[np.ndarray, "..."]) -> None:
    """Refuses NaN log odds, which are neither above 0 nor below.

    Raises:
        ValueError: with how many there are.
    """
    count = int(np.isnan(logits).sum())
    if count:
        raise ValueError(
            f"got NaN for {count} of {np.size(logits)} log odds · expected numbers · leave these clips out, or find the"
            " cause of the NaN"
        )


def check_groups(groups: Shaped[np.ndarray, " i"], folds: int) -> None:
    """Refuses clips without a group, and fewer groups than folds.

    Raises:
        ValueError: a clip without a group, fewer than two folds, or fewer groups than folds.
    """
    lacking = np.flatnonzero(pd.isna(groups)).tolist()
    if lacking:
        raise ValueError(
            f"got {len(lacking)} of {len(groups)} clips without a group (rows {shown(lacking)}) · expected one for"
            " every clip · give a clip without relatives a group of its own"
        )
    if folds < 2:
        raise ValueError(
            f"got {folds} folds · expected at least 2, because a clip is scored by a probe fitted on other folds · pass"
            " folds=5"
        )
    count = len(np.unique(groups))
    if count < folds:
        raise ValueError(
            f"got {count} groups · expected at least {folds} groups, one for each fold · pass more scenes, or use fewer"
            " folds"
        )


def check_classes(targets: Num[np.ndarray, "n *t"] | Bool[np.ndarray, "n *t"]) -> None:
    """Refuses training labels of a single class.

    Raises:
        ValueError: with how many labellings have one.
    """
    wide = targets.reshape(len(targets), -1)
    single = int((wide.min(0) == wide.max(0)).sum()) if len(wide) else wide.shape[1]
    if single:
        raise ValueError(
            f"got {single} labellings of {wide.shape[1]} with a single class among {len(wide)} training clips ·"
            " expected both classes in every fold · use fewer folds, or groups that contain both classes"
        )


def check_clips(clips: pd.DataFrame) -> pd.DataFrame:
    """The table of clips with rows numbered from 0 and labels as True, False or None.

    Raises:
        ValueError: a column is missing, ids occur twice, a clip has no scene or group, or a scene is in two groups.
    """
    missing = [column for column in COLUMNS if column not in clips.columns]
    if missing or not len(clips):
        raise ValueError(
            f"got a table of {len(clips)} clips without columns {missing} · expected at least one clip and the columns"
            f" {', '.join(COLUMNS)} · Features.of_arrays makes the table from labels and groups"
        )
    clips = clips.reset_index(drop=True)
    twice = clips.id[clips.id.duplicated()].unique().tolist()
    if twice:
        raise ValueError(
            f"got {len(twice)} clip ids that occur more than once ({shown(twice)}) · expected one row per clip · prefix"
            " the ids if the same clips were read twice: clips.assign(id='seed 1/' + clips.id)"
        )
    lacking = clips.id[clips[["scene", "group"]].isna().any(axis=1)].tolist()
    if lacking:
        raise ValueError(
            f"got {len(lacking)} clips without scene or group ({shown(lacking)}) · expected both for every clip · give"
            " a clip without relatives a scene and a group of its own"
        )
    groups = clips.groupby("scene", sort=False).group.nunique()
    split = groups.index[groups > 1].tolist()
    if split:
        raise ValueError(
            f"got {len(split)} scenes whose clips are in several groups ({shown(split)}) · expected every scene within"
            " one group, or it would be on both sides of a split · use the scene, or a larger unit, as the group"
        )
    return clips.assign(possible=pd.Series(known_or_none(clips.possible), dtype=object))


def check_cells(
    cells: Mapping[Hashable, np.ndarray], dims: Sequence[str], ids: Sequence[object]
) -> dict[Hashable, np.ndarray]:
    """Cells as a dict, each of (i, d) finite numbers, one row per clip.

    Raises:
        ValueError: no cells, keys that do not go along `dims`, another shape, or non-finite features.
    """
    keys = [key for key in cells if not (isinstance(key, tuple) and len(key) == len(dims))]
    if keys or not cells:
        raise ValueError(
            f"got {len(cells)} cells, of which {len(keys)} have a key like {keys[0]!r} · expected tuples along"
            f" {tuple(dims)} · name the dimensions of the keys: dims=(...)"
            if keys
            else f"got no cells · expected features by {tuple(dims)} · pass at least one"
        )
    check_features(cells, ids)
    return dict(cells)


def _is_label(value: object) -> bool:
    return isinstance(value, bool | int) and value in (0, 1)


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as a Python number."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
