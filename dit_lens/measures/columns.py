"""Tables as text: rows of cells, in columns as wide as their widest cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def aligned(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Lines of text, one for each row; rows may end early."""
    count = max(map(len, rows), default=0)
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(count)]
    return [
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]


def number(value: Any, form: str = ".3f") -> str:
    """A number as text; "-" where there is none."""
    return format(float(value), form) if not np.isnan(float(value)) else "-"
