"""Block x frame maps of patched writes: `python -m figures.patch_mlp` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from figures.output import main
from figures.places import by_rows, draw_places


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A row of maps for each layer. Returns the file."""
    return draw_places(result, "patch_mlp", "frame", by_rows(result, "write"), path)


if __name__ == "__main__":
    main("patch_mlp", draw)
