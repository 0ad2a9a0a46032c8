"""Block x frame maps of patched streams: `python -m figures.patch_residual` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from analyses.patch_residual import by_sharing
from dit_lens import results
from figures.places import draw_places

TABLE = Path("figures/data/patch_residual.nc")


def draw(result: xr.Dataset) -> Path:
    """Maps of frames that a pair shares, in which it differs, and where an object is hidden. Returns the file."""
    return draw_places(result, "patch_residual", "frame", by_sharing(result))


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
