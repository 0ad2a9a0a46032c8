"""Numbers as text: intervals, p-values and results of control models for tables and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.measures.labels import mean_interval

LABEL_EFFECT = "label effect (possible minus impossible clips, averaged over the pairs of a scene)"


def interval(estimate: Any, low: Any, high: Any, signed: bool = False, digits: int = 3) -> str:
    """Such as "0.608 [0.585, 0.632]", or "+0.21 [+0.10, +0.33]" where signs matter; "-" where there is none."""
    form = f"{'+' if signed else ''}.{digits}f"
    if not np.isfinite(float(estimate)):
        return "-"
    if not np.isfinite(float(low)):
        return f"{float(estimate):{form}} [one scene]"
    return f"{float(estimate):{form}} [{float(low):{form}}, {float(high):{form}}]"


def signed_mean(values: xr.DataArray, digits: int = 3) -> str:
    """Mean over scenes with its interval and sign, such as "+0.21 [+0.10, +0.33]"."""
    return interval(*mean_interval(values), signed=True, digits=digits)


def p_value(p: Any) -> str:
    """Such as "p = 0.012", or "p < 0.001"."""
    p = float(p)
    return "p unknown" if np.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(items: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def in_controls(results: Mapping[str, str]) -> str:
    """The sentence on the control models: the result of each, by name."""
    if not results:
        return "No control model was run."
    return f"In the control models: {'; '.join(f'{name} {statement}' for name, statement in results.items())}."
