"""Maps of patched parts of heads: `python -m figures.patch_attention` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from dit_lens import results
from figures.places import by_rows, draw_places

TABLE = Path("figures/data/patch_attention.nc")


def draw(result: xr.Dataset) -> Path:
    """A row of maps for each part. Returns the file."""
    return draw_places(result, "patch_attention", "head", by_rows(result, "part"))


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
