"""All measures of what a probe reads, side by side in a table: of each row the same columns, from the same logits.

The relative measure and the label's share of the variance are one column: neither is shown without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from dit_lens import stats
from dit_lens.measures.columns import number
from dit_lens.measures.labels import SIGNS
from dit_lens.measures.text import interval

MEASURES = stats.MEASURES
HEADS = ("accuracy", "pairwise", "relative; label's share", "d'", "n")
LEGEND = (
    "pairwise: possible above impossible clips of a scene; relative: logits A + B > C + D in crossed scenes; label's"
    " share: of the logits' variance over their clips, beside scenes and halves (1/4 by chance); n: groups of scenes"
)
UNKNOWN = "some clips have no logit"


def of_table(logit: xr.DataArray, label: xr.DataArray | None = None) -> stats.Separation:
    """Every measure of the logits of a result (scene, role), its groups and its crossed scenes.

    Scenes count as crossed where the result says so, in the coordinate `crossed`.

    Args:
        label: 1 or 0 (scene, role), NaN where a clip has none; that of the roles unless given. Clips whose label or
            logit is unknown are left out; of the roles' labels, one unknown logit leaves nothing.
    """
    values = logit.transpose("scene", "role").values
    names = np.asarray(logit.role).astype(str)
    if label is None:
        if np.isnan(values).any():
            return stats.unknown(UNKNOWN)
        truth = np.broadcast_to([float(SIGNS[name] > 0) for name in names], values.shape)
    else:
        truth = label.transpose("scene", "role").values
    crossed = logit["crossed"].values if "crossed" in logit.coords else np.zeros(len(values))
    rows = np.where(np.isnan(values), np.nan, truth)
    known = np.isfinite(rows)
    if not known.any():
        return stats.unknown(UNKNOWN)
    numbered = np.arange(len(values))
    groups = np.unique(logit["group"].values, return_inverse=True)[1] if "group" in logit.coords else numbered
    by_clip = [np.broadcast_to(part[:, None], values.shape)[known] for part in (groups, numbered, crossed.astype(bool))]
    roles = np.where(by_clip[2], np.broadcast_to(names, values.shape)[known], "")
    return stats.separation(values[known], rows[known] > 0.5, by_clip[0], by_clip[1], roles)


def numbers(measured: stats.Separation) -> dict[str, float | str]:
    """The measures as the variables of a dataset, and `absent`: the reasons of those that are not there."""
    return {name: getattr(measured, name) for name in MEASURES} | {"absent": reasons(measured.absent)}


def reasons(absent: Mapping[str, str]) -> str:
    """Such as "relative, label's share: no crossed scene"; empty where nothing is absent."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in absent.items():
        by_reason.setdefault(reason, []).append({"d_prime": "d'", "label_share": "label's share"}.get(name, name))
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def cells(row: xr.Dataset) -> list[str]:
    """The cells of a row under `HEADS`.

    Raises:
        ValueError: it has the relative measure without the label's share, or the share alone.
    """
    relative, share = float(row.relative), float(row.label_share)
    if np.isnan(relative) != np.isnan(share):
        raise ValueError(
            f"got relative {relative:.3f} and label's share {share:.3f} · expected both or neither · score the logits"
            " with side_by_side.of_table"
        )
    both = "-" if np.isnan(relative) else f"{_ends(row, 'relative')}; {_ends(row, 'label_share')}"
    finite = np.isfinite(float(row.d_prime_low))  # infinite where all scenes are alike
    d_prime = _ends(row, "d_prime", signed=True, digits=2) if finite else number(row.d_prime, "+.2f")
    accuracy = interval(row.accuracy, row.low, row.high)
    return [accuracy, _ends(row, "pairwise"), both, d_prime, number(row.groups, ".0f")]


def _ends(row: xr.Dataset, name: str, signed: bool = False, digits: int = 3) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], signed, digits)


def notes(scores: xr.Dataset) -> list[str]:
    """Lines that say what is absent in the rows of a table, and why; each reason once."""
    said: Iterable[str] = dict.fromkeys(str(text) for text in np.ravel(scores["absent"].values) if str(text))
    return [f"-: {text}" for text in said]
