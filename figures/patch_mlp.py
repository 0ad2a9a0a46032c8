"""Block x frame maps of patched writes: `python -m figures.patch_mlp` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from dit_lens import results
from figures.places import by_rows, draw_places

TABLE = Path("figures/data/patch_mlp.nc")


def draw(result: xr.Dataset) -> Path:
    """A row of maps for each layer. Returns the file."""
    return draw_places(result, "patch_mlp", "frame", by_rows(result, "write"))


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
